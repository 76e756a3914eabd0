"""Which prompts? Intervals from resampling whole clusters (the prompts of one fact together)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.statistics.measure import Aggregated, AnyMeasure, Functional, known_values, ratio
from harness.wording import counted

FEW_RESAMPLES, FEW_ROWS = 200, 20
"""Resamples, and conditions (the treated one and controls), of measures that cannot be resampled by sums."""

FUNCTIONAL_CELLS = 8_000_000
"""Resampled sums of a functional's terms that are held at once."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval, and how it was made; ``undefined``: resamples left out because their denominator was 0."""

    low: float
    high: float
    level: float
    method: str
    undefined: int = 0


def binomial_interval(
    k: int, n: int, method: Literal["wilson", "clopper-pearson"] = "wilson", level: float = 0.95
) -> tuple[float, float] | None:
    """Interval of a single proportion k / n, in [0, 1]; None when n = 0."""
    from scipy.stats import binomtest

    if n == 0:
        return None
    found = binomtest(k, n).proportion_ci(level, {"wilson": "wilson", "clopper-pearson": "exact"}[method])
    return float(found.low), float(found.high)


def cluster_sums(array: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Sums over the prompts of each cluster: [rows, n_prompts] -> [rows, n_clusters]."""
    if array.shape[1] == 0:
        return array.astype(np.float64)
    order = np.argsort(clusters, kind="stable")
    starts = np.flatnonzero(np.diff(clusters[order], prepend=clusters[order[0]] - 1))
    return np.add.reduceat(array[:, order], starts, axis=1, dtype=np.float64)


def _weights(n: int, seed: int, resamples: int, block: int) -> Iterator[np.ndarray]:
    """How often each of n clusters is drawn in bootstrap resamples, in blocks [<= block, n]; fixed by ``seed``.

    A resample draws as many clusters as there are, with replacement; the draws do not depend on the size of a block.
    """
    rng = np.random.default_rng(seed)
    for start in range(0, resamples if n > 1 else 0, block):
        b = min(block, resamples - start)
        drawn = rng.integers(n, size=(b, n)) + n * np.arange(b)[:, None]
        yield np.bincount(drawn.ravel(), minlength=b * n).reshape(b, n).astype(np.float64)


def resampled(
    measure: AnyMeasure, rows: Sequence[int], clusters: np.ndarray, seed: int, resamples: int
) -> Iterator[np.ndarray]:
    """Values of ``rows`` in bootstrap resamples of clusters, in blocks [<= 512, len(rows)]; fixed by ``seed``.

    With W [B, n_clusters] counting the draws, the values of a ratio are (W @ numerator^T) / (W @ denominator^T): one
    matrix product for all conditions; likewise the terms of a functional. Of an aggregated measure, some resamples of
    the first rows only.
    """
    if isinstance(measure, Aggregated):
        yield _resampled_few(measure, rows[:FEW_ROWS], clusters, seed, min(resamples, FEW_RESAMPLES))
        return
    if isinstance(measure, Functional):
        yield from _resampled_functional(measure, rows, clusters, seed, resamples)
        return
    if len(clusters) != measure.numerator.shape[1]:
        raise ValueError(
            f"{counted(len(clusters), 'cluster number')} for {counted(measure.numerator.shape[1], 'prompt')}"
        )
    denominator = measure.denominator[rows]
    if (denominator == denominator[0]).all():  # as in every share of a fixed set of prompts
        denominator = denominator[:1]
    numerator, denominator = (cluster_sums(x, clusters).T for x in (measure.numerator[rows], denominator))
    for weights in _weights(len(numerator), seed, resamples, _block(len(numerator))):
        yield ratio(weights @ numerator, weights @ denominator, measure.scale)


def _resampled_functional(
    measure: Functional, rows: Sequence[int], clusters: np.ndarray, seed: int, resamples: int
) -> Iterator[np.ndarray]:
    terms = measure.terms[rows]
    n_rows, n_prompts, n_terms = terms.shape
    if len(clusters) != n_prompts:
        raise ValueError(f"{counted(len(clusters), 'cluster number')} for {counted(n_prompts, 'prompt')}")
    sums = cluster_sums(terms.transpose(0, 2, 1).reshape(n_rows * n_terms, n_prompts), clusters).T
    block = min(_block(len(sums)), max(1, FUNCTIONAL_CELLS // sums.shape[1]))
    for weights in _weights(len(sums), seed, resamples, block):
        yield measure.function((weights @ sums).reshape(len(weights), n_rows, n_terms))


def _resampled_few(
    measure: Aggregated, rows: Sequence[int], clusters: np.ndarray, seed: int, resamples: int
) -> np.ndarray:
    """The first rows' values in some resamples [resamples, len(rows)]; the controls among them stand for all."""
    members = [np.flatnonzero(clusters == cluster) for cluster in np.unique(clusters)]
    values = np.empty((0, len(rows)))
    for weights in _weights(len(members), seed, resamples, resamples):
        drawn = [np.concatenate([np.repeat(m, int(w)) for m, w in zip(members, row, strict=True)]) for row in weights]
        values = np.array([[measure.value(row, prompts) for row in rows] for prompts in drawn])
    return values


def _block(n: int) -> int:
    """Resamples that are made at once, of n clusters."""
    return max(1, min(512, 4_000_000 // max(n, 1)))


def percentile(values: Sequence[np.ndarray], level: float) -> Interval | None:
    """The middle ``level`` of the resampled values, which come in blocks."""
    drawn = np.concatenate([np.empty(0), *values])
    known = known_values(drawn)
    if len(known) == 0:
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, "percentile bootstrap over clusters", len(drawn) - len(known))


def bootstrap_interval(
    measure: AnyMeasure, row: int, clusters: np.ndarray, seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval | None:
    """Interval of the value of condition ``row``; prompts of the same cluster [n_prompts] are drawn together.

    None with fewer than two clusters, or when no resample has a value.
    """
    return percentile([block[:, 0] for block in resampled(measure, [row], clusters, seed, resamples)], level)


def both_intervals(
    measure: AnyMeasure, clusters: np.ndarray, seed: int, resamples: int, level: float
) -> tuple[Interval | None, Interval | None]:
    """Intervals of the treated value, and of its difference to the mean of the controls in the same resamples."""
    values, differences = [], []
    for block in resampled(measure, range(1, len(measure.values)), clusters, seed, resamples):
        controls = block[:, 1:]
        mean = ratio(np.nansum(controls, axis=1), (~np.isnan(controls)).sum(axis=1), 1.0)
        values.append(block[:, 0])
        differences.append(block[:, 0] - mean)
    return percentile(values, level), percentile(differences, level)


def paired_bootstrap(
    measure: AnyMeasure, clusters: np.ndarray, seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval | None:
    """Interval of treated minus the mean of the controls, paired by resample; None without controls."""
    return both_intervals(measure, clusters, seed, resamples, level)[1]
