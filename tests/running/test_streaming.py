"""A run whose outcomes are larger than what it may hold leaves the bytes of one that holds everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs

from harness.conditions.conditions import Selection
from harness.plugin.records import Outcomes, Rows
from harness.results import arrays
from harness.results.folder import RunFolder
from harness.statistics import bootstrap
from harness.statistics.blocks import MEMORY

SEVERAL: dict[str, dict[str, Any]] = {
    "knowledge_conflict": {"limit": 14, "controls": 7},
    "mediation": {"limit": 3, "controls": 5},
    "text_loss": {"limit": 3, "controls": 5},
    "target_probability": {"limit": 12, "controls": 5},
}


def made(output: Path, task: str) -> dict[str, bytes]:
    """The files of a run, but for what tells when it was made."""
    folder = small_runs.finish(output, task=task, selector="entropy:top=2", intervention="mean", **SEVERAL[task])
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "provenance.json"
    }


def in_memory(patch: pytest.MonkeyPatch) -> None:
    """Everything is held at once: parts are joined in memory, and so is what metrics make of them."""
    kept: list[Outcomes] = []
    real = RunFolder.join

    def join(self: RunFolder, parts: Sequence[Outcomes], selection: Selection) -> Outcomes:
        real(self, parts, selection)
        kept.append(Outcomes.join(parts).split(selection))
        return kept[-1]

    def each(self: Outcomes, function: Callable[[Rows], np.ndarray]) -> np.ndarray:
        return np.asarray(function(Rows(self, slice(0, len(self.conditions)))))

    patch.setattr(RunFolder, "join", join)
    patch.setattr(Outcomes, "each", each)
    patch.setenv(MEMORY, "100000")


def nearly_nothing(patch: pytest.MonkeyPatch) -> None:
    """Two conditions at a time, products of sixteen, weights of resamples on the disk, small parts."""
    patch.setenv(MEMORY, "1")
    patch.setattr("harness.statistics.blocks.CELL", 2**20)
    patch.setattr("harness.statistics.blocks.SMALL", 2**40)
    patch.setattr(bootstrap, "PRODUCT", 1)
    patch.setattr(bootstrap, "KEPT_WEIGHTS", 0)
    patch.setattr(bootstrap, "budget", lambda: 0)
    patch.setattr(arrays, "WRITTEN_AT_ONCE", 64)


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize(
    "task",
    [
        "knowledge_conflict",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("mediation", "text_loss", "target_probability")),
    ],
)
def test_a_tiny_budget_leaves_the_same_bytes(tmp_path: Path, task: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        in_memory(patch)
        whole = made(tmp_path / "whole", task)
    with pytest.MonkeyPatch.context() as patch:
        nearly_nothing(patch)
        assert made(tmp_path / "few", task) == whole
    assert {"result.json", "samples.jsonl", "controls.jsonl", "outcomes.safetensors"} <= whole.keys()
