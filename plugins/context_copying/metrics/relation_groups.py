"""The transitions and the change of entropy for each group of relations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from harness.plugin import Frame, Measurement, Metric

from ..figures import group_bars
from ..task.answer_sources import CK
from .transition_cells import columns_of
from .transitions import measure

if TYPE_CHECKING:
    from harness.plugin import Measure, Outcomes

RESAMPLES = 2000


class RelationGroups(Metric):
    """Global transition score, CK conversion ratio and change of entropy for each group of relations, with intervals
    over facts and p-values that are adjusted over the groups (by the control sets that they share, and Holm's)."""

    name = "relation_groups"
    needs = frozenset({"source", "entropy", "field group", "field relation"})
    by: Literal["group", "relation"] = Field("group", description="one row for each group, or for each relation")

    def measure(self, outcomes: Outcomes) -> Measurement:
        names = np.array([prompt.fields[self.by] for prompt in outcomes.prompts])
        families: dict[str, list[tuple[dict[str, Any], Measure]]] = {}
        rows: list[dict[str, Any]] = []
        for group in sorted(set(names.tolist())):
            inside = np.flatnonzero(names == group)
            for found in measures_of(outcomes, inside):
                rows.append(row(str(group), found, outcomes.clusters[inside]))
                families.setdefault(found.name, []).append((rows[-1], found))
        for family in families.values():
            correct(*zip(*family, strict=True))
        title = (
            f"by {self.by}: 95% intervals over facts, p against the controls, adjusted over the {self.by}s "
            "(Westfall-Young; Holm)"
        )
        frame = Frame("relation_groups", title, columns_of(rows))
        return Measurement(frames=(frame,), figures=(group_bars(frame.columns, self.by),))


def correct(rows: Sequence[dict[str, Any]], measures: Sequence[Measure]) -> None:
    """Fill in the p of one measure that are adjusted over the groups, a row and a measure for each."""
    from harness.statistics import adjust, step_down_min_p

    together = step_down_min_p(np.array([x.treated for x in measures]), np.array([x.controls for x in measures]))
    for entry, p, holm in zip(rows, together, adjust([entry["p"] for entry in rows]), strict=True):
        entry |= {"p_adjusted": p, "p_holm": holm}


def measures_of(outcomes: Outcomes, inside: np.ndarray) -> list[Measure]:
    """The measures of some prompts, by their places."""
    before = outcomes.baseline["source"][inside]
    changed = outcomes.each(lambda seen: seen["source"][:, inside] != before)
    converted = outcomes.each(lambda seen: (before != CK) & (seen["source"][:, inside] == CK))
    change = outcomes.each(lambda seen: (seen["entropy"] - outcomes.baseline["entropy"])[:, inside])
    everywhere = np.broadcast_to(True, changed.shape)
    return [
        measure("GTS", "global transition score", "%", changed, everywhere),
        measure("CKCR", "CK conversion ratio", "%", converted, before != CK),
        measure("entropy_change", "change of entropy", "nats", change, everywhere),
    ]


def row(group: str, found: Measure, clusters: np.ndarray) -> dict[str, Any]:
    """One measure of one group beside its controls; adjusted p are filled in later."""
    from harness.statistics import derive_seed, summarise

    summary = summarise(found, clusters, derive_seed(0, "relation_groups", group, found.name), RESAMPLES)
    interval, controls = summary.interval, summary.controls or {}
    return {
        "group": group,
        "measure": found.title,
        "facts": len(np.unique(clusters[found.counting])),
        "prompts": int(found.tally.trials[1]),
        "count": summary.count,
        "value": summary.value,
        "ci_low": interval.low if interval else None,
        "ci_high": interval.high if interval else None,
        "unit": found.unit,
        **{f"control_{name}": controls.get(name) for name in ("mean", "standard_error", "q05", "q95")},
        "quantile": summary.test.quantile,
        "p": summary.test.p_two_sided,
        "p_adjusted": None,
        "p_holm": None,
    }
