"""How sure a run can be: what it is made of, and what it would have found. The same in every report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.files.wording import apart, counted
from harness.report.formatting import number, p_value
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


def certainty(record: Mapping[str, Any]) -> Certainty:
    """What a reader has to know before the table of measures."""
    task, family, m = record["task"], record["family"], record["controls"]["n"]
    items = counted(task["n_clusters"], "independent item")
    said = [f"{items} ({counted(task['n_prompts'], 'prompt')}): intervals speak of other items like these."]
    few = [
        x["title"]
        for x in record["measures"]
        if x["primary"] and x["value"] is not None and x["n_clusters"] < FEW_ITEMS
    ]
    if few:
        said.append(
            f"Fewer than {FEW_ITEMS} items count in {', '.join(few)}: where their values are skewed, intervals are too "
            "narrow."
        )
    if m:
        together = f", over {counted(family['size'], 'primary measure')} together" if family["size"] > 1 else ""
        said.append(
            f"M = {family['rows']}: {counted(m, 'control set')} and the selected one. The smallest adjusted p is "
            f"{p_value(family['smallest'])}; alpha = {family['alpha']:g}{together}."
        )
    if record.get("exploratory"):
        said.append(f"Exploratory: {record['exploratory'].rstrip('.')}.")
    rows = [_row(measure) for measure in record["measures"] if measure["primary"]]
    return Certainty(tuple(said), tuple(rows))


def _row(measure: Mapping[str, Any]) -> tuple[str, ...]:
    unit = apart(measure["unit"])
    deff, margin = measure["design_effect"], measure["margin"]
    limit, controls = measure["detectable_limit"], measure["detectable_controls"]
    more = f"{counted(limit, 'item')} of data, {counted(controls, 'control')}" if limit is not None else "no amount"
    if measure["detectable_above"] is None:
        more = "-"
    return (
        measure["title"],
        str(measure["n_clusters"]),
        "-" if deff is None else f"{deff:.2f}",
        _finds(measure, unit),
        "-" if margin is None else f"{number(margin)}{unit}",
        more,
    )


def _finds(measure: Mapping[str, Any], unit: str) -> str:
    """How far above and below the controls' mean a value is found, where there can be such a value."""
    found = measure["detectable_above"], measure["detectable_below"]
    if None in found or measure["controls"] is None:
        return "-"
    sides = reachable(found, measure["controls"]["mean"], measure["unit"], measure["design_effect"] is not None)
    told = [f"{sign}{number(side)}" for sign, side in zip("+-", sides, strict=True) if side is not None]
    return f"{' or '.join(told)}{unit}" if told else "nothing"
