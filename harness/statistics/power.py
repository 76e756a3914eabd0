"""What a run would have found, and what a larger one would find.

Control sets differ by what they are, and by the prompts they were measured on. A treated set is found where it lies
beyond the critical control (:func:`harness.statistics.stepdown.critical_rank`); its own prompts add to the doubt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.statistics.bootstrap import FOUND
from harness.statistics.stepdown import ALPHA

SETS = (19, 39, 99, 199, 499, 999, 1999, 4999, 9999)
"""Numbers of control sets that are considered."""

MOST_CLUSTERS = 10_000_000


@dataclass(frozen=True)
class Spread:
    """How the values of a measure's control sets vary.

    Attributes:
        sets: standard deviation between control sets, of values on these prompts.
        noise: the part of it that other prompts would change: standard deviation, over draws of the clusters, of a
            set's distance from the mean of all.
        clusters: how many there are, to which ``noise`` belongs.
    """

    sets: float
    noise: float
    clusters: int

    def of(self, clusters: float) -> tuple[float, float]:
        """(standard deviation between sets, noise) on so many clusters."""
        lasting = max(0.0, self.sets**2 - self.noise**2)
        noise = self.noise * math.sqrt(self.clusters / clusters)
        return math.sqrt(lasting + noise**2), noise


def detectable(spread: Spread, clusters: float, controls: int, measures: int = 1, alpha: float = ALPHA) -> float:
    """The distance from the controls' mean that a run finds with a probability of about 80%, in the measure's unit.

    For normally distributed control sets: the critical control's distance z(1 - a) * sd, plus z(0.8) of the treated
    set's own noise; a = q / 2 over the number of primary measures, q the largest p <= alpha that so many controls can
    give. Infinite where there is none, 1 / (controls + 1) > alpha: nothing can be found.
    """
    from scipy.stats import norm

    q = int(alpha * (controls + 1) + 1e-9) / (controls + 1)
    if q == 0:
        return math.inf
    sets, noise = spread.of(clusters)
    return float(norm.isf(q / (2 * max(measures, 1))) * sets + norm.isf(1 - FOUND) * noise)


@dataclass(frozen=True)
class Needed:
    """Clusters and control sets with which an effect would be found."""

    clusters: int
    controls: int


def needed(
    spread: Spread,
    effect: float,
    measures: int = 1,
    alpha: float = ALPHA,
    sets: Sequence[int] = SETS,
    scale: float = 1.0,
) -> Needed | None:
    """The least work, clusters times conditions, with which :func:`detectable` * ``scale`` is no more than ``effect``.

    Args:
        effect: distance from the controls' mean, in the measure's unit. sets: numbers of control sets to choose from.
        scale: how much larger than for normal control sets the detectable effect was where it was measured.

    Returns:
        None where no number of prompts is enough: the random sets themselves differ by that much.
    """
    found = []
    for controls in sets:

        def enough(clusters: int, controls: int = controls) -> bool:
            return scale * detectable(spread, clusters, controls, measures, alpha) <= effect

        if not enough(MOST_CLUSTERS):
            continue
        low, high = 1, MOST_CLUSTERS
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle + 1, high)
        found.append(Needed(max(low, 2), controls))
    return min(found, key=lambda x: x.clusters * (x.controls + 2), default=None)


def ranks(controls: int, alpha: float = ALPHA) -> list[int]:
    """Places of the controls that may turn out to be the critical one, some forty of them, the most extreme first."""
    most = max(1, int(alpha * (controls + 1) / 2))
    return sorted({round(float(x)) for x in np.geomspace(1, most, 40)}) if controls else []
