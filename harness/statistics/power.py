"""What a run would have found, and what a larger one would find.

Control sets differ by what they are, and by the prompts they were measured on. A treated set is found where it lies
beyond the critical control (:func:`harness.statistics.stepdown.critical_rank`); its own prompts add to the doubt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

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


def cautious(spread: Spread, sets: int) -> Spread:
    """What to plan with where only so many control sets were looked at: the upper 80% limit of their variance.

    Half of all pilots see too small a variance, and what they plan is too small then (Browne 1995, Stat. Med. 14,
    1933-1940). What is added lasts, however many prompts there are: a pilot in which all differences between sets could
    be noise does not show that they are.
    """
    from scipy.stats import chi2

    more = (sets - 1) / float(chi2.ppf(0.2, sets - 1)) - 1
    return replace(spread, sets=math.sqrt(max(spread.sets, spread.noise) ** 2 + more * spread.sets**2))


def detectable(spread: Spread, clusters: float, controls: int, measures: int = 1, alpha: float = ALPHA) -> float:
    """The distance from the controls' mean that a run finds with a probability of about 80%, in the measure's unit.

    For normally distributed control sets. With r the largest number for which r / M <= alpha, M = m + 1, the treated
    value must lie beyond the r-th most extreme of m controls. That one's p is about r / M, and in 80% of runs no less
    than the 20% quantile of Beta(r, M - r): the fewer controls, the farther out it may lie. Over k measures each p is
    divided by k. The treated set's own noise is added in quadrature. Infinite where nothing can be found (r = 0).
    """
    usual, far, doubt = _beyond(controls, measures, alpha)
    sets, noise = spread.of(clusters)
    return math.inf if math.isinf(far) else usual * sets + math.hypot((far - usual) * sets, doubt * noise)


@cache
def _beyond(controls: int, measures: int, alpha: float) -> tuple[float, float, float]:
    """What :func:`detectable` multiplies standard deviations with, which no data change: where the critical control
    usually lies, where it lies far out, and for the treated set's own noise. Infinite where nothing can be found."""
    from scipy.stats import beta, norm

    rows = controls + 1
    r = int(alpha * rows + 1e-9)
    if r == 0:
        return math.inf, math.inf, math.inf
    sides = 2 * max(measures, 1)
    usual, far = (
        _outlying(float(norm.isf(p / sides)), rows, measures > 1) for p in (r / rows, beta.ppf(1 - FOUND, r, rows - r))
    )
    return usual, far, float(norm.isf(1 - FOUND))


def _outlying(distance: float, rows: int, several: bool) -> float:
    """How far from the controls' mean, in their sd, a value must lie to be so far out among all rows, itself included.

    It moves their mean by 1 / M of its distance x and, where several measures are compared in standard deviations,
    widens its own measure's: (1 - 1 / M) x / sqrt(1 + x^2 / M). With few rows there is no such x.
    """
    room = (1 - 1 / rows) ** 2 - (distance**2 / rows if several else 0.0)
    return distance / math.sqrt(room) if room > 0 else math.inf


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


def least_share(items: int, alpha: float = ALPHA) -> float | None:
    """The smallest share of independent items whose change, all to one side, a sign test finds in 80% of runs.

    So it is at best: where control sets change something, too, it takes more. None: so few items find nothing.
    """
    from scipy.stats import beta

    k = _all_alike(alpha)
    return float(beta.ppf(FOUND, k, items - k + 1)) if items >= k else None


def items_for(share: float, alpha: float = ALPHA) -> int:
    """The fewest independent items of which :func:`least_share` is no more than ``share``."""
    from scipy.stats import nbinom

    k = _all_alike(alpha)
    return k + int(nbinom.ppf(FOUND, k, share))


def _all_alike(alpha: float) -> int:
    """The fewest changes, all to one side, of which the two-sided sign test's p, 2 / 2^k, is no more than alpha."""
    return math.ceil(math.log2(2 / alpha))
