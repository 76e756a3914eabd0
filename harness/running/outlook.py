"""What a pilot of control sets (:mod:`harness.running.planning`) says of runs: which effects they would find, and how
soon."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import HarnessError, suggest
from harness.running.planning import Pilot
from harness.statistics import ALPHA, MeasureSummary, derive_seed, family_of, summarise
from harness.statistics.power import SETS, Spread, cautious, detectable, needed
from harness.statistics.verdicts import reach, reachable

if TYPE_CHECKING:
    from harness.statistics import AnyMeasure

CLUSTERS = (100, 300, 1000)
"""Numbers of independent items for which the smallest effect is told, beside that of the pilot."""


MANY = 99
"""Control sets whose outermost ones tell how far those of a run reach; fewer are taken for normal."""


def check_wanted(names: Sequence[str], effect: float | None, measure: str | None) -> None:
    """Refuse a measure that there is not, and an effect that is of none.

    Raises:
        HarnessError: names the option, and the primary measures.
    """
    if not names:
        raise HarnessError("--metric: none of the metrics has a primary measure, so there is nothing to plan for.")
    if measure is not None and measure not in names:
        raise HarnessError(
            f'--measure: "{measure}" is no primary measure.{suggest(measure, names)} There are: {", ".join(names)}.'
        )
    if effect is not None and measure is None and len(names) > 1:
        raise HarnessError(f"--effect: it is in the unit of one measure; add --measure, one of {', '.join(names)}.")


def outlook(
    pilot: Pilot, seed: int, resamples: int, effect: float | None = None, name: str | None = None
) -> dict[str, Any]:
    """Everything that a plan says, JSON values only.

    ``measures``: of each primary measure how control sets and clusters (facts, or other independent items) vary, and
    how far ``above`` and ``below`` the mean of random sets a value must lie that about 80% of runs find, by number of
    clusters and with all there could be; None where no value can lie so far out.
    ``needed``: of ``effect``, what each number of control sets takes, the quickest first; None where nothing was asked.

    Args:
        seed, resamples: of the bootstrap that tells what other clusters would change.
        effect: distance from the mean of random sets in the unit of the measure ``name``; negative below it.
    """
    found = rows(pilot.measures, pilot.clusters, derive_seed(seed, "bootstrap"), resamples)
    shown = [row for row in found if name is None or row.summary.name == name]
    return {
        "limit": pilot.items,
        "in_data": pilot.in_data,
        "n_clusters": pilot.n_clusters,
        "n_prompts": len(pilot.clusters),
        "sets": len(pilot.measures[0][1].controls),
        "controls": pilot.controls,
        "engine": pilot.engine,
        "alpha": ALPHA,
        "family": found[0].moving,
        "measures": [row.to_dict(pilot) for row in shown],
        "effect": effect,
        "needed": None if effect is None else _needed(pilot, shown[0], effect),
        "seconds": {
            "fixed": pilot.times.fixed,
            "item": pilot.times.item,
            "prompt": pilot.times.prompt,
            "condition": pilot.times.condition,
        },
    }


@dataclass(frozen=True)
class Row:
    """A primary measure of the pilot.

    Attributes:
        reach: how far the control sets reach above and below their mean, in terms of normal ones; 1 where too few of
            them were looked at to tell.
        moving: primary measures that are not the same in all control sets.
    """

    metric: str
    summary: MeasureSummary
    reach: tuple[float, float]
    moving: int

    def detectable(self, clusters: float, controls: int) -> tuple[float | None, float | None]:
        """Above and below, with so many clusters that count."""
        normal = math.inf if self.spread is None else detectable(self.spread, clusters, controls, self.moving)
        above, below = (times * normal if math.isfinite(normal) else None for times in self.reach)
        if above is None or below is None:
            return None, None
        return self.reachable(above, below)

    def reachable(self, above: float, below: float) -> tuple[float | None, float | None]:
        """Those of the distances from the controls' mean that a value can have."""
        found, controls = self.summary, self.summary.controls
        mean = controls["mean"] if controls else None
        return reachable((above, below), mean or 0.0, found.unit, found.design_effect is not None)

    @property
    def spread(self) -> Spread | None:
        """What is planned with; None where nothing can be, because all sets are alike, or some have no value."""
        found = self.summary.spread
        if found is None or found.clusters < 2 or not found.sets:
            return None
        return cautious(found, self.summary.test.m)

    def to_dict(self, pilot: Pilot) -> dict[str, Any]:
        """``sd_sets``: between control sets on the pilot's prompts; ``sd_lasting``: what is left of it, at most, with
        all there could be; ``sd_cluster``: what one cluster adds to a set's distance from the others."""
        found, counting = self.summary, self.summary.n_clusters / pilot.n_clusters

        def sides(clusters: float) -> dict[str, float | None]:
            return dict(zip(("above", "below"), self.detectable(clusters * counting, pilot.controls), strict=True))

        return {
            "metric": self.metric,
            "name": found.name,
            "title": found.title,
            "unit": found.unit,
            "mean": found.controls["mean"] if found.controls else None,
            "n_clusters": found.n_clusters,
            "sd_sets": found.spread and found.spread.sets,
            "sd_lasting": self.spread and self.spread.of(math.inf)[0],
            "sd_cluster": found.spread and found.spread.noise * math.sqrt(found.spread.clusters),
            "detectable": [{"n_clusters": n, **sides(n)} for n in sorted({pilot.n_clusters, *CLUSTERS})],
            "detectable_at_all": sides(math.inf),
        }


def rows(found: Sequence[tuple[str, AnyMeasure]], clusters: np.ndarray, seed: int, resamples: int) -> list[Row]:
    """Primary measures with their metrics' names, as a pilot sees them, and the cluster number of every prompt."""
    measures = [measure for _, measure in found]
    summaries = [summarise(measure, clusters, seed, resamples) for measure in measures]
    controls = np.array([measure.controls for measure in measures])
    family = family_of(
        [measure.treated for measure in measures], controls, [float(measure.null) for measure in measures]
    )
    times = (reach(summary, family) if family.rows > MANY else None for summary in summaries)
    return [
        Row(metric, summary, known or (1.0, 1.0), family.moving)
        for (metric, _), summary, known in zip(found, summaries, times, strict=True)
    ]


def _needed(pilot: Pilot, row: Row, effect: float) -> list[Mapping[str, Any]]:
    """For numbers of control sets: clusters, the ``--limit`` that leaves so many, and seconds; the quickest first."""
    found: list[Mapping[str, Any]] = []
    side = int(effect < 0)
    if row.spread is None or row.reachable(abs(effect), abs(effect))[side] is None:
        return found
    for controls in sorted({*SETS, pilot.controls}):
        least = needed(row.spread, abs(effect), row.moving, sets=(controls,), scale=row.reach[side])
        if least is None:
            continue
        clusters = math.ceil(least.clusters * pilot.n_clusters / row.summary.n_clusters)
        items = math.ceil(clusters * pilot.items / pilot.n_clusters)
        seconds = pilot.times.of(items, clusters * len(pilot.clusters) / pilot.n_clusters, controls)
        found.append({"controls": controls, "n_clusters": clusters, "limit": items, "seconds": seconds})
    return sorted(found, key=lambda x: (x["seconds"], x["controls"]))
