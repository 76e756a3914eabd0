"""The tasks of `tests/support/lm_eval_tasks`, their values in the harness, and what stock lm-eval gives for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from checkout import ROOT
from roles import in_order

from harness.conditions.conditions import BASELINE, Condition
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import under
from harness.model.model import Model
from harness.plugin import Metric, Task
from harness.plugin.catalogue import catalogue
from harness.plugin.specs import parse_spec

TASKS = ROOT / "tests" / "support" / "lm_eval_tasks"


def lm_eval_task(*names: str, **params: Any) -> Any:
    return catalogue().build(
        Task,
        parse_spec({"name": "lm_eval", "tasks": list(names), "include_path": str(TASKS), **params}, "--task"),
        "--task",
    )


def values(
    task: Any, model: Model, conditions: Sequence[Condition], engine: type = ClosedFormEngine
) -> list[dict[str, float]]:
    """Every metric by name, for each condition."""
    made = engine(model, 16)
    prepared = task.prepare(made, None, 0)
    outcomes = task.observe(made, prepared.prompts, in_order(conditions))
    found = catalogue().build(Metric, parse_spec("lm_eval", "--metric"), "--metric").measure(outcomes)
    return [{x.name: float(x.values[c]) for x in found.measures} for c in range(len(conditions))]


def stock(model: Model, names: Sequence[str], condition: Condition = BASELINE, **options: Any) -> dict[str, float]:
    """What lm-eval itself gives, with hooks on the model."""
    import copy

    import lm_eval
    from harness_plugins.lm_eval_tasks.task_manager import quiet
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with quiet(), under(model, condition):
        found = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model.hf, tokenizer=copy.deepcopy(model.tokenizer), batch_size=5),
            tasks=list(names),
            task_manager=TaskManager(include_path=str(TASKS), include_defaults=False),
            bootstrap_iters=0,
            **options,
        )
    return {
        f"{name}.{key}".removesuffix(",none"): value
        for name, row in found["results"].items()
        for key, value in row.items()
        if "," in key and "_stderr" not in key
    }


def same(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert len(theirs) >= 3
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name
