"""Verdicts: decided by rule, from what is known of a measure and of its family."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from statistics_tools import measure, share_of_events

from harness.statistics import (
    VERDICTS,
    Circumstances,
    Functional,
    Measure,
    MeasureSummary,
    Spread,
    Verdict,
    control_summary,
    detectable,
    family_of,
    needed,
    permutation_test,
    reachable,
    summarise,
    verdict,
)
from harness.statistics.functionals import moments, pearson
from harness.statistics.power import ranks


def judge(m: Measure, clusters: np.ndarray | None = None, **around: Any) -> Verdict:
    """The verdict of a run's only primary measure."""
    found = summarise(m, np.arange(m.numerator.shape[1]) if clusters is None else clusters, 0, resamples=300)
    return said(found, m.values[2:], **around)


def said(found: MeasureSummary, controls: np.ndarray, **around: Any) -> Verdict:
    treated = np.nan if found.value is None else found.value
    return verdict(found, family_of([treated], controls[None], [found.null]), 0, Circumstances(**around))


def means(treated: float, controls: np.ndarray, n: int = 400, noise: float = 0.05, null: float = 0.0) -> Measure:
    """A measure in nats with these values, and little that depends on the prompts."""
    rng = np.random.default_rng(0)
    around = noise * rng.normal(size=(len(controls) + 2, n))
    values = np.array([np.nan_to_num(null), treated, *controls])
    return measure(values[:, None] + around - around.mean(axis=1)[:, None], unit="nats", scale=1.0, null=null)


SETS = np.random.default_rng(1).normal(size=199)


def test_more_and_less_and_opposite() -> None:
    high = 0.01 * SETS + 0.1  # controls that all raise it
    for value, word in (
        (0.2, "more than random"),
        (0.02, "less than random"),
        (0.0, "less than random"),
        (-0.02, "opposite direction"),
        (-0.3, "opposite direction"),
    ):
        assert judge(means(value, high)).word == word, value
        mirrored = judge(means(-value, -high))
        assert mirrored.word == word, value
    assert judge(means(0.2, 0.01 * SETS)).word == "more than random"
    assert judge(means(-0.2, 0.01 * SETS + 0.004)).word == "more than random"  # no direction to be opposite to
    assert judge(means(4.0, 0.01 * SETS + 5.1, null=5.0)).word == "opposite direction"
    assert judge(means(5.05, 0.01 * SETS + 5.2, null=5.0)).word == "less than random"
    above = judge(means(0.2, 0.01 * SETS, null=float("nan")))
    assert above.word == "more than random"  # no value means no effect: higher
    assert judge(means(-0.2, 0.01 * SETS, null=float("nan"))).word == "less than random"


def test_controls_of_one_side_and_treated_of_the_other_is_not_less() -> None:
    """Controls +.0075, treated -.0070, 13.5 sd apart: it used to read "less than random neurons"."""
    found = judge(means(-0.0070, 0.00107 * SETS + 0.0075, noise=1e-4))
    assert found.word == "opposite direction" and "-0.007" in found.sentence


