"""How sure a run can be: what it is made of, and what it would have found. The same in every report."""

from __future__ import annotations

from dataclasses import dataclass

from harness.files.wording import apart, counted
from harness.report.formatting import number, p_value
from harness.results.measures import Measure
from harness.results.record import RunRecord
from harness.statistics import reachable

FEW_ITEMS = 12
"""Below this, intervals of skewed measures hold the truth less often than they say (docs/statistics.md)."""

COLUMNS = ("measure", "items", "design effect", "finds", "d", "half of that would take")

EXPLAINED = (
    "Items: independent ones that count. Design effect: how many times the variance of a share is that of independent "
    "prompts. Finds: how far above or below the controls' mean about 75% of such runs find a value (one side only: on "
    "the other no share lies far enough). d: what counts as no more than random, 2 sd of the controls unless --margin "
    "says otherwise. No amount: random sets themselves differ too much."
)


@dataclass(frozen=True)
class Certainty:
    """Sentences about the run, and for each primary measure a row of ``COLUMNS``."""

    sentences: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def certainty(record: RunRecord) -> Certainty:
    """What a reader has to know before the table of measures."""
    task, family, m = record.task, record.family, record.controls.n
    items = counted(task.n_clusters, "independent item")
    said = [f"{items} ({counted(task.n_prompts, 'prompt')}): intervals speak of other items like these."]
    few = [
        measure.title
        for measure in record.primary
        if measure.value is not None and measure.n_clusters is not None and measure.n_clusters < FEW_ITEMS
    ]
    if few:
        said.append(
            f"Fewer than {FEW_ITEMS} items count in {', '.join(few)}: where their values are skewed, intervals are too "
            "narrow."
        )
    if m:
        together = f", over {counted(family.size, 'primary measure')} together" if family.size > 1 else ""
        said.append(
            f"M = {family.rows}: {counted(m, 'control set')} and the selected one. The smallest adjusted p is "
            f"{p_value(family.smallest)}; alpha = {family.alpha:g}{together}."
        )
    if record.exploratory:
        said.append(f"Exploratory: {record.exploratory.rstrip('.')}.")
    return Certainty(tuple(said), tuple(map(_row, record.primary)))


def _row(measure: Measure) -> tuple[str, ...]:
    unit, limit, sets = apart(measure.unit), measure.detectable_limit, measure.detectable_controls
    more = "no amount"
    if measure.detectable_above is None:
        more = "-"
    elif limit is not None and sets is not None:
        more = f"{counted(limit, 'item')} of data, {counted(sets, 'control')}"
    return (
        measure.title,
        "-" if measure.n_clusters is None else str(measure.n_clusters),
        "-" if measure.design_effect is None else f"{measure.design_effect:.2f}",
        _finds(measure, unit),
        "-" if measure.margin is None else f"{number(measure.margin)}{unit}",
        more,
    )


def _finds(measure: Measure, unit: str) -> str:
    """How far above and below the controls' mean a value is found, where there can be such a value."""
    above, below = measure.detectable_above, measure.detectable_below
    mean = None if measure.controls is None else measure.controls.mean
    if above is None or below is None or mean is None:
        return "-"
    sides = reachable((above, below), mean, measure.unit, measure.design_effect is not None)
    told = [f"{sign}{number(side)}" for sign, side in zip("+-", sides, strict=True) if side is not None]
    return f"{' or '.join(told)}{unit}" if told else "nothing"
