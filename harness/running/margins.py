"""Differences that matter, by measure (``RunSpec.margins``): whether there are such measures, before the long work."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.errors import HarnessError, suggest
from harness.files.wording import agree
from harness.plugin import border

if TYPE_CHECKING:
    from harness.engine.engine import Engine
    from harness.plugin.records import Prompt
    from harness.running.plan import Stage

FEW = 8
"""Prompts that are tried first."""


def check_margins(stage: Stage, engine: Engine) -> None:
    """Refuse a margin of a measure that the run does not judge.

    What measures a metric has is known when it has measured: it is given a few prompts, untouched and treated, and
    where a name is not found then, all of them (measures may be made of what prompts say).

    Raises:
        HarnessError: names the measure, and the nearest there is.
    """
    wanted, prompts = stage.plan.spec.margins, stage.prepared.prompts
    with contextlib.suppress(HarnessError):  # a metric may need more prompts
        if wanted.keys() <= _judged(stage, engine, prompts[:FEW]):
            return
    names = _judged(stage, engine, prompts)
    for name in sorted(wanted.keys() - names):
        raise HarnessError(
            f'--margin: no primary measure of this run is called "{name}".{suggest(name, names)} There '
            f"{agree(len(names), 'is', 'are')}: {', '.join(sorted(names)) or 'none'}."
        )


def _judged(stage: Stage, engine: Engine, prompts: Sequence[Prompt]) -> frozenset[str]:
    """Names of the primary measures of these prompts."""
    plan, conditions = stage.plan, tuple(x for x in stage.conditions if x.role != "control")
    found = border.observe(plan.task, engine, prompts, conditions)
    outcomes = found.split(stage.selection)
    return frozenset(
        measure.name
        for metric in plan.metrics
        for measure in border.measure(metric, outcomes).measures
        if measure.primary
    )
