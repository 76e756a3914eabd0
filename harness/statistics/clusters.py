"""Prompts come in clusters (the prompts of one fact): what a share, a mean or a difference is worth then.

The value of a measure is a ratio of sums, R = sum(y) / sum(x). Its linearised residual in cluster c is e_c = sum_c(y) -
R sum_c(x), and its variance over draws of g clusters is g / (g - 1) sum(e_c^2) / sum(x)^2 (Taylor linearisation:
Woodruff 1971, J. Am. Stat. Assoc. 66, 411-414). Clusters in which nothing counts are none of the g.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.statistics.measure import TREATED, Measure, ratio

MOST_IN_TURN = 8
"""Prompts of a cluster up to which numpy adds them one after another."""


def cluster_sums(array: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Sums over the prompts of each cluster, in float64: [rows, n_prompts] -> [rows, n_clusters]."""
    if array.shape[1] == 0:
        return array.astype(np.float64)
    if len(array) > 1 and array.strides[0] == 0:  # views of one row
        return np.repeat(cluster_sums(array[:1], clusters), len(array), axis=0)
    order = np.argsort(clusters, kind="stable")
    starts = np.flatnonzero(np.diff(clusters[order], prepend=clusters[order[0]] - 1))
    if (order[1:] < order[:-1]).any():
        array = array[:, order]
    size = len(order) // len(starts)
    if size <= MOST_IN_TURN and np.array_equal(starts, np.arange(0, len(order), size)):
        return _sums_of(array.reshape(len(array), -1, size))
    return np.add.reduceat(array, starts, axis=1, dtype=np.float64)


def _sums_of(parts: np.ndarray) -> np.ndarray:
    """Sums over the last, short axis, bit by bit those of ``np.add.reduceat``: the first and the sum of the others.

    In C order: sums of these sums depend on it.
    """
    if parts.dtype == bool:
        counts: np.ndarray = parts.sum(axis=-1, dtype=np.uint8).astype(np.float64, order="C")
        return counts
    first, *others = (parts[..., i].astype(np.float64, order="C") for i in range(parts.shape[-1]))
    if others:
        for other in others[1:]:
            others[0] += other
        first += others[0]
    return first


@dataclass(frozen=True)
class Linearised:
    """Conditions of a measure, linearised. Influences [n_clusters], e_c / sum(x), are what each cluster adds to the
    deviation of a value.

    Attributes:
        values: value of each condition [rows], before the measure's scale; NaN where nothing counts.
        variance: of each value over draws of clusters [rows]; NaN with fewer than two.
        counting: in how many clusters something counts [rows]. trials: sum(x) [rows].
        sizes: mean size of a prompt's cluster, of the prompts that count [rows]; at least 1.
        treated: influence on the treated value. controls: mean influence on the controls that have a value.
    """

    values: np.ndarray
    variance: np.ndarray
    counting: np.ndarray
    trials: np.ndarray
    sizes: np.ndarray
    treated: np.ndarray
    controls: np.ndarray


def spread(influence: np.ndarray, counting: np.ndarray | int) -> np.ndarray:
    """Variance of what has these influences [..., n_clusters], of which so many clusters count; NaN below two."""
    g = np.asarray(counting, np.float64)
    return np.asarray((influence**2).sum(axis=-1) * ratio(g, g - 1, 1.0) * np.where(g > 1, 1.0, np.nan))


def linearise(measure: Measure, clusters: np.ndarray) -> Linearised:
    """All conditions of a ratio; ``clusters``: cluster number of every prompt [n_prompts]."""
    there = np.isfinite(measure.values)
    found: list[tuple[np.ndarray, ...]] = []
    treated, controls, n = np.zeros(0), np.zeros(0), 0
    for rows in measure.blocks:
        numerator, denominator = measure.parts(rows)
        x = cluster_sums(denominator, clusters)
        y = cluster_sums(numerator, clusters)  # 0 where the denominator is
        trials = x.sum(axis=1)
        values = ratio(y.sum(axis=1), trials, 1.0)
        influence = np.nan_to_num(ratio(y - np.nan_to_num(values)[:, None] * x, trials[:, None], 1.0))
        sizes = np.maximum(np.nan_to_num(ratio((x**2).sum(axis=1), trials, 1.0)), 1.0)
        counting = (x > 0).sum(axis=1)
        found.append((values, spread(influence, counting), counting, trials, sizes))
        if rows.start <= TREATED < rows.stop:
            treated = influence[TREATED - rows.start].copy()
        for place in range(max(TREATED + 1, rows.start), rows.stop):
            if there[place]:  # one after another, as numpy adds rows
                row = influence[place - rows.start]
                controls, n = (controls + row if n else row.copy()), n + 1
    values, variance, counting, trials, sizes = (np.concatenate(column) for column in zip(*found, strict=True))
    return Linearised(values, variance, counting, trials, sizes, treated, controls / max(n, 1))


