"""Prompts and outcomes of a run's folder come back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from roles import conditions

from harness.errors import HarnessError
from harness.plugin.records import Outcomes, Prepared, Prompt, Step
from harness.results.folder import RunFolder, sample_rows


def outcomes() -> Outcomes:
    prompts = tuple(Prompt(f"p{i}", f"text {i}", (1, i), f"c{i // 2}", {"relation": "r"}) for i in range(4))
    return Outcomes(
        conditions=conditions(1),
        prompts=prompts,
        values={"source": np.arange(12, dtype=np.int8).reshape(3, 4) % 3, "entropy": np.arange(12.0).reshape(3, 4)},
        answers=(("a", "b", "c", "d"), ("e", "f", "g", "h")),
        categories={"source": ("CK", "PK", "ND")},
    )


def test_parts_come_back_as_they_were(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(fresh=False)
    whole = outcomes()
    assert folder.load_part(0, whole.prompts, whole.conditions) is None
    folder.save_part(0, whole)
    back = folder.load_part(0, whole.prompts, whole.conditions)
    assert back is not None
    assert back.answers == whole.answers and back.categories == whole.categories
    assert all((back[name] == whole[name]).all() for name in whole.values)
    joined = Outcomes.join([whole, back])
    assert joined["entropy"].shape == (3, 8) and len(joined.prompts) == 8


def test_prepared_prompts_come_back_as_they_were(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(fresh=False)
    prepared = Prepared(outcomes().prompts, (Step("facts", 4, 0, "why"),), {"k": [1]})
    folder.save_prepared(prepared)
    assert folder.load_prepared() == prepared


def test_a_sample_is_a_prompt_under_a_condition(tmp_path: Path) -> None:
    found = list(sample_rows(outcomes()))
    assert len(found) == 8
    assert found[1]["condition"] == "treated"
    assert found[1]["answer"] == "e"
    assert found[1]["source"] == "PK"
    assert found[1]["relation"] == "r"


def test_a_metric_that_does_not_fit_the_task_is_told_so() -> None:
    with pytest.raises(HarnessError, match=r'wants the outcome "loss", .* it observes entropy, source'):
        outcomes()["loss"]
