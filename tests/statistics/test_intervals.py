"""Intervals over prompts: what they must cover, what they are by definition, and where there are none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statistics_tools import measure, share_of_events

from harness.statistics import (
    Interval,
    Measure,
    design_effect,
    interval_of,
    korn_graubard,
    summarise,
)
from harness.statistics.bootstrap import draw, percentile, resampled
from harness.statistics.clusters import linearise, mover
from harness.statistics.intervals import bearings, difference_interval
from harness.statistics.measure import Aggregated


def binomial_interval(k: int, n: int, method: Any = "wilson") -> tuple[float, float]:
    """Of independent trials."""
    found = stats.binomtest(k, n).proportion_ci(method=method)
    return float(found.low), float(found.high)


def difference(m: Measure, clusters: np.ndarray, seed: int = 0, level: float = 0.95) -> Interval | None:
    return difference_interval(bearings(m, clusters, draw(m, clusters, seed)), level)


# Shares


def test_korn_graubard_is_clopper_pearson_of_independent_prompts() -> None:
    for k, n in ((0, 28), (1, 28), (3, 243), (22, 698), (28, 28)):
        assert korn_graubard(k, n, 1.0, n) == pytest.approx(binomial_interval(k, n, "exact"))
    found = korn_graubard(0, 300, 3.0, 100)
    assert found is not None and found == pytest.approx(korn_graubard(0, 100, 1.0, 100))
    assert korn_graubard(0, 0, 1.0, 5) is None and korn_graubard(3, 9, 1.0, 1) is None


@given(st.integers(0, 40), st.floats(1, 5))
def test_an_event_never_looks_surer_than_none(k: int, deff: float) -> None:
    limits = [korn_graubard(i, 41, deff, 41) for i in range(42)]
    assert all(x is not None for x in limits)
    assert limits[k][1] < limits[k + 1][1] and limits[k][0] <= limits[k + 1][0]  # type: ignore[index]
    assert limits[k][0] <= k / 41 <= limits[k][1]  # type: ignore[index]


def test_design_effect() -> None:
    rng = np.random.default_rng(0)
    alone, triples = np.arange(300), np.repeat(np.arange(300), 3)
    m = share_of_events([0.2, 0.1, 0.3], 300)
    assert 1 <= design_effect(m, alone) < 1.1
    assert design_effect(measure(np.repeat(m.numerator, 3, axis=1)), triples) == pytest.approx(
        3 * design_effect(m, alone), rel=0.05
    )
    free = measure(rng.random((50, 900)) < 0.1)
    assert design_effect(free, triples) < 1.1  # prompts of a fact that have nothing in common
    assert design_effect(measure(np.zeros((4, 900))), triples) == 3  # no event anywhere: taken for copies
    pooled = measure(np.concatenate([np.zeros((2, 900)), np.repeat(rng.random((30, 300)) < 0.1, 3, axis=1)]))
    assert design_effect(pooled, triples) == pytest.approx(3, rel=0.1)  # though nothing happens under treatment


def test_shares_are_covered_rare_ones_too() -> None:
    rng, trials = np.random.default_rng(0), 400
    for facts, rate in ((30, 0.02), (30, 0.2), (100, 0.01), (100, 0.3)):
        clusters, hits = np.repeat(np.arange(facts), 3), 0
        for _ in range(trials):
            rates = np.repeat(rng.beta(3 * rate, 3 * (1 - rate), size=facts), 3)
            m = measure(rng.random((12, 3 * facts)) < rates, scale=1.0, unit="share")
            found = interval_of(m, 1, clusters, 0)
            assert found is not None
            hits += found.low <= rate <= found.high
        assert hits / trials >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials), (facts, rate)


def test_no_event_still_has_an_upper_limit_and_one_event_a_higher_one() -> None:
    alone = np.arange(28)
    none, one = (summarise(measure([[0] * 28, [1] * k + [0] * (28 - k)]), alone, 0) for k in (0, 1))
    assert none.count == 0 and none.interval is not None and one.interval is not None
    assert none.interval.low == 0 and none.interval.high == pytest.approx(12.3, abs=0.1)
    assert one.interval.high == pytest.approx(18.3, abs=0.1) and one.interval.low > 0
    clustered = summarise(measure(np.zeros((3, 300))), np.arange(300) // 3, 0).interval
    assert clustered is not None and clustered.high == pytest.approx(3.6, abs=0.1)  # 100 facts, not 300 prompts
    everything = summarise(measure([[0] * 300, [1] * 300]), np.arange(300) // 3, 0).interval
    assert everything is not None and everything.high == 100 and everything.low < 97


# Means and ratios


@pytest.mark.parametrize(("facts", "least"), [(5, 0.93), (12, 0.93), (29, 0.93), (30, 0.915), (100, 0.925)])
def test_means_are_covered(facts: int, least: float) -> None:
    rng, clusters, hits, trials = np.random.default_rng(facts), np.repeat(np.arange(facts), 3), 0, 400
    for trial in range(trials):
        x = np.repeat(rng.normal(size=facts), 3) + 0.5 * rng.normal(size=3 * facts)
        found = interval_of(measure([0 * x, x], unit="nats", scale=1.0), 1, clusters, trial, resamples=500)
        assert found is not None
        hits += found.low <= 0 <= found.high
    assert least <= hits / trials <= 0.985


def test_linearised_variance_of_a_ratio_is_that_of_the_delta_method() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.gamma(2, size=25), rng.gamma(3, size=25)
    m, g = measure([x, x], [y, y], unit="nats", scale=1.0), 25
    r = x.sum() / y.sum()
    by_hand = g / (g - 1) * ((x - r * y) ** 2).sum() / y.sum() ** 2
    assert linearise(m, np.arange(g)).variance[1] == pytest.approx(by_hand)
    found = interval_of(m, 1, np.arange(g), 0)
    half = stats.t.ppf(0.975, g - 1) * np.sqrt(by_hand)
    assert found is not None and (found.low, found.high) == pytest.approx((r - half, r + half))


def test_percentiles_are_widened_for_few_clusters() -> None:
    drawn = np.random.default_rng(0).normal(size=200_000)
    for clusters in (6, 30, 1000):
        found = percentile([drawn], 0.95, clusters)
        reach = np.sqrt(clusters / (clusters - 1)) * stats.t.ppf(0.975, clusters - 1)
        assert found is not None and found.high == pytest.approx(reach, rel=0.03)
    assert percentile([drawn], 0.95, 1) is None and percentile([], 0.95, 9) is None


def test_resamples_are_reproducible_and_those_of_scipy() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.gamma(2, size=150), rng.gamma(3, size=150)
    m = measure([x, x], [y, y], unit="nats", scale=1.0)
    found = interval_of(m, 1, np.arange(150), 0, resamples=8000)
    assert found == interval_of(m, 1, np.arange(150), 0, resamples=8000)
    assert found != interval_of(m, 1, np.arange(150), 1, resamples=8000)
    widened = 2 * stats.norm.cdf(np.sqrt(150 / 149) * stats.t.ppf(0.975, 149)) - 1
    oracle = stats.bootstrap(
        (x, y), lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis), paired=True, vectorized=True, n_resamples=8000,
        method="percentile", rng=np.random.default_rng(0), batch=1000, confidence_level=widened,
    ).confidence_interval  # fmt: skip
    assert found is not None and np.allclose((found.low, found.high), oracle, rtol=0.012)


def test_draws_are_the_plain_loop() -> None:
    rng = np.random.default_rng(6)
    numerator, clusters = rng.random((5, 40)), rng.integers(12, size=40)
    denominator = (rng.random((5, 40)) < [[1.0], [0.8], [0.6], [0.05], [0.0]]).astype(float)  # controls without a value
    m = measure(numerator * denominator, denominator, unit="nats", scale=2.0)
    drawn = np.random.default_rng(9)
    kinds, values = np.unique(clusters), []
    for _ in range(700):
        prompts = np.concatenate([np.flatnonzero(clusters == kinds[i]) for i in drawn.integers(12, size=12)])
        total, among = m.numerator[:, prompts].sum(axis=1), m.denominator[:, prompts].sum(axis=1)
        values.append([2 * a / b if b else np.nan for a, b in zip(total, among, strict=True)])
    plain = np.array(values)
    found = draw(m, clusters, 9, 700, ranks=(1, 2))
    assert found.treated == pytest.approx(plain[:, 1])
    away = plain[:, 2:] - np.nanmean(plain[:, 2:], axis=1)[:, None]
    assert found.difference == pytest.approx(plain[:, 1] - np.nanmean(plain[:, 2:], axis=1))
    known = ~np.isnan(m.values[2:])
    order = np.flatnonzero(known)[np.argsort(m.values[2:][known])]
    for rank in (1, 2):
        sides = (np.nanquantile(away[:, order[-rank]], 0.8), np.nanquantile(-away[:, order[rank - 1]], 0.8))
        assert found.critical[rank] == pytest.approx(sides)


def test_copies_of_a_prompt_in_its_cluster_do_not_shrink_an_interval() -> None:
    rng = np.random.default_rng(0)
    for m in (share_of_events([0.2, 0.1, 0.1], 300), measure(rng.normal(size=(4, 300)), unit="nats", scale=1.0)):
        shuffled, clusters = rng.permutation(900), np.repeat(np.arange(300), 3)
        copies = replace(
            m, numerator=np.repeat(m.numerator, 3, axis=1), denominator=np.repeat(m.denominator, 3, axis=1)
        )
        mixed = replace(copies, numerator=copies.numerator[:, shuffled])
        for of in (interval_of, lambda m, row, clusters, seed: difference(m, clusters, seed)):
            single: Any = of(m, 1, np.arange(300), 1)
            for other, numbers in ((copies, clusters), (mixed, clusters[shuffled] + 7)):
                found: Any = of(other, 1, numbers, 1)
                assert (found.low, found.high) == pytest.approx((single.low, single.high), rel=0.03)
            naive: Any = of(copies, 1, np.arange(900), 1)
            assert (naive.high - naive.low) < 0.7 * (single.high - single.low)


def test_shares_of_other_prompts_in_every_condition() -> None:
    """Of those that ...: three prompts of a fact count when treated, hardly more than one under the controls."""
    rng, facts, trials, hits, differences = np.random.default_rng(0), 60, 300, 0, 0
    clusters = np.repeat(np.arange(facts), 3)
    for _ in range(trials):
        alike = np.repeat(rng.random((22, facts)) < 0.3, 3, axis=1)
        events = np.where(rng.random((22, 3 * facts)) < 0.9, alike, rng.random((22, 3 * facts)) < 0.3)
        counts = rng.random((22, 3 * facts)) < np.array([0.0, 0.95, *[0.08] * 20])[:, None]
        m = measure(events & counts, counts)
        own, apart = interval_of(m, 1, clusters, 0), difference(m, clusters)
        pooled = bearings(m, clusters, draw(m, clusters, 0, 100)).deff
        assert own is not None and apart is not None and pooled is not None and pooled > 1.5
        differences += apart.low <= 0 <= apart.high
        found = summarise(m, clusters, 0, 100).interval
        assert found is not None
        hits += found.low <= 30 <= found.high
    assert hits / trials >= 0.92 and differences / trials >= 0.92  # they were 0.8 and 0.88


def test_of_a_negative_scale_limits_are_in_order() -> None:
    m = measure(share_of_events([0.3, *[0.1] * 20], 200).numerator, scale=-100.0)
    found, apart = interval_of(m, 1, np.arange(200) // 2, 0), difference(m, np.arange(200) // 2)
    assert found is not None and apart is not None and not m.is_count
    assert found.low < m.values[1] < found.high and apart.low < m.values[1] - m.values[2:].mean() < apart.high


def test_what_is_over_nothing_is_ignored() -> None:
    m = measure([[0, 0, 0, 0], [1, 0, 1, 1], [1, 1, 0, 0]], [[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 1, 1]])
    assert m.is_count and m.values.tolist() == pytest.approx([0, 200 / 3, 0])
    assert linearise(m, np.arange(4)).values * 100 == pytest.approx(m.values)


# Differences to the controls


def test_mover() -> None:
    """Two independent proportions: Newcombe's interval from two of Wilson (1998, his example 56/70 and 48/80)."""
    first, second = binomial_interval(56, 70), binomial_interval(48, 80)
    found = mover((56 / 70, *first), (48 / 80, *second))
    assert found == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert mover((0.3, 0.2, 0.4), (0.3, 0.2, 0.4), 1.0) == pytest.approx((0.0, 0.0))


