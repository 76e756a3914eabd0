"""Which prompts? Intervals from resampling whole clusters (the prompts of one fact together)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from harness.files.wording import counted
from harness.statistics.blocks import blocks, budget, on_disk
from harness.statistics.clusters import cluster_sums
from harness.statistics.measure import TREATED, Aggregated, AnyMeasure, Functional, Measure, known_values, ratio

FEW_RESAMPLES, FEW_ROWS = 200, 20
"""Resamples of measures that cannot be resampled by sums, and conditions (the treated one and controls) of these and of
those that have many terms."""

FUNCTIONAL_CELLS = 8_000_000
"""Resampled sums of a functional's terms that are held at once."""

KEPT_WEIGHTS = 8_000_000
"""Weights that are kept for the next measure of the same prompts."""

WHOLE = 2**24
"""Below it float32 holds every whole number."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval, and how it was made; ``undefined``: resamples left out because their denominator was 0."""

    low: float
    high: float
    level: float
    method: str
    undefined: int = 0


def _weights(n: int, seed: int, resamples: int, block: int) -> Iterator[np.ndarray]:
    """How often each of n clusters is drawn in bootstrap resamples, in blocks [<= block, n]; fixed by ``seed``.

    A resample draws as many clusters as there are, with replacement; the draws do not depend on the size of a block.
    """
    if n * resamples <= KEPT_WEIGHTS:
        yield from _kept(n, seed, resamples, block)
        return
    stored = _stored(n, seed, resamples)
    for start in range(0, len(stored), block):
        yield stored[start : start + block]


@lru_cache(maxsize=2)
def _kept(n: int, seed: int, resamples: int, block: int) -> tuple[np.ndarray, ...]:
    return tuple(x.astype(np.float32) for x in _drawn(n, seed, resamples, block))


