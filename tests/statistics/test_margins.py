"""Margins of transition tables by facts: against every flip and McNemar, size where prompts move together, power,
and what must not matter."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from harness.statistics import MarginTest, margin_test, margins, table_tests

Data = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Category before and after, and fact, of every prompt."""


@st.composite
def moves(draw: st.DrawFn, k: int = 3, most: int = 24) -> Data:
    """Few prompts of few facts, so that all flips are enumerated."""
    n = draw(st.integers(1, most))
    drawn = [draw(st.lists(st.integers(0, top), min_size=n, max_size=n)) for top in (k - 1, k - 1, 7)]
    before, after, clusters = map(np.array, drawn)
    return before, after, clusters


def same(first: MarginTest, second: MarginTest) -> None:
    assert numbers(first) == pytest.approx(numbers(second), nan_ok=True)


def numbers(found: MarginTest) -> list[float]:
    told = [x for shift in found.shifts for x in asdict(shift).values()]
    known = [found.statistic, found.df, found.p, found.moved, found.smallest, *told]
    return [np.nan if x is None else float(x) for x in known]


# -- what it is --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(moves())
def test_it_is_what_all_flips_of_facts_say(data: Data) -> None:
    before, after, clusters = data
    found = margin_test(*data, 3)
    gains = np.array([[np.sum((after == k) & (clusters == c)) - np.sum((before == k) & (clusters == c))
                       for k in range(3)] for c in np.unique(clusters)], float)  # fmt: skip
    gains = gains[gains.any(axis=1)]
    assert (found.moved, found.clusters, found.exact) == (len(gains), len(np.unique(clusters)), True)
    if not len(gains):
        assert (found.p, found.statistic, found.df, found.smallest) == (None, 0.0, 0, None)
        return
    inverse = np.linalg.pinv(gains.T @ gains)
    flipped = np.array(list(product((1.0, -1.0), repeat=len(gains)))) @ gains  # the first as observed
    statistic = np.einsum("fi,ij,fj->f", flipped, inverse, flipped)
    assert found.statistic == pytest.approx(statistic[0], abs=1e-9)
    assert found.df == np.linalg.matrix_rank(gains)
    assert found.p == pytest.approx((statistic >= statistic[0] - 1e-9).mean())
    assert found.smallest == 2 / len(flipped) and found.p >= found.smallest - 1e-12
    norm = np.sqrt((gains**2).sum(axis=0))
    known = np.flatnonzero(norm)
    t = np.abs(flipped[:, known] / norm[known])
    assert [x.t is not None for x in found.shifts] == (norm > 0).tolist()
    closed = []  # step-down is the closed test: the largest p of the maximum over every set that holds the category
    for i, k in enumerate(known):
        shift = found.shifts[k]
        assert shift.gained == gains[:, k].sum() and abs(shift.t or 0.0) == pytest.approx(t[0, i])
        assert shift.p == pytest.approx((t[:, i] >= t[0, i] - 1e-9).mean())
        sets = [sorted({i, *others}) for others in ((), range(len(known)), *([j] for j in range(len(known))))]
        closed.append(max((t[:, s].max(axis=1) >= t[0, s].max() - 1e-9).mean() for s in sets))
    assert [found.shifts[k].p_adjusted for k in known] == pytest.approx(closed)


@pytest.mark.parametrize(("into", "out"), [(6, 0), (9, 2), (40, 22), (300, 260), (4, 4)])
def test_of_independent_prompts_in_two_categories_it_is_the_exact_mcnemar_test(into: int, out: int) -> None:
    before, after = np.repeat([0, 1, 1], [into, out, 50]), np.repeat([1, 0, 1], [into, out, 50])
    found = margin_test(before, after, np.arange(len(before)), 2)
    exact = binomtest(into, into + out).pvalue
    assert found.exact and found.p == pytest.approx(exact)
    assert found.statistic == pytest.approx((into - out) ** 2 / (into + out))
    assert [(x.gained, x.p_adjusted) for x in found.shifts] == [
        (out - into, pytest.approx(exact)),
        (into - out, pytest.approx(exact)),
    ]


