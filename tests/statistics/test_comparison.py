"""Two runs beside each other: paired intervals, the swap test, McNemar's, and the chance of an overlap."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import norm, t

from harness.statistics import Functional, Measure, chance_overlap, mcnemar, paired_intervals, swap_test


def measure(treated: np.ndarray, controls: np.ndarray | None = None, denominator: np.ndarray | None = None) -> Measure:
    """A share in percent of prompts [n] under treatment, with a baseline of 0 and given controls [m, n]."""
    rows = np.vstack([np.zeros_like(treated), treated, *([] if controls is None else [controls])]).astype(float)
    ones = np.ones_like(rows) if denominator is None else np.broadcast_to(denominator, rows.shape)
    return Measure("share", "share", "%", rows, ones, scale=100.0)


def test_paired_intervals_resample_both_runs_alike() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, 60).astype(float)
    second = first.copy()
    second[:6] = 1 - second[:6]
    clusters = np.repeat(np.arange(20), 3)
    controls = rng.integers(0, 2, (5, 60)).astype(float)
    a, b = measure(first, controls), measure(second, controls)
    interval, beyond = paired_intervals(a, b, clusters, clusters, seed=1, resamples=500)
    assert interval is not None and beyond is not None
    assert (beyond.low, beyond.high) == pytest.approx((interval.low, interval.high))  # the same controls cancel
    drawn = np.random.default_rng(1).integers(20, size=(500, 20))  # as the bootstrap of one run draws
    gap = (second - first).reshape(20, 3).sum(axis=1)
    tail = norm.sf(np.sqrt(20 / 19) * t.isf(0.025, 19))  # widened for 20 items
    wanted = np.quantile(100 * gap[drawn].sum(axis=1) / 60, [tail, 1 - tail])
    assert (interval.low, interval.high) == pytest.approx(tuple(wanted))


def test_paired_intervals_take_prompts_in_any_order_and_number() -> None:
    """The second run has one prompt an item where the first has two, and lists its items backwards."""
    first = np.array([1, 0, 1, 1, 0, 0, 1, 0.0])
    a, b = measure(first), measure(first.reshape(4, 2).mean(axis=1)[::-1].copy())
    interval, beyond = paired_intervals(a, b, np.repeat(np.arange(4), 2), np.arange(4)[::-1], seed=0, resamples=200)
    assert interval is not None and (interval.low, interval.high) == pytest.approx((0, 0), abs=1e-9)
    assert beyond is None  # no controls
    with pytest.raises(ValueError, match="same clusters"):
        paired_intervals(a, b, np.repeat(np.arange(4), 2), np.arange(1, 5), seed=0)
    one = np.zeros(4, int)
    assert paired_intervals(b, b, one, one, seed=0) == (None, None)


def exact_swaps(first: np.ndarray, second: np.ndarray) -> float:
    """Share of all exchanges of two vectors whose difference of means is at least the observed one."""
    gap = second - first
    found = [abs(np.dot(signs, gap)) for signs in itertools.product([1, -1], repeat=len(gap))]
    return float(np.mean([x >= abs(gap.sum()) - 1e-12 for x in found]))


def test_the_swap_test_is_the_exchange_of_items() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=10), rng.normal(0.6, size=10)
    items = np.arange(10)
    found = swap_test(measure(first), measure(second), items, items, seed=0, draws=20_000)
    assert found.p == pytest.approx(exact_swaps(first, second), abs=0.012)
    assert (found.differing, found.n) == (10, 10)
    same = swap_test(measure(first), measure(first), items, items, seed=0)
    assert (same.p, same.differing) == (1.0, 0)
    empty = measure(first, denominator=np.zeros(10))
    assert swap_test(empty, empty, items, items, seed=0).p is None


def test_the_swap_test_is_calibrated_where_prompts_of_an_item_are_alike() -> None:
    """Items shift all their prompts: p-values of runs that do not differ are uniform, and small ones are rare."""
    rng = np.random.default_rng(5)
    items = np.repeat(np.arange(30), 4)
    found = []
    for seed in range(300):
        runs = [np.repeat(rng.normal(size=30), 4) + 0.1 * rng.normal(size=120) for _ in "ab"]
        p = swap_test(measure(runs[0]), measure(runs[1]), items, items, seed, draws=199).p
        assert p is not None
        found.append(p)
    assert 0.02 < np.mean(np.array(found) <= 0.05) < 0.09
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)


def test_functionals_are_compared_as_ratios_are() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(2, 2, 24))
    items = np.arange(24)
    ratios = [measure(x[1], denominator=np.ones(24)) for x in values]
    terms = [np.stack([np.vstack([x[0] * 0, x[1]]), np.ones((2, 24))], axis=-1) for x in values]
    functionals = [Functional("f", "f", "%", x, lambda s: 100 * s[..., 0] / s[..., 1]) for x in terms]
    options = {"first_clusters": items, "second_clusters": items, "seed": 4}
    a, b = (paired_intervals(*pair, resamples=300, **options)[0] for pair in (ratios, functionals))  # type: ignore[arg-type]
    assert a is not None and b is not None and (a.low, a.high) == pytest.approx((b.low, b.high))
    p, q = (swap_test(*pair, draws=300, **options).p for pair in (ratios, functionals))  # type: ignore[arg-type]
    assert p == q


def test_mcnemar_counts_the_discordant_prompts_that_both_runs_count() -> None:
    first, second = np.zeros(100), np.zeros(100)
    first[:2], second[2:24] = 1, 1
    found = mcnemar(measure(first), measure(second))
    assert (found.first_only, found.second_only, found.n) == (2, 22, 100)
    assert found.p == pytest.approx(2 * sum(np.array([1, 24, 276])) / 2**24)  # binomial tail of 2 of 24
    counted = np.ones(100)
    counted[:12] = 0
    found = mcnemar(measure(first, denominator=counted), measure(second))
    assert (found.first_only, found.second_only, found.n) == (0, 12, 88)
    assert mcnemar(measure(first), measure(first)).p == 1.0


def test_the_chance_of_an_overlap_is_that_of_random_sets() -> None:
    """Against every pair of sets of 2 of 5 and, in another layer, 1 of 3 and 2 of 3."""
    of_one = [
        len({*a} & {*b}) for a in itertools.combinations(range(5), 2) for b in itertools.combinations(range(5), 2)
    ]
    of_two = [
        len({*a} & {*b}) for a in itertools.combinations(range(3), 1) for b in itertools.combinations(range(3), 2)
    ]
    shared = np.array([x + y for x in of_one for y in of_two])
    found = chance_overlap([(1, 2, 2, 5), (1, 1, 2, 3)])
    assert (found.shared, found.iou) == (2, 2 / 5)
    assert found.expected_shared == pytest.approx(shared.mean())
    assert found.expected_iou == pytest.approx((shared / (7 - shared)).mean())
    assert found.p == pytest.approx((shared >= 2).mean())
    assert chance_overlap([(0, 6, 6, 512)]).p == pytest.approx(1)
