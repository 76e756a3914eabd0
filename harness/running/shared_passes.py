"""The conditions of several runs on the same prompts, run at once: each distinct one is run once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from harness.conditions.conditions import Condition
from harness.plugin import border
from harness.plugin.records import Outcomes, Prompt
from harness.running.plan import Stage

if TYPE_CHECKING:
    from harness.engine.engine import Engine, Progress


def distinct_conditions(stages: Sequence[Stage]) -> tuple[list[Condition], list[list[int]]]:
    """The distinct conditions of some runs, treated ones first, and for each run the places of its own."""
    places: dict[Hashable, int] = {}
    distinct: list[Condition] = []
    own: list[list[int]] = [[] for _ in stages]
    for shown in (True, False):  # baseline and treated conditions first: a task gives their answers
        for j, stage in enumerate(stages):
            for condition in (x for x in stage.conditions if x.shown == shown):
                key = (shown, _key(condition))
                if key not in places:
                    places[key] = len(distinct)
                    name = condition.name if len(stages) == 1 else f"{condition.role}-{len(distinct):05d}"
                    distinct.append(replace(condition, name=name))
                own[j].append(places[key])
    return distinct, own


def _key(condition: Condition) -> Hashable:
    """Equal for conditions that do the same; a stranger's edits need not be hashable."""
    try:
        hash(condition.edits)
    except TypeError:
        return id(condition)
    return condition.edits, condition.positions, id(condition.frozen), condition.units


def observe(stages: Sequence[Stage], engine: Engine, prompts: Sequence[Prompt], progress: Progress) -> list[Outcomes]:
    """Outcomes of some runs of one task on some prompts, from one call of the task."""
    task = stages[0].plan.task
    if len(stages) == 1:
        return [border.observe(task, engine, prompts, stages[0].conditions, progress)]
    distinct, own = distinct_conditions(stages)
    found = border.observe(task, engine, prompts, distinct, progress)
    return [
        replace(
            found,
            conditions=stage.conditions,
            values={name: own_columns(array[rows]) for name, array in found.values.items()},
            answers=tuple(
                found.answers[row] for row, x in zip(rows, stage.conditions, strict=True) if x.shown and found.answers
            ),
        )
        for stage, rows in zip(stages, own, strict=True)
    ]


def own_columns(array: np.ndarray) -> np.ndarray:
    """Without the last columns [n_conditions, n_prompts, k] that only conditions of other runs fill."""
    if array.ndim < 3 or array.dtype.kind != "f":
        return array
    filled = np.flatnonzero(~np.isnan(array).all((0, 1)))
    return array[..., : filled[-1] + 1 if len(filled) else 0]