def test_the_modified_obuchowski_statistic_of_two_categories() -> None:
    rng = np.random.default_rng(4)
    before, after, clusters = rng.integers(2, size=90), rng.integers(2, size=90), rng.integers(20, size=90)
    b, c = (np.bincount(clusters, np.less(*x)) for x in ((before, after), (after, before)))
    assert margin_test(before, after, clusters, 2).statistic == pytest.approx((b - c).sum() ** 2 / ((b - c) ** 2).sum())


def test_drawn_flips_are_near_the_enumerated_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    data = correlated(np.random.default_rng(3), 60, 0.3, towards=0.5)
    exact = margin_test(*data, 3)
    monkeypatch.setattr(margins, "MOST_OUTCOMES", 1)
    drawn = margin_test(*data, 3, seed=1)
    assert exact.exact and not drawn.exact and drawn == margin_test(*data, 3, seed=1)
    assert drawn.statistic == exact.statistic and drawn != margin_test(*data, 3, seed=2)
    near, of = ([x.p, *(y.p_adjusted for y in x.shifts)] for x in (drawn, exact))
    assert near == pytest.approx(of, abs=4 * 0.5 / np.sqrt(margins.DRAWS)) and None not in of
    everything = margin_test(np.zeros(300, int), np.ones(300, int), np.arange(300), 2, seed=1)
    assert everything.p == everything.smallest == 1 / (margins.DRAWS + 1)


# -- what must not matter ----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(moves(), st.permutations(range(3)))
def test_the_order_of_categories_does_not_matter(data: Data, order: list[int]) -> None:
    before, after, clusters = data
    place = np.array(order)
    found, other = margin_test(*data, 3), margin_test(place[before], place[after], clusters, 3)
    same(found, replace(other, shifts=tuple(other.shifts[i] for i in order)))


@settings(deadline=None)
@given(moves())
def test_time_reversal_turns_the_signs_only(data: Data) -> None:
    before, after, clusters = data
    found, back = margin_test(*data, 3), margin_test(after, before, clusters, 3)
    turned = (replace(x, gained=-x.gained, t=None if x.t is None else -x.t) for x in back.shifts)
    same(found, replace(back, shifts=tuple(turned)))


@settings(deadline=None)
@given(moves(), st.integers(1, 4), st.randoms(use_true_random=False))
def test_only_what_a_fact_gains_on_balance_matters(data: Data, copies: int, random: Any) -> None:
    found = margin_test(*data, 3)
    before, after, clusters = data
    copied = margin_test(*(np.repeat(x, copies) for x in data), 3)  # the same prompt again is nothing new
    assert (copied.p, copied.df) == (pytest.approx(found.p), found.df)
    assert copied.statistic == pytest.approx(found.statistic)
    assert [x.p_adjusted for x in copied.shifts] == pytest.approx([x.p_adjusted for x in found.shifts])
    order = random.sample(range(len(before)), len(before))
    shuffled = after.copy()  # which of a fact's prompts moved where
    for cluster in np.unique(clusters):
        shuffled[clusters == cluster] = np.roll(after[clusters == cluster], 1)
    same(found, margin_test(before[order], shuffled[order], 9 - clusters[order], 3))
    still = np.full(5, 2)  # prompts that stay, of old facts and of new ones
    more = [np.concatenate(x) for x in ((before, still), (after, still), (clusters, [0, 1, 20, 20, 21]))]
    same(found, margin_test(more[0], more[1], more[2], 3))


@settings(deadline=None)
@given(moves())
def test_a_category_is_tested_as_if_the_others_were_one(data: Data) -> None:
    before, after, clusters = data
    for k, shift in enumerate(margin_test(*data, 3).shifts):
        alone = margin_test(before == k, after == k, clusters, 2)
        assert shift.p == pytest.approx(alone.p) and shift.gained == alone.shifts[1].gained
        assert shift.p is None or (shift.t or 0.0) ** 2 == pytest.approx(alone.statistic)


# -- size and power ----------------------------------------------------------------------------------------------------