def test_differences_are_covered() -> None:
    """These neurons on other prompts, against all random sets: prompts and control sets are both drawn."""
    rng, trials, facts = np.random.default_rng(0), 400, 60
    clusters = np.repeat(np.arange(facts), 3)
    for kind, treated in (("nats", 0.4), ("%", 0.08)):
        hits = 0
        for trial in range(trials):
            if kind == "nats":  # sets differ by 0.1 among themselves
                sets = 0.1 * rng.normal(size=40)
                rows = np.array([0.0, treated, *sets])[:, None] + rng.normal(size=(42, 3 * facts))
                m, truth = measure(rows, unit="nats", scale=1.0), treated
            else:
                rates = np.array([0.0, treated, *rng.beta(3, 97, size=40)])[:, None]
                hard = np.repeat(rng.gamma(4, 0.25, size=facts), 3)
                m, truth = measure(rng.random((42, 3 * facts)) < rates * hard), 100 * (treated - 0.03)
            found = difference(m, clusters, trial)
            assert found is not None
            hits += found.low <= truth <= found.high
        assert 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials) <= hits / trials <= 0.995, kind


def test_paired_interval_is_narrower_than_the_marginal_one() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=400)  # hard prompts are hard under every condition
    rows = [shared, shared + 0.3 + 0.1 * rng.normal(size=400), *(shared + 0.1 * rng.normal(size=(20, 400)))]
    m = measure(rows, unit="nats", scale=1.0)
    marginal, paired = interval_of(m, 1, np.arange(400), 0), difference(m, np.arange(400))
    assert marginal is not None and paired is not None
    assert 0.28 < paired.low < 0.3 < paired.high < 0.32
    assert (paired.high - paired.low) < 0.2 * (marginal.high - marginal.low)


