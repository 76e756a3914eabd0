"""Statistics: published tables as known answers, exactness of the tests, and what intervals must and must not do."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from checkout import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from harness.errors import HarnessError
from harness.statistics import (
    Measure,
    TableTests,
    adjust,
    control_summary,
    conversion_ratios,
    derive_seed,
    effect_sizes,
    generator,
    permutation_test,
    table_tests,
    transition_table,
)

ORDER = ("CK", "ND", "PK")

# Tighidet et al. 2025 (arXiv 2509.10663), mean ablation, as integers; rows before, columns after, order CK, ND, PK.
TABLES = {
    "gpt2-small": [[9985, 2, 0], [22, 642, 2], [0, 2, 30]],
    "pythia-1.4b": [[6269, 0, 5], [2, 98, 0], [0, 0, 361]],
    "phi-1.5": [[3782, 6, 13], [28, 1090, 13], [6, 2, 1570]],
    "mistral-7b-v0.1": [[2598, 0, 5], [0, 68, 1], [10, 1, 451]],
    "llama-3-8b": [[9301, 7, 35], [2, 29, 1], [1, 1, 209]],
}
# GTS, CKCR, PKCR, NDCR in percent (NDCR as defined, not as printed in the paper); prompts into and out of CK with the
# exact McNemar p; p of Bowker and of Stuart-Maxwell.
ANSWERS = {
    "gpt2-small": (0.262, 3.152, 0.0188, 0.040, 22, 2, 3.6e-5, 8e-4, 2e-4),
    "pythia-1.4b": (0.104, 0.434, 0.0784, 0.000, 2, 5, 0.45, 0.07, 0.03),
    "phi-1.5": (1.045, 1.255, 0.527, 0.149, 34, 19, 0.053, 2e-5, 5e-6),
    "mistral-7b-v0.1": (0.542, 1.883, 0.2245, 0.033, 10, 5, 0.30, 0.64, 0.43),
    "llama-3-8b": (0.490, 1.235, 0.384, 0.084, 3, 42, 9e-10, 1e-7, 3e-8),
}


def rounds_to(value: float | None, printed: float) -> bool:
    """Whether ``value`` is ``printed`` at the digits that are printed."""
    assert value is not None
    text = f"{printed:.0e}" if printed < 1e-3 and float(f"{printed:.0e}") == printed else repr(printed)
    digits = len(text.split("e")[0].replace(".", "").lstrip("0")) or 1
    unit = 10.0 ** (np.floor(np.log10(printed)) - digits + 1) if printed else 1e-3
    return abs(value - printed) <= 0.51 * unit


def measure(numerator: Any, denominator: Any = None, **fields: Any) -> Measure:
    numerator = np.asarray(numerator, dtype=float)
    denominator = np.ones_like(numerator) if denominator is None else np.asarray(denominator, dtype=float)
    fields = {"name": "m", "title": "A measure", "unit": "%", "scale": 100.0, **fields}
    return Measure(numerator=numerator, denominator=denominator, **fields)


# Tables of transitions


def of_counts(table: Any) -> TableTests:
    """Tests of a table [k, k] of independent prompts."""
    table = np.asarray(table, dtype=int)
    before, after = (index.ravel().repeat(table.ravel()) for index in np.indices(table.shape))
    return table_tests(before, after, range(len(table)), np.arange(table.sum()))


EXCHANGE_NOTHING = {"gpt2-small": 1, "pythia-1.4b": 1, "mistral-7b-v0.1": 1}
"""Pairs of categories between which no prompt moved; the published p of Bowker counts them as degrees of freedom."""


@pytest.mark.parametrize("model", TABLES)
def test_published_tables(model: str) -> None:
    gts, ckcr, pkcr, ndcr, into, out, mcnemar, bowker, stuart_maxwell = ANSWERS[model]
    ratios = conversion_ratios(np.array(TABLES[model]), ORDER)
    assert rounds_to(ratios["GTS"], gts)
    assert rounds_to(ratios["CKCR"], ckcr)
    assert rounds_to(ratios["PKCR"], pkcr)
    assert rounds_to(ratios["NDCR"], ndcr)
    tests = of_counts(TABLES[model])
    assert (tests.mcnemar[0].into, tests.mcnemar[0].out) == (into, out)
    assert rounds_to(tests.mcnemar[0].p, mcnemar)
    assert rounds_to(float(stats.chi2.sf(tests.bowker.statistic, 3)), bowker)
    assert tests.bowker.df == 3 - EXCHANGE_NOTHING.get(model, 0)
    assert tests.bowker.p == pytest.approx(stats.chi2.sf(tests.bowker.statistic, tests.bowker.df))
    assert rounds_to(tests.stuart_maxwell.p, stuart_maxwell) and tests.stuart_maxwell.df == 2
    assert tests.note is None


def test_published_tables_are_the_reference_file() -> None:
    file = reference("data/published_transition_tables.json")
    assert json.loads(file.read_text())["tables"] == TABLES


def test_mcnemar_is_that_of_statsmodels() -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    for table in map(np.array, TABLES.values()):
        for i, found in enumerate(of_counts(table).mcnemar):
            pair = [[0, found.into], [found.out, 0]]
            assert found.p == pytest.approx(mcnemar(pair, exact=True).pvalue, rel=1e-9), i
        exact = [x.p for x in of_counts(table).mcnemar]
        assert [x.p_holm for x in of_counts(table).mcnemar] == pytest.approx(adjust(exact, "holm"))


def test_bowker_counts_the_pairs_that_exchange_something() -> None:
    from statsmodels.stats.contingency_tables import SquareTable

    found = of_counts([[612, 0, 0], [1, 773, 0], [0, 1, 380]]).bowker
    assert (found.statistic, found.df) == (2.0, 2) and found.p == pytest.approx(0.3679, abs=5e-5)
    for model in ("phi-1.5", "llama-3-8b"):  # where all pairs do
        oracle = SquareTable(np.array(TABLES[model]), shift_zeros=False).symmetry()
        assert of_counts(TABLES[model]).bowker.p == pytest.approx(oracle.pvalue)


@pytest.mark.filterwarnings("error")
def test_tables_without_anything_to_test() -> None:
    for table in (np.zeros((3, 3)), np.diag([7, 0, 0]), [[4]]):
        tests = of_counts(table)
        assert tests.bowker.p is None and tests.stuart_maxwell.p is None
        assert all(x.p == 1 for x in tests.mcnemar)
        json.dumps(tests.to_dict(), allow_nan=False)
    still = of_counts(np.diag([5, 6, 7]))
    assert still.bowker.p == 1 and still.stuart_maxwell.p == 1 and still.n_changed == 0
    assert conversion_ratios(np.zeros((3, 3)), ORDER) == {"CKCR": None, "PKCR": None, "NDCR": None, "GTS": None}
    assert conversion_ratios(np.diag([7, 0, 0]), ORDER) == {"CKCR": None, "PKCR": 0, "NDCR": 0, "GTS": 0}


@pytest.mark.filterwarnings("error")
def test_singular_tables() -> None:
    pair = np.array([[50, 20], [5, 60]])
    apart = np.zeros((4, 4), dtype=int)  # two pairs of categories that exchange nothing: a singular covariance
    apart[:2, :2] = apart[2:, 2:] = pair
    one, both = of_counts(pair).stuart_maxwell, of_counts(apart).stuart_maxwell
    assert one.statistic == pytest.approx(15**2 / 25)  # for two categories it is McNemar's chi-square
    assert both.statistic == pytest.approx(2 * one.statistic) and both.df == 2
    alone = np.zeros((3, 3), dtype=int)  # a third category that occurs and never changes
    alone[:2, :2], alone[2, 2] = pair, 9
    assert of_counts(alone).stuart_maxwell == one
    assert of_counts(np.pad(pair, (0, 1))).bowker == of_counts(pair).bowker  # an empty category costs no df


def test_transition_table() -> None:
    before, after = np.array(["a", "b", "a", "c"]), np.array(["b", "b", "a", "a"])
    assert transition_table(before, after, "abc").tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert transition_table(np.array([], int), np.array([], int), range(2)).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(HarnessError, match="3 is none of the categories 0, 1"):
        transition_table(np.array([0, 1]), np.array([0, 3]), range(2))


tables3 = arrays(np.int64, (3, 3), elements=st.integers(0, 60))


@settings(deadline=None)
@given(tables3, st.permutations(range(3)))
def test_tables_do_not_depend_on_the_order_of_categories(table: np.ndarray, order: list[int]) -> None:
    other = table[np.ix_(order, order)]
    ratios, moved = conversion_ratios(table, ORDER), conversion_ratios(other, [ORDER[i] for i in order])
    assert ratios == moved
    assert all(ratio is None or 0 <= ratio <= 100 for ratio in ratios.values())
    one, two = of_counts(table), of_counts(other)
    assert [one.mcnemar[i].p for i in order] == [x.p for x in two.mcnemar]
    for a, b in ((one.bowker, two.bowker), (one.stuart_maxwell, two.stuart_maxwell)):
        assert a.df == b.df and a.statistic == pytest.approx(b.statistic, abs=1e-8)


@settings(deadline=None)
@given(tables3)
def test_time_reversal_keeps_the_tests(table: np.ndarray) -> None:
    forward, backward = of_counts(table), of_counts(table.T)
    assert [(x.into, x.out, x.p) for x in forward.mcnemar] == [(x.out, x.into, x.p) for x in backward.mcnemar]
    assert forward.stuart_maxwell.statistic == pytest.approx(backward.stuart_maxwell.statistic, abs=1e-8)


# Controls


def test_permutation_p_counts_ties_and_the_treated_set_itself() -> None:
    found = permutation_test(3.0, np.array([1.0, 2.0, 3.0, 3.0, 5.0, np.nan]))
    assert (found.b_greater, found.b_less, found.m, found.n_nan) == (3, 4, 5, 1)
    assert (found.p_greater, found.p_less, found.p_two_sided) == (4 / 6, 5 / 6, 1.0)
    assert permutation_test(9.0, np.zeros(99)).p_greater == 1 / 100  # the smallest that 99 controls can give
    assert permutation_test(9.0, np.zeros(99)).p_two_sided == 2 / 100


def test_permutation_without_controls_or_value() -> None:
    for found in (permutation_test(1.0, np.array([])), permutation_test(1.0, np.array([np.nan]))):
        assert (found.m, found.p_greater, found.p_two_sided, found.quantile) == (0, None, None, None)
    assert permutation_test(np.nan, np.arange(5.0)).p_two_sided is None
    assert permutation_test(np.inf, np.arange(5.0)).p_two_sided is None


values = st.integers(-30, 30).map(float)


@given(values, st.lists(values, min_size=1, max_size=60))
def test_permutation_properties(treated: float, controls: list[float]) -> None:
    found = permutation_test(treated, np.array(controls))
    for p in (found.p_greater, found.p_less, found.p_two_sided):
        assert p is not None and 1 / (found.m + 1) <= p <= 1
    assert found.quantile == pytest.approx(stats.percentileofscore(controls, treated, kind="mean"))
    assert permutation_test(treated**3 + treated, np.array(controls) ** 3 + controls) == found  # monotone transform
    mirrored = permutation_test(-treated, -np.array(controls))
    assert (mirrored.p_greater, mirrored.p_less) == (found.p_less, found.p_greater)
    assert mirrored.p_two_sided == found.p_two_sided


def test_permutation_p_is_uniform_when_the_selection_is_random() -> None:
    draws = np.random.default_rng(1).normal(size=(2000, 200))
    tests = [permutation_test(row[0], row[1:]) for row in draws]
    p = np.array([x.p_greater for x in tests])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    two_sided = np.array([x.p_two_sided for x in tests])
    counts = np.random.default_rng(2).poisson(1.5, size=(2000, 200)).astype(float)  # ties make it conservative
    tied = np.array([permutation_test(row[0], row[1:]).p_greater for row in counts])
    for alpha in (0.01, 0.05, 0.1, 0.2):
        limit = alpha + 3 * np.sqrt(alpha * (1 - alpha) / 2000)
        assert (p <= alpha).mean() <= limit and (two_sided <= alpha).mean() <= limit and (tied <= alpha).mean() <= limit


def test_control_summary() -> None:
    found = control_summary(np.array([1.0, 2, 3, 4, np.nan]))
    assert (found["mean"], found["min"], found["q50"], found["max"]) == (2.5, 1, 2.5, 4)
    assert (found["n"], found["n_nan"]) == (4, 1)
    assert found["sd"] == pytest.approx(np.sqrt(5 / 3)) and found["standard_error"] == pytest.approx(np.sqrt(5 / 12))
    assert control_summary(np.array([0.1] * 3))["sd"] == 0
    empty = control_summary(np.array([np.nan]))
    assert (empty["n"], empty["n_nan"], empty["mean"], empty["sd"], empty["q05"]) == (0, 1, None, None, None)


def test_effect_sizes() -> None:
    controls = np.array([1.0, 2.0, 3.0, 4.0, 10.0])
    found = effect_sizes(7.0, controls)
    assert found["difference"] == 3 and found["ratio_to_median"] == pytest.approx(7 / 3)
    assert found["standardised"] == pytest.approx(3 / controls.std(ddof=1))
    assert found["robust"] == pytest.approx(4 / stats.median_abs_deviation(controls, scale="normal"), rel=1e-4)
    assert found["cliffs_delta"] == pytest.approx((4 - 1) / 5)
    flat = effect_sizes(1.0, np.zeros(4))
    assert (flat["ratio_to_median"], flat["standardised"], flat["robust"]) == (None, None, None)
    assert flat["cliffs_delta"] == 1
    assert set(effect_sizes(np.nan, controls).values()) == set(effect_sizes(1.0, np.array([])).values()) == {None}


def test_adjustment_over_the_five_models() -> None:
    p = [3 / 101, 8.5 / 101, 2 / 101, 10 / 101, 2 / 101]  # GPT-2, Pythia, Phi, Mistral, Llama-3: 100 controls each
    assert adjust(p, "holm") == pytest.approx([0.099, 0.168, 0.099, 0.168, 0.099], abs=5e-4)
    assert adjust(p, "bh") == pytest.approx([0.0495, 0.099, 0.0495, 0.099, 0.0495], abs=5e-4)


def test_adjustment_is_that_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(0).beta(0.5, 2, size=40).round(2)  # with ties
    pairs: tuple[Any, ...] = (("holm", "holm"), ("bh", "fdr_bh"))
    for ours, theirs in pairs:
        assert adjust(p.tolist(), ours) == pytest.approx(multipletests(p, method=theirs)[1], abs=1e-12)


def test_adjustment_passes_none_through() -> None:
    assert adjust([None, 0.01, None, 0.04]) == [None, 0.02, None, 0.04]
    methods: tuple[Any, ...] = ("holm", "bh")
    for method in methods:
        assert adjust([None], method) == [None] and adjust([], method) == []


@given(st.lists(st.none() | st.floats(0, 1), max_size=12), st.sampled_from(["holm", "bh"]))
def test_adjustment_keeps_the_order_and_only_raises(p: list[float | None], method: Any) -> None:
    pairs = [(a, b) for a, b in zip(p, adjust(p, method), strict=True) if a is not None and b is not None]
    assert len(pairs) == sum(a is not None for a in p)
    assert all(a <= b * (1 + 1e-12) and b <= 1 for a, b in pairs)
    adjusted = [b for _, b in sorted(pairs)]
    assert adjusted == sorted(adjusted)


# Measures


def test_measure_values() -> None:
    m = measure([[0, 0, 0], [1, 0, 1], [np.nan, 0, 0]], [[1, 1, 1], [1, 1, 2], [0, 0, 0]])
    assert m.values.tolist()[:2] == [0, 50] and np.isnan(m.values[2])
    assert m.changed.tolist() == [0, 2, 3]
    assert m.is_count and not measure([[0.0], [0.5]]).is_count and not measure([[0], [1]], unit="nats").is_count


def test_measure_refuses_what_is_not_finite() -> None:
    for bad in (np.nan, np.inf):
        for row, condition in ((0, "baseline"), (1, "treated"), (3, "control-0001")):
            numerator = np.zeros((4, 5))
            numerator[row, 2:4] = bad
            with pytest.raises(HarnessError, match=f'"entropy".*not finite.*{condition}, 2 prompts'):
                measure(numerator, name="entropy")
    for bad in (np.nan, -1.0):
        with pytest.raises(HarnessError, match="denominator"):
            measure(np.zeros((2, 1)), [[1], [bad]])
    for shapes in (((1, 3), (1, 3)), ((2, 3), (3, 3)), ((2,), (2,))):
        with pytest.raises(ValueError, match="one shape"):
            measure(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_rounding_is_no_change_and_no_rank() -> None:
    noise = np.random.default_rng(0).uniform(-1e-9, 1e-9, size=(40, 7))
    noise[0] = 0
    assert measure(noise, unit="nats", scale=1.0).changed.tolist() == [0] * 40
    values = noise.mean(axis=1)
    tied = permutation_test(values[1], values[2:])
    assert (tied.b_greater, tied.b_less, tied.p_two_sided) == (38, 38, 1.0)
    assert permutation_test(1e-9, np.array([0.0, 3e-9, 1.0, -1.0])).b_greater == 3  # the ones next to no effect tie
    level = permutation_test(4.0 + 1e-9, np.array([4.0, 4.0, 5.0, 3.0]), null=4.0)
    assert (level.b_greater, level.b_less) == (3, 3)


def test_seeds_are_stable_and_differ() -> None:
    assert derive_seed(0, "bootstrap") == 8927799310940978164
    assert len({derive_seed(*names) for names in ((0,), (1,), (0, "a"), (0, "a", "b"), (0, "ab"))}) == 5
    assert all(0 <= derive_seed(i, "x") < 2**63 for i in range(100))
    assert generator(0, "a").random() == generator(0, "a").random() != generator(0, "b").random()