def design_effect(measure: Measure, clusters: np.ndarray) -> float:
    """:func:`design_effect_of` a measure."""
    return design_effect_of(linearise(measure, clusters))


def design_effect_of(found: Linearised) -> float:
    """How many times the variance of the treated share is that of as many independent prompts; at least 1.

    1 + (b - 1) rho (Kish 1965, Survey Sampling, section 5.4), where b is the mean size of a prompt's cluster, of the
    prompts that count, and rho how alike prompts of a cluster are: pooled over all conditions, so that one with few
    events, or none, has it, too. It is the least squares fit of the cluster variances of the conditions' counts, each
    with its own b: of a share *of those that ...* three prompts of a fact may count in one condition and one in
    another. Where all count alike it is the sum of the cluster variances over the sum of the binomial ones. Where no
    condition has both events and others, nothing can be told and prompts of a cluster are taken for copies (rho = 1).
    """
    binomial = ratio(found.values * (1 - found.values), np.maximum(found.trials - 1, 0), 1.0)
    usable = (binomial > 0) & (found.counting > 1)
    size, g = float(found.sizes[TREATED]), int(found.counting[TREATED])
    if not usable.any():
        return size
    more, times = found.sizes[usable] - 1, found.trials[usable] ** 2
    fit = float((more**2 * times * binomial[usable]).sum())
    rho = float((more * times * (found.variance - binomial)[usable]).sum()) / fit if fit else 0.0
    return float(np.clip(1 + (size - 1) * rho, 1.0, size * g / max(g - 1, 1)))


def korn_graubard(
    events: float, trials: float, deff: float, clusters: int, level: float = 0.95
) -> tuple[float, float] | None:
    """Interval of a share of clustered prompts, in [0, 1]: Clopper & Pearson's at the effective number of trials.

    That is trials / deff (Korn & Graubard 1998, Survey Methodology 24(2), 193-201), for every count, 0 included. Their
    further factor for the degrees of freedom of deff is left out: deff is pooled over conditions and never below 1, and
    with the factor 5 to 30 clusters are covered more than 98% of the time (benchmarks/calibration.py).

    Args:
        deff: :func:`design_effect`. clusters: how many of them count.

    Returns:
        None without trials, or with fewer than two clusters.
    """
    from scipy.stats import beta

    if trials <= 0 or clusters < 2:
        return None
    tail, n = (1 - level) / 2, trials / max(deff, 1.0)
    k = n * events / trials
    low = float(beta.ppf(tail, k, n - k + 1)) if events > 0 else 0.0
    high = float(beta.isf(tail, k + 1, n - k)) if events < trials else 1.0
    return low, high


def mover(
    first: tuple[float, float, float], second: tuple[float, float, float], correlation: float = 0.0
) -> tuple[float, float]:
    """Interval of first - second from (value, low, high) of each: the method of variance estimates recovery.

    Each limit takes the distance of the two own limits that it depends on (Zou & Donner 2008, Stat. Med. 27, 1693-1702;
    with the correlation of the two estimates, Zou 2007, Psychol. Methods 12, 399-413).
    """
    (a, a_low, a_high), (b, b_low, b_high) = first, second

    def distance(x: float, y: float) -> float:
        return float(np.sqrt(max(0.0, x * x + y * y - 2 * correlation * x * y)))

    return a - b - distance(a - a_low, b_high - b), a - b + distance(a_high - a, b - b_low)