def test_a_measure_resampled_on_some_controls_is_compared_with_all() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, size=(102, 60))
    codes[21:, :40] = 1  # the controls from the 20th on lie higher
    m = Aggregated("f1", "F1", "share", codes, [0.0, 1.0], lambda items: float(np.mean(items)))
    found = summarise(m, np.arange(60), 0)
    between, mean = found.difference_interval, float(m.values[2:].mean())
    assert between is not None and found.effects["difference"] == pytest.approx(m.values[1] - mean)
    assert between.low < m.values[1] - mean < between.high


# Where there is none


@pytest.mark.filterwarnings("error")
def test_intervals_that_do_not_exist() -> None:
    m = share_of_events([0.5], 6)
    assert interval_of(m, 1, np.zeros(6, int), 0) is None  # one cluster
    assert difference(m, np.arange(6)) is None  # no controls
    nothing = measure(np.ones((3, 6)), np.zeros((3, 6)))
    assert interval_of(nothing, 1, np.arange(6), 0) is None
    assert interval_of(measure(np.ones((3, 0))), 1, np.arange(0), 0) is None
    with pytest.raises(ValueError, match="5 cluster numbers for 6 prompts"):
        list(resampled(m, [1], np.arange(5), 0, 100))


def test_what_is_the_same_in_every_cluster_is_not_known_exactly() -> None:
    for clusters in (20, 60):  # in closed form, and by the bootstrap
        m = measure(np.zeros((5, clusters)), unit="nats", scale=1.0)
        found = summarise(m, np.arange(clusters), 0, resamples=200)
        assert found.interval is None and found.difference_interval is None, clusters


