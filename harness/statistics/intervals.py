"""Which prompts? Intervals of a measure's treated value, and of how far it lies from the mean of the controls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.statistics.bootstrap import Draws, Interval, draw, percentile
from harness.statistics.clusters import Linearised, design_effect_of, korn_graubard, linearise, mover, spread
from harness.statistics.measure import TREATED, AnyMeasure, Measure, known_values

FEW_CLUSTERS = 30
"""Below this the bootstrap of a ratio is too narrow, and t over its linearised standard error is used."""


@dataclass(frozen=True)
class Bearings:
    """What the intervals of one measure are made of.

    Attributes:
        measure: row 1 is treated, the others from 2 on are controls.
        linear: of a ratio. deff: of a share that counts. draws: resampled values, for what is not made in closed form.
        counting: clusters that count under treatment.
    """

    measure: AnyMeasure
    linear: Linearised | None
    deff: float | None
    draws: Draws
    counting: int


def bearings(measure: AnyMeasure, clusters: np.ndarray, draws: Draws) -> Bearings:
    """Linearise a measure where it can be; ``clusters``: [n_prompts]."""
    counting = len(np.unique(clusters[measure.counting]))
    linear = linearise(measure, clusters) if isinstance(measure, Measure) else None
    deff = design_effect_of(linear) if linear is not None and measure.is_count else None
    return Bearings(measure, linear, deff, draws, counting)


def interval(found: Bearings, level: float = 0.95) -> Interval | None:
    """Interval of the treated value over other prompts; None with fewer than two clusters that count.

    - A share that counts: Korn & Graubard's (:func:`korn_graubard`), whatever the count.
    - A ratio over fewer than 30 clusters: value +- t(g - 1) * linearised standard error.
    - All else: percentiles of a bootstrap over clusters, their level widened for the number of clusters
      (:func:`harness.statistics.bootstrap.percentile`).

    Where every cluster says the same, the last two are of no width, and there is none: it would say that the value is
    known exactly, and nothing is known of what other clusters say.
    """
    measure, linear = found.measure, found.linear
    if found.counting < 2 or not np.isfinite(measure.treated):
        return None
    if isinstance(measure, Measure) and linear is not None and found.deff is not None:
        events = float(measure.row(TREATED)[0][measure.counting].sum())
        limits = korn_graubard(events, float(linear.trials[TREATED]), found.deff, found.counting, level)
        assert limits is not None
        return Interval(measure.scale * limits[0], measure.scale * limits[1], level, "Korn-Graubard over clusters")
    if isinstance(measure, Measure) and linear is not None and found.counting < FEW_CLUSTERS:
        half = _t(found.counting, level) * abs(measure.scale) * float(np.sqrt(linear.variance[TREATED]))
        value = measure.treated
        return _wide(Interval(value - half, value + half, level, "t over clusters, linearised"))
    return _wide(percentile([found.draws.treated], level, found.counting))


def _wide(found: Interval | None) -> Interval | None:
    return found if found is not None and found.low < found.high else None


def difference_interval(found: Bearings, level: float = 0.95) -> Interval | None:
    """Interval of treated minus the mean of the controls: these neurons on other prompts, against all random sets.

    Prompts are drawn together for both. That the control sets are a sample of all sets adds the variance of their mean,
    sd^2 / m, in quadrature. None with fewer than two clusters that count, or without controls.

    - Shares: the two intervals joined by :func:`mover`, with the correlation that their clusters show.
    - Ratios over fewer than 30 clusters: t; all else: percentiles, as in :func:`interval`.
    - A measure that is resampled on some controls only: their draws, moved to the difference to all of them.
    """
    measure, linear = found.measure, found.linear
    controls = known_values(measure.controls)
    if found.counting < 2 or len(controls) == 0 or not np.isfinite(measure.treated):
        return None
    difference = float(measure.treated - controls.mean())
    sampled = float(controls.var(ddof=1) / len(controls)) if len(controls) > 1 else 0.0
    if isinstance(measure, Measure) and linear is not None:
        if found.deff is not None:
            return _of_shares(found, sampled, level)
        if found.counting < FEW_CLUSTERS:
            over = float(spread(linear.treated - linear.controls, found.counting)) * measure.scale**2
            half = _t(found.counting, level) * float(np.sqrt(over))
            return _wide(_widened(difference, difference - half, difference + half, sampled, level, "t over clusters"))
    drawn = percentile([found.draws.difference], level, found.counting)
    if drawn is None:
        return None
    moved = difference - found.draws.difference_of_rows if measure.few else 0.0
    return _wide(
        _widened(difference, drawn.low + moved, drawn.high + moved, sampled, level, drawn.method, drawn.undefined)
    )


def _of_shares(found: Bearings, sampled: float, level: float) -> Interval:
    """Treated share minus the mean of the controls' shares."""
    measure, linear = found.measure, found.linear
    assert isinstance(measure, Measure) and linear is not None and found.deff is not None
    scale = abs(measure.scale)
    own = interval(found, level)
    assert own is not None
    mean = float(known_values(measure.controls).mean())
    over = float(spread(linear.controls, found.counting))
    covariance = _covariance(linear.treated, linear.controls, found.counting)
    joint = float(np.sqrt(linear.variance[TREATED] * over))
    correlation = float(np.clip(covariance / joint, -1.0, 1.0)) if joint > 0 else 0.0
    half = _t(found.counting, level) * float(np.sqrt(over * scale**2 + sampled))
    low, high = mean - half, mean + half
    if mean in (0.0, measure.scale):  # no control has an event, or all have nothing else: a count as any other
        trials = float(linear.trials[TREATED])
        limits = korn_graubard(mean / scale * trials, trials, found.deff, found.counting, level)
        assert limits is not None
        low, high = (scale * x for x in limits)
    limits_of = mover((measure.treated, own.low, own.high), (mean, low, high), correlation)
    return Interval(*limits_of, level, "MOVER of Korn-Graubard and the controls' mean")


def _covariance(first: np.ndarray, second: np.ndarray, counting: int) -> float:
    """Covariance of two values from their influences [n_clusters] each."""
    return float((first * second).sum()) * counting / (counting - 1)


def _widened(
    value: float, low: float, high: float, variance: float, level: float, method: str, undefined: int = 0
) -> Interval:
    """An interval widened, on each side, by an independent part with this variance."""
    from scipy.stats import norm

    other = float(norm.isf((1 - level) / 2)) * np.sqrt(variance)
    below, above = (float(np.hypot(max(x, 0.0), other)) for x in (value - low, high - value))
    return Interval(value - below, value + above, level, f"{method}, controls' mean in quadrature", undefined)


def _t(clusters: int, level: float) -> float:
    from scipy.stats import t

    return float(t.isf((1 - level) / 2, clusters - 1))


def interval_of(
    measure: AnyMeasure, row: int, clusters: np.ndarray, seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval | None:
    """:func:`interval` of one condition by itself; ``seed``: of the bootstrap, where there is one."""
    one = measure.some([0, row])
    return interval(bearings(one, clusters, draw(one, clusters, seed, resamples)), level)
