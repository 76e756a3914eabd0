"""What of a run files of other programs hold: the values and the answers of each condition that people see.

Their formats know one model a file, so that the untouched model and the model under the intervention are two.
Intervals, controls, p-values and verdicts have no place there; where a format keeps what it does not know, the record
has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from harness.files.store import read_jsonl
from harness.plugin import FinishedRun

HERE = ("prompt_id", "condition", "prompt", "input_ids", "cluster", "answer")
"""Columns of a sample that are not about what was observed."""


@dataclass(frozen=True)
class Told:
    """A condition of a run.

    Attributes:
        model: what the model is called: its name, under an intervention with what edits it.
        arguments: of ``--model harness``, what the model is run under.
        values: task -> measure -> number. better: the same, whether higher is better (True, False, or None).
        samples: task -> rows of ``samples.jsonl``, in their order.
    """

    model: str
    arguments: dict[str, Any]
    values: dict[str, dict[str, float]]
    better: dict[str, dict[str, bool | None]]
    samples: dict[str, list[dict[str, Any]]]


def conditions(run: FinishedRun) -> Iterator[Told]:
    """The untouched model, and the selection under the intervention, where there is one."""
    rows = read_jsonl(run.folder / "samples.jsonl")
    parts = run.asked.components
    name, task = run.record.identity.model.id, str(parts["task"]["name"])
    for role in ("baseline", "treated"):
        samples: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row["condition"] == role:
                samples.setdefault(str(row.get("task", task)), []).append(row)
        if not samples:
            continue
        values: dict[str, dict[str, float]] = {}
        better: dict[str, dict[str, bool | None]] = {}
        for measure in run.record.measures:
            value = measure.baseline if role == "baseline" else measure.value
            of, key = _place(measure.metric, measure.name, task, samples)
            if value is not None and of in samples:  # of lm-eval's tasks a run has measures across tasks, too
                values.setdefault(of, {})[key] = float(value)
                better.setdefault(of, {})[key] = measure.higher_is_better
        arguments: dict[str, Any] = {"pretrained": name}
        if role == "treated":
            arguments |= {kind: run.asked.written(kind) for kind in ("selector", "intervention") if parts.get(kind)}
        edits = [str(parts[kind]["name"]) for kind in ("selector", "intervention") if kind in arguments]
        yield Told("+".join([name, *edits]), arguments, values, better, samples)


def observed(row: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a sample, by name."""
    return {key: float(x) for key, x in row.items() if key not in HERE and isinstance(x, int | float)}


def target(row: Mapping[str, Any]) -> str:
    """What a sample's task calls right, where it says so in a column of one of the usual names."""
    return str(next((row[key] for key in ("target", "object") if isinstance(row.get(key), str)), ""))


def when(moment: str) -> datetime:
    """A moment of a run's provenance ("2026-01-31T12:00:00Z")."""
    return datetime.fromisoformat(moment)


def _place(metric: str, name: str, task: str, samples: Mapping[str, Any]) -> tuple[str, str]:
    """The task that a measure is of, and what it is called there; measures of lm-eval's tasks begin with the task."""
    of, _, rest = name.partition(".")
    if rest and of in samples:
        return of, rest
    return task, name if name == metric else f"{metric}.{name}"