def test_a_single_cluster_that_counts_has_no_interval_of_a_difference_either() -> None:
    """It used to be of no width, from those resamples that held the cluster, and the verdict was "supported"."""
    counting = np.zeros((50, 30))
    counting[:, 0] = 1
    numerator = np.concatenate([np.zeros((1, 30)), np.full((1, 30), 0.96), np.random.default_rng(0).random((48, 30))])
    found = summarise(measure(numerator, counting, unit="nats", scale=1.0), np.arange(30), 0)
    assert found.n_clusters == 1
    assert found.interval is None and found.difference_interval is None and found.equivalence_interval is None
    two, numerator[1, 1] = counting.copy(), 0.5
    two[:, 1] = 1
    some = summarise(measure(numerator, two, unit="nats", scale=1.0), np.arange(30), 0)
    assert some.n_clusters == 2 and some.interval is not None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 5).map(lambda x: round(x, 9)), min_size=4, max_size=20), st.integers(0, 2**32))
def test_interval_contains_the_value_of_symmetric_data(half: list[float], seed: int) -> None:
    row = np.array([*half, *(-x for x in half)])
    found = interval_of(measure([row, row], unit="nats", scale=1.0), 1, np.arange(len(row)), seed, resamples=500)
    if found is None:
        assert not row.any()  # all are the same
    else:
        assert found.low <= 1e-12 and found.high >= -1e-12
