"""Whole runs in this process, without a word on the terminal and without an HTML page, and what they leave."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from harness.plugin.catalogue import catalogue
from harness.plugin.records import Figure, Frame
from harness.report.figure_files import write_shown
from harness.running import execute as run
from harness.running.executors import Made, executor_of, make
from harness.running.plan import Plan
from harness.running.spec import RunSpec
from harness.running.telling import Telling, reporters


class Silent(Telling):
    """Runs leave page and leaderboard, and nothing is shown of them."""

    def __init__(self) -> None:
        super().__init__(reporters(catalogue()))


def spec(name: str, facts: Path, **changes: object) -> RunSpec:
    """A run of a few of the facts."""
    given = {
        "task": f"knowledge_conflict:data={facts}",
        "selector": "entropy:rule=tighidet2025",
        "intervention": "mean",
        "controls": 5,
        "limit": 20,
        **changes,
    }
    return RunSpec(name=name, **given)  # type: ignore[arg-type]


def quick(name: str, facts: Path, **changes: object) -> RunSpec:
    """The same with two controls and one metric."""
    return spec(name, facts, **{"metrics": "entropy_change", "resamples": 100, "limit": 20, "controls": 2, **changes})


def in_process(groups: Sequence[Sequence[Plan]], output: Path, told: Silent | None = None) -> Iterator[list[Made]]:
    """Make groups of runs here, one after another."""
    return make(executor_of("local"), groups, output, "test", False, told or Silent())


def finish(output: Path, draw: bool = False, **fields: Any) -> Path:
    """Make a run of the given fields of :class:`harness.running.spec.RunSpec`; returns its folder.

    Args:
        draw: figures, too, which takes a while; tables are always written.
    """

    def write(folder: Path, shown: Sequence[Frame | Figure], progress: Any = None) -> None:
        write_shown(folder, shown if draw else [item for item in shown if isinstance(item, Frame)], progress)

    planned = run.plan(RunSpec(name="small", resamples=200, **fields), catalogue())
    with patch("harness.running.execute.write_shown", write), patch("harness.report.page.write_page"):
        return run.execute(planned, output, Silent(), "a test").path


def other(run: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A run whose record differs from that of ``run``."""
    changed = record(run)
    change(changed)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(changed), encoding="utf-8")
    return folder


def record(folder: Path) -> dict[str, Any]:
    """The record of a run."""
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


def measures(folder: Path) -> dict[str, dict[str, Any]]:
    """The measures of a run by name."""
    return {row["name"]: row for row in record(folder)["measures"]}


def samples(folder: Path, condition: str = "baseline") -> list[dict[str, Any]]:
    """The rows of one condition, in the order of the prompts."""
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["condition"] == condition]


def prompts(folder: Path) -> list[list[int]]:
    """The token ids that the model read."""
    return [row["input_ids"] for row in samples(folder)]


def table(folder: Path, name: str) -> dict[str, np.ndarray]:
    """The columns of a table: neurons as text, truth values as bool, else numbers (an empty entry is NaN)."""
    with (folder / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    def column(name: str, values: list[str]) -> np.ndarray:
        if name == "neuron":  # "1.10" is not the number 1.1
            return np.array(values)
        if {value.lower() for value in values} <= {"true", "false"}:
            return np.array([value.lower() == "true" for value in values])
        return np.array([float(value) if value else np.nan for value in values])

    return {key: column(key, [row[key] for row in rows]) for key in rows[0]}


def all_finite(value: Any) -> bool:
    """Whether no number in a record is NaN or infinite."""
    if isinstance(value, dict):
        return all(map(all_finite, value.values()))
    if isinstance(value, list):
        return all(map(all_finite, value))
    return not isinstance(value, float) or bool(np.isfinite(value))