def test_few_changes_are_no_reason_to_say_nothing() -> None:
    """None changed where random sets change seven: "underpowered" threw that away."""
    found = judge(share_of_events([0.0, *[0.008] * 999], 900), np.arange(900) // 3)
    assert found.word == "less than random"


def test_p_equal_to_alpha_is_enough() -> None:
    for m, word in ((18, "cannot tell"), (19, "more than random")):  # 1 / 20 is 0.05
        found = judge(share_of_events([0.4, *[0.05] * m], 900))
        assert found.word == word, m
    assert "19 or more" in judge(share_of_events([0.4, *[0.05] * 18], 900)).sentence


def test_apart_by_no_more_than_d() -> None:
    same = judge(means(0.001, 0.01 * SETS, noise=0.01))
    assert same.word == "no more than d apart" and "2 sd of the random sets" in same.sentence
    assert same.margin == pytest.approx(2 * 0.01 * SETS.std(ddof=1), rel=1e-6)
    strict = judge(means(0.001, 0.01 * SETS, noise=0.01), margin=0.0015)
    assert strict.word == "inconclusive" and strict.margin == 0.0015
    wide = judge(means(0.001, 0.01 * SETS, noise=0.01), margin=0.1)
    assert wide.word == "no more than d apart" and "sd of" not in wide.sentence
    noisy = judge(means(0.001, 0.01 * SETS, noise=1.0))
    assert noisy.word == "inconclusive" and "about 75% of such runs find" in noisy.sentence


def test_differences_of_percentages_are_points() -> None:
    same = judge(share_of_events([0.05, *[0.05] * 99], 3000), margin=5.0).sentence
    assert "points, 90% interval" in same and "within d = 5 points" in same and "%, 90%" not in same
    open_ = judge(share_of_events([0.05, *[0.05] * 99], 300), margin=0.5).sentence
    assert "points above or" in open_ and "points below the mean" in open_


def test_nothing_can_be_told() -> None:
    one = share_of_events([1.0, *[0.05] * 24], 30)
    one = replace(one, denominator=np.where(np.arange(26)[:, None] == 1, np.arange(30) == 3, one.denominator))
    for m, why in (
        (share_of_events([0.1], 30), "no controls"),
        (measure(np.zeros((25, 30)), np.zeros((25, 30))), "no prompt counts"),
        (measure(np.ones((4, 30)), [[1] * 30, [1] * 30, [0] * 30, [0] * 30]), "no controls"),
        (measure(np.zeros((25, 30))), "the same in all"),
        (measure(np.zeros((25, 0))), "no prompt counts"),
        (one, "100%, but one independent item alone counts"),
        (
            measure(np.ones((40, 30)), [[1] * 30] * 12 + [[0] * 30] * 28),
            "38 random sets, of which 10 have a value, cannot",
        ),
        (measure(1e-9 * np.random.default_rng(0).random((25, 30)), unit="nats", scale=1.0), "the same in all"),
    ):
        found = judge(m)
        assert found.word == "cannot tell" and why in found.sentence, found
    assert judge(share_of_events([0.3, *[0.0] * 30], 200)).word == "more than random"  # only the controls are alike


def test_undefined_is_not_for_want_of_prompts() -> None:
    x = np.random.default_rng(0).normal(size=(25, 30))
    flat = Functional("r", "r", "", np.stack(moments(np.ones_like(x), x), -1), pearson)
    found = said(summarise(flat, np.arange(30), 0, 100), flat.values[2:])
    assert found.word == "cannot tell" and "undefined" in found.sentence


@pytest.mark.filterwarnings("error")
def test_what_is_infinite_in_a_resample_has_no_value_there() -> None:
    terms = np.abs(np.random.default_rng(0).normal(size=(25, 12, 1))) * (np.arange(12) < 3)[:, None]

    def inverse(sums: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.asarray(1 / sums[..., 0])

    found = summarise(Functional("i", "i", "", terms, inverse), np.arange(12), 0, 300)
    assert found.interval is not None and np.isfinite(found.interval.high) and found.interval.undefined > 0
    assert found.spread is not None and np.isfinite(found.spread.noise)


def test_broken_and_blocked() -> None:
    clear = share_of_events([0.4, *[0.05] * 99], 900)
    broken = judge(clear, broken="all ND")
    assert broken.word == "model broken" and "all ND" in broken.sentence
    blocked = judge(clear, blocked="the matched neurons are not like the selected ones.")
    assert blocked.word == "cannot tell" and "not like the selected ones" in blocked.sentence
    same = judge(means(0.001, 0.01 * SETS, noise=0.01), blocked="the matched neurons are not alike.")
    assert same.word == "no more than d apart"


def test_smaller_than_random_on_either_side() -> None:
    """A signed change next to 0 is not extreme; that its size is says the rank of its distance from no effect."""
    sets = np.where(np.arange(199) % 2, 0.3, -0.3) + 0.01 * SETS
    found = judge(means(0.0, sets))
    assert found.word in ("inconclusive", "no more than d apart")
    assert "nearer to no effect than 100% of the random sets (p = 0.01, uncorrected)" in found.sentence


def test_what_would_have_been_found_is_found_in_three_runs_of_four() -> None:
    """A planted effect of the size that a run calls detectable."""
    rng, n, hits, trials = np.random.default_rng(0), 120, 0, 200
    null_run = measure((0.05 * rng.normal(size=101))[:, None] + rng.normal(size=(101, n)), unit="nats", scale=1.0)
    found = judge(null_run).detectable
    assert found is not None
    size = found[0]
    for _ in range(trials):
        values = 0.05 * rng.normal(size=101)
        values[1] += size
        run = measure(values[:, None] + rng.normal(size=(101, n)), unit="nats", scale=1.0)
        p = family_of([run.values[1]], run.values[2:][None], [0.0]).p[0]
        hits += p is not None and p <= 0.05
    assert 0.6 <= hits / trials <= 0.92


def test_to_outdo_all_controls_is_not_enough_with_many_measures() -> None:
    """Six measures of 100 controls: twelve rows outdo all others of theirs, and only five may be as extreme."""
    flat = 0.1 * np.random.default_rng(0).uniform(-1, 1, size=100)  # nothing lies far out
    found = summarise(means(0.0, flat), np.arange(400), 0, resamples=300)
    others = np.random.default_rng(1).normal(size=(5, 100))
    family = family_of([0.0] * 6, np.concatenate([flat[None], others]), [0.0] * 6)
    told = verdict(found, family, 0)
    assert family.rank == 1 and found.spread is not None and told.detectable is not None
    sides, normal = found.critical[1], detectable(found.spread, 400, 100, 6)
    assert max(sides) < normal and told.detectable == (normal, normal)
    for away, expected in ((max(sides) * 1.05, False), (normal * 1.1, True)):
        treated = [away + flat.mean(), *[0.0] * 5]
        assert ((family_of(treated, np.concatenate([flat[None], others]), [0.0] * 6).p[0] or 1) <= 0.05) == expected


def test_what_is_needed() -> None:
    spread = Spread(sets=0.05, noise=0.04, clusters=100)
    here = detectable(spread, 100, 999)
    assert detectable(spread, 400, 999) < here < detectable(spread, 50, 999)
    assert detectable(spread, 100, 999, measures=6) > here and detectable(spread, 100, 18) == math.inf
    enough = needed(spread, here, sets=(999,))
    assert enough is not None and enough.clusters == pytest.approx(100, abs=1)
    less = needed(spread, 0.8 * here)
    assert less is not None and detectable(spread, less.clusters, less.controls) <= 0.8 * here
    assert detectable(spread, less.clusters - 1, less.controls) > 0.8 * here
    assert needed(spread, 0.05) is None  # random sets differ by 0.03 whatever the prompts
    assert ranks(999)[0] == 1 and ranks(999)[-1] == 25 and ranks(0) == []


def test_no_share_lies_below_none() -> None:
    """1.2 points below an average of 0.8% there is nothing that a run could find."""
    assert reachable((2.0, 1.2), 0.8, "%", share=True) == (2.0, None)
    assert reachable((2.0, 0.8), 0.8, "%", share=True) == (2.0, 0.8)  # none of all
    assert reachable((2.0, 1.2), 99.0, "%", share=True) == (None, 1.2)
    assert reachable((0.2, 0.2), 0.9, "share", share=True) == (None, 0.2)
    assert reachable((2.0, 1.2), 0.8, "%", share=False) == (2.0, 1.2)  # a loss, say, may be negative
    rare = judge(share_of_events([0.0, *[0.005] * 99], 200), margin=0.001)
    assert rare.word == "inconclusive" and rare.detectable is not None
    assert re.search(
        r"find what lies \S+ points above the mean of random sets \(no share lies far enough below it\)", rare.sentence
    )


def test_an_inconclusive_run_says_what_to_do() -> None:
    noisy = judge(means(0.0001, 0.0001 * SETS, noise=1.0), items_per_cluster=2.0, limited=True)
    assert noisy.half is not None and "--limit" in noisy.sentence and "--controls" in noisy.sentence
    all_data = judge(means(0.0001, 0.0001 * SETS, noise=1.0), items_per_cluster=2.0, limited=False)
    assert "items of data" in all_data.sentence
    apart = judge(means(0.001, 0.01 * SETS, noise=0.001), margin=1e-6)
    assert apart.half is None and "random sets themselves differ so much" in apart.sentence


def test_summary_of_a_clear_effect() -> None:
    m = share_of_events([0.2, *[0.05] * 199], 900, title="conversion", primary=True)
    clusters = np.arange(900) // 3
    found = summarise(m, clusters, seed=0)
    assert found.count == found.n_changed == m.numerator[1].sum() and found.denominator == 900
    assert found.baseline == 0 and found.value == pytest.approx(m.values[1]) and found.n_clusters == 300
    assert found.test == permutation_test(m.values[1], m.values[2:]) and found.test.p_two_sided == 2 / 200
    assert found.controls == control_summary(m.values[2:])
    assert found.design_effect is not None and 1 <= found.design_effect < 1.1
    row = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert row["ci_low"] < row["value"] < row["ci_high"] and row["controls"]["n"] == row["m"] == 199
    assert row["p_two_sided"] == 0.01 and row["quantile"] == 100 and row["difference_low"] > 0
    assert row["difference_low"] < row["equivalence_low"] < row["equivalence_high"] < row["difference_high"]
    told = said(found, m.values[2:])
    assert told.word == "more than random" and "adjusted p = 0.005" in told.sentence
    assert "199 random sets" in told.sentence and told.word in VERDICTS


@pytest.mark.filterwarnings("error")
def test_summaries_hold_no_nan() -> None:
    for m in (
        share_of_events([0.1], 30),
        measure(np.zeros((5, 30)), np.zeros((5, 30))),
        measure(np.ones((4, 30)), [[1] * 30, [1] * 30, [0] * 30, [0] * 30]),
        measure(np.zeros((5, 30))),
        measure(np.zeros((5, 0))),
        replace(measure(np.ones((5, 30))), unit="nats"),
    ):
        found = summarise(m, np.arange(m.numerator.shape[1]), 0, resamples=200)
        json.dumps(found.to_dict(), allow_nan=False)
        assert said(found, m.values[2:]).word == "cannot tell"