def correlated(rng: np.random.Generator, facts: int, rate: float, towards: float = 0.0) -> Data:
    """Three prompts a fact that move together, of some facts; ``towards``: share of those that move to category 0."""
    before = rng.integers(3, size=facts)
    after = np.where(rng.random(facts) < rate, rng.integers(3, size=facts), before)
    after = np.where((after != before) & (rng.random(facts) < towards), 0, after)
    return before.repeat(3), after.repeat(3), np.arange(facts).repeat(3)


def rejected(tables: list[Data]) -> dict[str, float]:
    """Share of the tables in which each test says p <= 0.05; of several p, the smallest adjusted one."""
    found = [table_tests(*data[:2], range(3), data[2], seed) for seed, data in enumerate(tables)]
    p = {
        "margins": [x.margins.p for x in found],
        "categories": [min(y.p_adjusted or 1.0 for y in x.margins.shifts) for x in found],
        "Stuart-Maxwell": [x.stuart_maxwell.p for x in found],
        "Bowker": [x.bowker.p for x in found],
        "McNemar": [min(y.p_holm or 1.0 for y in x.mcnemar) for x in found],
    }
    return {name: float(np.mean([x is not None and x <= 0.05 for x in ps])) for name, ps in p.items()}


def test_size_where_the_prompts_of_a_fact_move_together() -> None:
    rng, n = np.random.default_rng(11), 400
    found = rejected([correlated(rng, 200, 0.2) for _ in range(n)])
    error = np.sqrt(0.05 * 0.95 / n)
    assert abs(found["margins"] - 0.05) < 3 * error and found["categories"] < 0.05 + 3 * error, found
    assert all(found[name] > 0.15 for name in ("Stuart-Maxwell", "Bowker", "McNemar")), found


def test_size_of_few_facts() -> None:
    rng, n = np.random.default_rng(12), 300
    found = rejected([correlated(rng, 12, 0.8) for _ in range(n)])
    assert max(found["margins"], found["categories"]) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / n), found


def test_power_of_a_real_shift() -> None:
    rng = np.random.default_rng(13)
    found = rejected([correlated(rng, 200, 0.2, towards=0.9) for _ in range(100)])
    assert found["margins"] > 0.8 and found["categories"] > 0.8, found


def test_step_down_keeps_the_error_of_the_categories_that_did_not_move() -> None:
    """Everything flows from category 1 to 0; 2 and 3 exchange prompts at random."""
    rng, n, wrong, right = np.random.default_rng(14), 300, 0, 0
    for _ in range(n):
        before = rng.integers(4, size=120)
        after = np.where((before == 1) & (rng.random(120) < 0.4), 0, before)
        swapped = (before > 1) & (rng.random(120) < 0.3)
        after = np.where(swapped, 5 - before, after)
        shifts = margin_test(before.repeat(3), after.repeat(3), np.arange(120).repeat(3), 4).shifts
        p = [1.0 if x.p_adjusted is None else x.p_adjusted for x in shifts]
        wrong += min(p[2:]) <= 0.05
        right += max(p[:2]) <= 0.05
    assert wrong / n < 0.05 + 3 * np.sqrt(0.05 * 0.95 / n) and right / n > 0.8


# -- beside the table --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_nothing_that_moves_on_balance_is_nothing_to_test() -> None:
    still = table_tests(np.array([0, 1, 2]), np.array([0, 1, 2]), range(3), np.arange(3))
    assert still.margins.p is None and still.note is None
    exchanged = table_tests(np.array([0, 1]), np.array([1, 0]), range(3), np.zeros(2, int))  # within one fact
    assert exchanged.n_changed == 2 and exchanged.margins.p is None
    assert exchanged.note == "no independent item moved on balance: there is nothing to test"
    assert margin_test(*(np.array([], int),) * 3, 3).clusters == 0


def test_the_note_says_what_few_facts_cannot_show() -> None:
    def note(moved: int) -> str | None:
        before = np.zeros(60, int)
        return table_tests(before, (np.arange(60) < 3 * moved).astype(int), (0, 1), np.arange(60) // 3).note

    assert note(5) == "only 5 independent items moved: no p by flips can be below 0.062"
    assert note(6) is None  # 2 / 2^6 = 0.03125, however few prompts changed
