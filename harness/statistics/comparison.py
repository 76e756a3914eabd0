"""Two runs on the same items: is the difference between them more than the choice of items?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.statistics.bootstrap import Interval, percentile, resampled
from harness.statistics.clusters import cluster_sums
from harness.statistics.measure import TREATED, Aggregated, AnyMeasure, Functional, Measure, ratio

BLOCK = 4_000_000
"""Entries of the matrix of swaps that are held at once."""


def paired_intervals(
    first: AnyMeasure,
    second: AnyMeasure,
    first_clusters: np.ndarray,
    second_clusters: np.ndarray,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[Interval | None, Interval | None]:
    """Intervals of second - first: of the treated values, and of (treated - mean of the controls).

    Both runs are resampled with the same draws of clusters. The control sets are taken as they are: the intervals say
    what other items would change, not what other control sets would. None with fewer than two clusters; the second also
    where a run has no controls.

    Args:
        first_clusters: cluster number of every prompt of the first run [n_prompts]; second_clusters: likewise. The
            same number is the same item in both, and every number occurs in both.

    Raises:
        ValueError: a number occurs in one of them only.
    """
    if set(first_clusters.tolist()) != set(second_clusters.tolist()):
        raise ValueError("the two runs do not have the same clusters")
    runs = ((first, first_clusters), (second, second_clusters))
    a, b = (_drawn(measure, clusters, seed, resamples) for measure, clusters in runs)
    n = len(np.unique(first_clusters))
    return percentile([(b - a)[:, 0]], level, n), percentile([(b - a)[:, 1]], level, n)


def _drawn(measure: AnyMeasure, clusters: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Treated value, and treated minus mean of the controls, in every resample [resamples, 2]; NaN where undefined."""
    blocks = [np.empty((0, 2))]
    for block in resampled(measure, range(1, len(measure.values)), clusters, seed, resamples):
        controls = block[:, 1:]
        mean = ratio(np.nansum(controls, axis=1), (~np.isnan(controls)).sum(axis=1), 1.0)
        blocks.append(np.column_stack([block[:, 0], block[:, 0] - mean]))
    return np.concatenate(blocks)


@dataclass(frozen=True)
class SwapTest:
    """p of :func:`swap_test`, and the number of items whose outcomes differ between the runs, among ``n``."""

    p: float | None
    differing: int
    n: int


def swap_test(
    first: AnyMeasure,
    second: AnyMeasure,
    first_clusters: np.ndarray,
    second_clusters: np.ndarray,
    seed: int,
    draws: int = 9999,
) -> SwapTest:
    """Two-sided p of the difference of the treated values: items change their runs at random.

    If it made no difference in which run an item was treated, each item's two outcomes could as well be exchanged. p =
    (b + 1) / (draws + 1), b the draws whose absolute difference is at least the observed one (Phipson & Smyth 2010).
    p is None where a value is undefined. Arguments as of :func:`paired_intervals`.
    """
    if isinstance(first, Aggregated) or isinstance(second, Aggregated):  # nothing that could be exchanged and summed
        return SwapTest(None, 0, len(np.unique(first_clusters)))
    a, b = _sums(first, first_clusters), _sums(second, second_clusters)
    observed = float(_value(second, b.sum(axis=0)) - _value(first, a.sum(axis=0)))
    gap = b - a
    moving = gap[(gap != 0).any(axis=1)]  # the others are the same in both runs
    if not np.isfinite(observed):
        return SwapTest(None, len(moving), len(gap))
    rng = np.random.default_rng(seed)
    extreme, step = 0, max(1, BLOCK // max(len(moving), 1))
    for start in range(0, draws, step):
        swapped = rng.random((min(step, draws - start), len(moving))) < 0.5
        moved = swapped.astype(np.float64) @ moving
        found = np.abs(_value(second, b.sum(axis=0) - moved) - _value(first, a.sum(axis=0) + moved))
        # An undefined difference counts against the finding; rounding must not make a tie smaller than it is.
        extreme += int((~(found < abs(observed) * (1 - 1e-9))).sum())
    return SwapTest((extreme + 1) / (draws + 1), len(moving), len(gap))


def _sums(measure: Measure | Functional, clusters: np.ndarray) -> np.ndarray:
    """Sums of each cluster under treatment: [n_clusters, 2] of a ratio, [n_clusters, n_terms] of a functional."""
    if isinstance(measure, Functional):
        return cluster_sums(measure.row(TREATED).T, clusters).T
    return cluster_sums(np.stack(measure.row(TREATED)), clusters).T


def _value(measure: Measure | Functional, sums: np.ndarray) -> np.ndarray:
    """Values [...] of sums [..., 2 or n_terms]."""
    if isinstance(measure, Functional):
        return measure.function(sums)
    return ratio(sums[..., 0], sums[..., 1], measure.scale)


@dataclass(frozen=True)
class Discordant:
    """Exact McNemar test of two runs: prompts that count as an event in one of them only, among ``n`` of both."""

    first_only: int
    second_only: int
    n: int
    p: float


def mcnemar(first: Measure, second: Measure) -> Discordant:
    """Exact McNemar test of the events under treatment, over the prompts that both runs count.

    Prompt by prompt: that prompts of one item are alike is not taken into account (see :func:`swap_test`).

    Args:
        first, second: measures that count (:attr:`Measure.is_count`) of the same prompts in the same order.
    """
    from scipy.stats import binomtest

    both = first.counting & second.counting
    a, b = (measure.row(TREATED)[0][both] > 0 for measure in (first, second))
    alone = int((a & ~b).sum()), int((b & ~a).sum())
    return Discordant(*alone, int(both.sum()), float(binomtest(alone[0], sum(alone)).pvalue) if sum(alone) else 1.0)


@dataclass(frozen=True)
class Overlap:
    """How many members two sets share, beside two random sets of these sizes.

    ``p``: probability that random sets share as many or more. ``iou``: shared / members of either.
    """

    shared: int
    iou: float
    expected_shared: float
    expected_iou: float
    p: float


def chance_overlap(groups: Sequence[tuple[int, int, int, int]]) -> Overlap:
    """Overlap of two sets, made of groups (layers) with (shared, in the first, in the second, in all) members each.

    In each group the number that two random sets share is hypergeometric; over groups the numbers add.

    Raises:
        ValueError: both sets are empty.
    """
    from scipy.stats import hypergeom

    shared, first, second, _ = (sum(column) for column in zip(*groups, strict=True))
    if first + second == 0:
        raise ValueError("both sets are empty")
    chance = np.ones(1)  # probability of every number shared
    for _, a, b, n in groups:
        chance = np.convolve(chance, hypergeom.pmf(np.arange(min(a, b) + 1), n, a, b))
    numbers = np.arange(len(chance))
    return Overlap(
        shared=shared,
        iou=shared / (first + second - shared),
        expected_shared=float(numbers @ chance),
        expected_iou=float(numbers / (first + second - numbers) @ chance),
        p=min(1.0, float(chance[shared:].sum())),
    )
