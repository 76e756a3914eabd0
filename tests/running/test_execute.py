"""Runs on the same prompts share the model's work, and each leaves what it would leave if it were made alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from commands import files
from small_runs import Silent, spec

from harness.errors import HarnessError
from harness.plugin.catalogue import catalogue
from harness.plugin.specs import parse_spec
from harness.running.execute import execute, execute_together, grouped_by_prompts, plan
from harness.running.spec import RunSpec

pytestmark = pytest.mark.usefixtures("blank_figures")

Harness = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def specs(small_facts: Path) -> list[RunSpec]:
    return [
        spec("mean", small_facts),
        spec("zero", small_facts, intervention="zero"),
        spec("fewer", small_facts, selector="entropy:top=3", controls=3),
    ]


@pytest.mark.slow
def test_runs_that_are_made_together_are_those_that_are_made_alone(specs: list[RunSpec], tmp_path: Path) -> None:
    plans = [plan(x, catalogue()) for x in specs]
    assert grouped_by_prompts(plans) == [plans]
    observe, calls = type(plans[0].task).observe, []

    def counted(self: object, engine: object, prompts: object, conditions: list[object], *rest: object) -> object:
        calls.append(len(conditions))
        return observe(self, engine, prompts, conditions, *rest)  # type: ignore[arg-type]

    with patch.object(type(plans[0].task), "observe", counted):
        shared = execute_together(plans, tmp_path / "together", Silent(), "test")  # type: ignore[arg-type]
    assert calls == [1 + 3 + 5 + 5 + 3]  # one untouched model for the three of them
    for one, found in zip(plans, shared, strict=True):
        alone = execute(one, tmp_path / "alone", Silent(), "test")  # type: ignore[arg-type]
        assert alone.record.run_id == found.record.run_id
        both = files(alone.path), files(found.path)
        assert both[0].keys() == both[1].keys()
        for name in set(both[0]) - {"provenance.json", "report.html"}:  # the page shows the provenance
            assert both[0][name] == both[1][name], (one.spec.name, name)


def test_what_differs_in_its_prompts_is_made_apart(small_facts: Path) -> None:
    specs = [
        spec("a", small_facts),
        spec("b", small_facts, limit=10),
        spec("c", small_facts, seed=1),
        spec("d", small_facts, intervention="zero"),
        spec("e", small_facts, engine="hooks"),
    ]
    groups = grouped_by_prompts([plan(x, catalogue()) for x in specs])
    assert [[x.spec.name for x in group] for group in groups] == [["a", "d"], ["b"], ["c"], ["e"]]


def test_which_of_them_is_refused_is_said_before_anything_is_made(specs: list[RunSpec], tmp_path: Path) -> None:
    selector = parse_spec("entropy:top=500,rule=tighidet2025", "--selector")
    strict = specs[0].model_copy(update={"name": "strict", "selector": selector})
    plans = [plan(x, catalogue()) for x in (specs[0], strict)]
    with pytest.raises(HarnessError, match=r"^strict: selector entropy: only \d+ neurons pass"):
        execute_together(plans, tmp_path, Silent(), "test")  # type: ignore[arg-type]
    with pytest.raises(HarnessError, match=r"^selector entropy: only \d+ neurons pass"):
        execute(plans[1], tmp_path, Silent(), "test")  # type: ignore[arg-type]
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.slow
def test_an_interrupted_group_continues(specs: list[RunSpec], tmp_path: Path) -> None:
    plans = [plan(x, catalogue()) for x in specs[:2]]
    task, observe, calls = type(plans[0].task), type(plans[0].task).observe, []

    def fails(self: object, *arguments: object) -> object:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return observe(self, *arguments)  # type: ignore[arg-type]

    with patch("harness.running.execute.PART", 16):
        whole = execute_together(plans, tmp_path / "whole", Silent(), "test")  # type: ignore[arg-type]
        with patch.object(task, "observe", fails), pytest.raises(KeyboardInterrupt):
            execute_together(plans, tmp_path / "broken", Silent(), "test")  # type: ignore[arg-type]
        again = execute_together(plans, tmp_path / "broken", Silent(), "test")  # type: ignore[arg-type]
    for first, second in zip(whole, again, strict=True):
        assert first.record.to_dict() == second.record.to_dict()


def test_a_task_that_does_not_share_is_asked_run_by_run(tmp_path: Path) -> None:
    specs = [
        RunSpec(
            name=name,
            task=parse_spec("induction_synthetic:sequences=3,length=20", "task"),
            selector=parse_spec("entropy:top=2", "selector"),
            intervention=parse_spec(name, "intervention"),
            controls=2,
        )
        for name in ("mean", "zero")
    ]
    plans = [plan(x, catalogue()) for x in specs]
    assert grouped_by_prompts(plans) == [plans]
    found = execute_together(plans, tmp_path, Silent(), "test")  # type: ignore[arg-type]
    assert [x.record.selection.intervention for x in found] == ["mean", "zero"]
    assert found[0].record.measures[0].value != found[1].record.measures[0].value
