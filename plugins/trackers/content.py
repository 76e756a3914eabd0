"""What of a run trackers are told: its settings, its measures with all that makes them credible, and its files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from harness.plugin import AskedRun, BegunRun, FinishedRun, Reporter, Work
from harness.results.folder import PAGE, PROVENANCE, RECORD
from harness.results.record import RunRecord

COMPONENTS = ("model", "task", "selector", "intervention")

COLUMNS = (
    "metric", "name", "title", "unit", "primary", "baseline", "value", "ci_low", "ci_high", "control_mean",
    "control_sd", "p_two_sided", "p_adjusted", "verdict",
)  # fmt: skip
"""Of the table of measures."""

NUMBERS = ("value", "baseline", "ci_low", "ci_high", "p_adjusted")
"""What a tracker can sort runs by, of each primary measure."""

PAUSE = 10.0
"""Seconds between two messages about how far a run is."""

Files = Literal["record", "all", "none"]


class Tracker(Reporter):
    """What both have in common."""

    tags: tuple[str, ...] = Field((), description="words to find the run by, beside its components' names")
    files: Files = Field(
        "record",
        description="what is sent with it: record (result.json, page, tables, control sets), all (also prompts and "
        "outcomes), or none",
    )


def settings(run: BegunRun) -> dict[str, Any]:
    """Components with their parameters, and settings, as a tree."""
    asked: AskedRun = run.asked
    found: dict[str, Any] = {kind: asked.written(kind) for kind in COMPONENTS}
    found["metrics"] = [metric["name"] for metric in asked.components["metrics"]]
    return {"run_id": run.run_id, "description": asked.description, **found, **asked.settings}


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``{"selector": {"top": 6}}`` as ``selector.top``, 6; lists stay whole."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def names(run: BegunRun) -> dict[str, str]:
    """The components by kind, for tags."""
    return {kind: str(run.asked.components[kind]["name"]) for kind in COMPONENTS}


def measures(record: RunRecord) -> list[dict[str, Any]]:
    """A row a measure, with the columns of :data:`COLUMNS`."""
    rows = []
    for measure in record.measures:
        row = measure.to_dict()
        controls = measure.controls
        row |= {"control_mean": controls and controls.mean, "control_sd": controls and controls.sd}
        rows.append({column: row.get(column) for column in COLUMNS})
    return rows


def numbers(record: RunRecord) -> dict[str, float]:
    """``metric.measure``, ``metric.measure.p_adjusted`` ... of the primary measures, where they are defined."""
    found = {}
    for measure in record.primary:
        for name in NUMBERS:
            if (value := getattr(measure, name)) is not None:
                key = ".".join(measure.key)
                found[key if name == "value" else f"{key}.{name}"] = float(value)
    return found


def verdicts(record: RunRecord) -> dict[str, str]:
    """``metric.measure`` -> its verdict, of the primary measures."""
    return {".".join(measure.key): measure.verdict or "" for measure in record.primary}


def pictures(run: FinishedRun) -> list[tuple[str, str, Path]]:
    """Name, caption and PNG of each figure that is there."""
    found = [
        (figure.name, figure.title, run.folder / "figures" / f"{figure.name}.png") for figure in run.record.figures
    ]
    return [figure for figure in found if figure[2].is_file()]


def files(run: FinishedRun, wanted: Files) -> list[Path]:
    """The run's files to send, by their paths in its folder."""
    if wanted == "none":
        return []
    some = [RECORD, PROVENANCE, PAGE, "controls.jsonl", "neurons.jsonl", "files.sha256"]
    some += ["samples.jsonl", "outcomes.safetensors"] if wanted == "all" else []
    tables = [f"tables/{frame.name}.csv" for frame in run.record.frames]
    return [Path(name) for name in (*some, *tables) if (run.folder / name).is_file()]


class Pace:
    """How far the work of each run is, told now and then."""

    def __init__(self) -> None:
        self._done: dict[Work, int] = {}
        self._told = -PAUSE

    def advance(self, work: Work, steps: int) -> float | None:
        """The share that is done, if it is time to tell it."""
        self._done[work] = self._done.get(work, 0) + steps
        now = time.monotonic()
        if not work.total or not work.runs or now - self._told < PAUSE:
            return None
        self._told = now
        return self._done[work] / work.total

    def end(self, work: Work) -> None:
        """It is over."""
        self._done.pop(work, None)


def words(run: BegunRun, tags: Sequence[str]) -> list[str]:
    """Tags of a run: the user's, and its components."""
    return list(dict.fromkeys([*tags, *names(run).values()]))