@lru_cache(maxsize=1)
def _stored(n: int, seed: int, resamples: int) -> np.ndarray:
    """Of many clusters: a byte each [resamples, n], within half of the budget in memory, else on the disk."""
    drawn = (_bytes(x) for x in _drawn(n, seed, resamples, max(1, _block(n) // 8)))  # few: they are int64 at first
    if n * resamples <= budget() // 2:
        return np.concatenate([np.empty((0, n), np.uint8), *drawn])
    return on_disk(drawn).reshape(-1, n)


def _bytes(drawn: np.ndarray) -> np.ndarray:
    """Small whole numbers, a byte each: that a cluster is drawn 256 times instead of once does not happen."""
    found = drawn.astype(np.uint8)
    assert (found == drawn).all(), "a cluster was drawn more than 255 times"
    return found


def _drawn(n: int, seed: int, resamples: int, block: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for start in range(0, resamples if n > 1 else 0, block):
        b = min(block, resamples - start)
        drawn = rng.integers(n, size=(b, n)) + n * np.arange(b)[:, None]
        yield np.bincount(drawn.ravel(), minlength=b * n).reshape(b, n)


def _factor(sums: np.ndarray) -> np.ndarray:
    """What weights are multiplied with: sums over clusters [n_clusters, rows], in float32 where this is exact.

    Sums of events in as many clusters as there are stay whole numbers that float32 holds; other sums are float64.
    """
    most = float(np.abs(sums).max(initial=0.0)) * len(sums)
    return sums.astype(np.float32) if most < WHOLE and (np.rint(sums) == sums).all() else sums


def _times(weights: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Sums in resamples, float64 [B, rows]."""
    found: np.ndarray = weights.astype(factor.dtype, copy=False) @ factor
    return found.astype(np.float64, copy=False)


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
    n_prompts = measure.numerator.shape[1]
    if len(clusters) != n_prompts:
        raise ValueError(f"{counted(len(clusters), 'cluster number')} for {counted(n_prompts, 'prompt')}")
    yield from _resampled_ratio(measure, list(rows), clusters, seed, resamples)


PRODUCT = 4_000_000
"""Sums over clusters that resamples are multiplied with at once. Fixed: no result depends on how much may be held."""


def _stretches(n_rows: int, per_row: int) -> list[slice]:
    """Rows that are multiplied with resamples together; a few that are left go with those before them."""
    step = max(16, PRODUCT // max(per_row, 1))
    starts = list(range(0, n_rows, step))
    if len(starts) > 1 and n_rows - starts[-1] < 16:
        starts.pop()
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], n_rows], strict=True)]


def _gathered(
    some: Sequence[tuple[slice, Iterator[np.ndarray]]], n_rows: int, resamples: int, block: int
) -> Iterator[np.ndarray]:
    """Values of stretches of rows, each in blocks of resamples, as blocks of all rows [<= block, n_rows]."""
    if len(some) == 1:
        yield from some[0][1]
        return
    found = np.empty((resamples, n_rows))
    for place, values in some:
        for i, part in enumerate(values):
            found[i * block : i * block + len(part), place] = part
    for start in range(0, resamples, block):
        yield found[start : start + block]


def _resampled_ratio(
    measure: Measure, rows: list[int], clusters: np.ndarray, seed: int, resamples: int
) -> Iterator[np.ndarray]:
    n = len(np.unique(clusters))
    if n < 2:
        return
    shared = _shared(measure, rows)

    def of(some: slice) -> Iterator[np.ndarray]:
        numerator, denominator = (_factor(x) for x in _sums(measure, rows[some], clusters, n, shared))
        for weights in _weights(n, seed, resamples, _block(n)):
            yield ratio(_times(weights, numerator), _times(weights, denominator), measure.scale)

    stretches = [(some, of(some)) for some in _stretches(len(rows), n)]
    yield from _gathered(stretches, len(rows), resamples, _block(n))


def _shared(measure: Measure, rows: list[int]) -> bool:
    """Whether the denominators of all rows are the first one's, as in every share of a fixed set of prompts."""
    if rows == list(range(TREATED, len(measure.numerator))):
        return measure.tally.shared
    first = measure.row(rows[0])[1]
    return all((measure.row(row)[1] == first).all() for row in rows)


def _sums(
    measure: Measure, rows: list[int], clusters: np.ndarray, n: int, shared: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of numerators and denominators over the n clusters [n, rows]; of shared denominators [n, 1]."""
    y, x = np.empty((len(rows), n)), np.empty((1 if shared else len(rows), n))
    for some, given in _followed(rows, len(clusters)):
        numerator, denominator = measure.parts(given)
        y[some] = cluster_sums(numerator, clusters)
        if not shared:
            x[some] = cluster_sums(denominator, clusters)
        elif some.start == 0:
            x[:] = cluster_sums(denominator[:1], clusters)
    return y.T, x.T


def _followed(rows: list[int], per_condition: int) -> Iterator[tuple[slice, slice]]:
    """Places among ``rows`` of conditions that follow one another, a few at a time, and which conditions they are."""
    starts = [0, *(i for i in range(1, len(rows)) if rows[i] != rows[i - 1] + 1), len(rows)]
    for start, stop in itertools.pairwise(starts):
        for some in blocks(stop - start, per_condition):
            yield (
                slice(start + some.start, start + some.stop),
                slice(rows[start] + some.start, rows[start] + some.stop),
            )


def _resampled_functional(
    measure: Functional, rows: Sequence[int], clusters: np.ndarray, seed: int, resamples: int
) -> Iterator[np.ndarray]:
    _, n_prompts, n_terms = measure.terms.shape
    rows, n = list(rows), len(np.unique(clusters))
    if len(clusters) != n_prompts:
        raise ValueError(f"{counted(len(clusters), 'cluster number')} for {counted(n_prompts, 'prompt')}")
    block = min(_block(n), max(1, FUNCTIONAL_CELLS // max(len(rows) * n_terms, 1)))
    if n < 2:
        return

    def of(some: slice) -> Iterator[np.ndarray]:
        own = rows[some]
        sums = np.empty((len(own), n_terms, n))
        for place, given in _followed(own, n_prompts * n_terms):
            terms = measure.parts(given).transpose(0, 2, 1)
            sums[place] = cluster_sums(terms.reshape(-1, n_prompts), clusters).reshape(-1, n_terms, n)
        factor = _factor(sums.reshape(-1, n).T)
        for weights in _weights(n, seed, resamples, block):
            yield measure.function(_times(weights, factor).reshape(len(weights), len(own), n_terms))

    stretches = [(some, of(some)) for some in _stretches(len(rows), n * n_terms)]
    yield from _gathered(stretches, len(rows), resamples, block)


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


def percentile(values: Sequence[np.ndarray], level: float, clusters: int) -> Interval | None:
    """Percentiles of resampled values, which come in blocks, at a level that is widened for few clusters.

    The plain middle ``level`` is too narrow by sqrt(g / (g - 1)), which a resample's variance lacks, and by what t with
    g - 1 degrees of freedom is wider than normal: the level becomes 2 Phi(sqrt(g / (g - 1)) t) - 1 (Hesterberg 2015,
    Am. Stat. 69(4), 371-386, section 4.2). None with fewer than two clusters, or when no resample has a value.
    """
    from scipy.stats import norm, t

    drawn = np.concatenate([np.empty(0), *values])
    known = known_values(drawn)
    if len(known) == 0 or clusters < 2:
        return None
    tail = float(norm.sf(np.sqrt(clusters / (clusters - 1)) * t.isf((1 - level) / 2, clusters - 1)))
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(
        float(low), float(high), level, "bootstrap over clusters, widened percentiles", len(drawn) - len(known)
    )


@dataclass(frozen=True)
class Draws:
    """A measure in bootstrap resamples of clusters.

    Attributes:
        treated: the treated value in each of B resamples [B]; NaN where undefined. difference: treated minus the mean
            of the controls that were resampled [B].
        difference_of_rows: the same of the values themselves, over those controls.
        noise: standard deviation, over resamples, of a control's distance from the controls' mean, in the mean over
            controls: what other prompts would change. NaN with fewer than two controls.
        critical: for some ranks r, the 80% quantile, over resamples, of how far the r-th highest control lies above the
            controls' mean, and of how far the r-th lowest lies below it (:mod:`harness.statistics.power`).
    """

    treated: np.ndarray
    difference: np.ndarray
    difference_of_rows: float
    noise: float
    critical: Mapping[int, tuple[float, float]]


def draw(
    measure: AnyMeasure, clusters: np.ndarray, seed: int, resamples: int = 2000, ranks: Sequence[int] = ()
) -> Draws:
    """Resample all conditions of a measure once, for everything that is asked of the resamples."""
    values = measure.values[TREATED:]
    rows = range(TREATED, TREATED + min(len(values), FEW_ROWS if measure.few else len(values)))
    controls = values[1 : len(rows)]
    order = np.argsort(controls, kind="stable")[: len(known_values(controls))]  # NaN come last
    ranks = [r for r in ranks if r <= len(order)] if not measure.few else []
    places = np.array([order[place] for r in ranks for place in (-r, r - 1)], int)  # above, below the mean
    treated, difference, at_places = [np.empty(0)], [np.empty(0)], [np.empty((0, len(places)))]
    sums, squares, known = np.zeros(len(controls)), np.zeros(len(controls)), np.zeros(len(controls))
    for block in resampled(measure, rows, clusters, seed, resamples):
        block = np.where(np.isfinite(block), block, np.nan)  # by nothing is divided, whatever a function makes of it
        others = block[:, 1:]
        there = ~np.isnan(others)
        mean = ratio(np.where(there, others, 0.0).sum(axis=1), there.sum(axis=1), 1.0)
        away = np.where(there, others - np.nan_to_num(mean)[:, None], 0.0)
        sums, squares, known = sums + away.sum(axis=0), squares + (away**2).sum(axis=0), known + there.sum(axis=0)
        treated.append(block[:, 0])
        difference.append(block[:, 0] - mean)
        at_places.append(np.where(there[:, places], away[:, places], np.nan))
    variance = (squares - ratio(sums**2, known, 1.0))[known > 1] / (known[known > 1] - 1)
    return Draws(
        np.concatenate(treated),
        np.concatenate(difference),
        float(measure.treated - known_values(controls).mean()) if len(known_values(controls)) else float("nan"),
        float(np.sqrt(max(variance.mean(), 0.0))) if len(variance) > 1 else float("nan"),  # rounding may take it below
        dict(zip(ranks, _reached(np.concatenate(at_places)), strict=True)),
    )


FOUND = 0.8
"""Of the resamples; other control sets, whose most extreme ones lie elsewhere, make it about three in four runs."""


def _reached(away: np.ndarray) -> Iterator[tuple[float, float]]:
    """Quantiles above and below the mean, of distances [B, 2 n_ranks]; NaN where no resample has a value."""
    for i in range(0, away.shape[1], 2):
        above, below = (known_values(side) for side in (away[:, i], -away[:, i + 1]))
        yield tuple(float(np.quantile(x, FOUND)) if len(x) else float("nan") for x in (above, below))  # type: ignore[misc]
