"""Metrics of knowledge conflicts, against counts made by hand and against the published tables."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from conflicts import CK, HAND, LOG_P, ND, PK, outcomes
from harness_plugins.context_copying.metrics.first_token import EntropyChange, LogOdds
from harness_plugins.context_copying.metrics.transitions import ConversionRatios, Transitions
from harness_plugins.context_copying.task.knowledge_conflict import SOURCES
from hypothesis import given, settings
from hypothesis import strategies as st
from roles import conditions

from harness.errors import HarnessError
from harness.files.store import canonical
from harness.plugin.records import Measurement, Outcomes, Prompt
from harness.statistics import Measure, MeasureSummary, summarise


def of(measurement: Measurement) -> dict[str, Measure]:
    found = {measure.name: measure for measure in measurement.measures}
    assert len(found) == len(measurement.measures)
    return found


def summary(measure: Measure) -> MeasureSummary:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return summarise(measure, np.arange(measure.numerator.shape[1]), seed=0, resamples=100)


# -- transitions -------------------------------------------------------------------------------------------------------


def test_transitions_of_ten_prompts() -> None:
    measurement = Transitions().measure(outcomes(HAND))
    [table] = measurement.tables
    assert table.categories == ("CK", "PK", "ND")
    assert table.treated.tolist() == [[1, 1, 1], [1, 1, 1], [2, 1, 1]]
    assert table.controls.tolist() == [[[3, 0, 0], [0, 3, 0], [0, 0, 4]], [[0, 0, 3], [0, 0, 3], [0, 0, 4]]]
    assert table.tests is not None and (table.tests.n, table.tests.n_changed) == (10, 7)
    assert [(x.into, x.out) for x in table.tests.mcnemar] == [(3, 2), (2, 2), (2, 3)]
    third = 100 / 3
    expected = {
        "CK_to_PK": [0, third, 0, 0],
        "CK_to_ND": [0, third, 0, 100],
        "PK_to_CK": [0, third, 0, 0],
        "PK_to_ND": [0, third, 0, 100],
        "ND_to_CK": [0, 50, 0, 0],
        "ND_to_PK": [0, 25, 0, 0],
        "invariant": [100, 30, 100, 40],
    }
    measures = of(measurement)
    assert {name: measure.values.tolist() for name, measure in measures.items()} == {
        name: pytest.approx(values) for name, values in expected.items()
    }
    assert not any(measure.primary for measure in measures.values())
    assert (summary(measures["ND_to_CK"]).count, summary(measures["ND_to_CK"]).denominator) == (2, 4)
    assert measurement.broken is None


@pytest.mark.parametrize(
    ("before", "after", "collapse", "broken"),
    [
        ([CK] * 10, [ND] * 9 + [CK], 0.9, True),  # at the threshold
        ([CK] * 10, [ND] * 8 + [CK] * 2, 0.9, False),
        ([CK] * 10, [ND] * 8 + [CK] * 2, 0.8, True),
        ([CK] * 10, [PK] * 10, 0.9, False),  # an answer from memory is an answer
        ([ND] * 9 + [CK], [ND] * 10, 0.9, False),  # it never did the task: nothing collapsed
        ([ND] * 10, [CK] * 10, 0.9, False),
    ],
)
def test_a_collapse_into_neither_source_is_broken(
    before: list[int], after: list[int], collapse: float, broken: bool
) -> None:
    found = Transitions(collapse=collapse).measure(outcomes([before, after, [ND] * 10])).broken
    assert (found is not None) == broken
    if broken:
        assert f"{after.count(ND):d}0% of the treated answers" in str(found) and "(0% before)" in str(found)


def test_controls_that_collapse_do_not_break_the_run() -> None:
    assert Transitions().measure(outcomes([[CK] * 4, [CK] * 4, [ND] * 4])).broken is None


# -- conversion ratios -------------------------------------------------------------------------------------------------


def test_conversion_ratios_of_ten_prompts() -> None:
    measures = of(ConversionRatios().measure(outcomes(HAND)))
    expected = {
        "CKCR": [0, 100 * 3 / 7, 0, 0],
        "PKCR": [0, 100 * 2 / 7, 0, 0],
        "NDCR": [0, 100 * 2 / 6, 0, 100],
        "GTS": [0, 70, 0, 60],
    }
    assert {name: measure.values.tolist() for name, measure in measures.items()} == {
        name: pytest.approx(values) for name, values in expected.items()
    }
    assert all(measure.primary and measure.unit == "%" for measure in measures.values())
    counts = {name: (summary(x).count, summary(x).denominator) for name, x in measures.items()}
    assert counts == {"CKCR": (3, 7), "PKCR": (2, 7), "NDCR": (2, 6), "GTS": (7, 10)}
    assert summary(measures["CKCR"]).controls["mean"] == 0  # type: ignore[index]
    assert summary(measures["GTS"]).controls["mean"] == 30  # type: ignore[index]


# Tighidet et al. 2025 (arXiv 2509.10663), mean ablation: rows before, columns after, order CK, ND, PK; then CKCR, PKCR
# and GTS as published, and NDCR from the table (the authors computed NDCR with the PKCR function).
PUBLISHED = {
    "gpt2-small": ([[9985, 2, 0], [22, 642, 2], [0, 2, 30]], 3.152, 0.0188, 0.262, 0.040),
    "pythia-1.4b": ([[6269, 0, 5], [2, 98, 0], [0, 0, 361]], 0.434, 0.0784, 0.104, 0.000),
    "phi-1.5": ([[3782, 6, 13], [28, 1090, 13], [6, 2, 1570]], 1.255, 0.527, 1.045, 0.149),
    "mistral-7b-v0.1": ([[2598, 0, 5], [0, 68, 1], [10, 1, 451]], 1.883, 0.2245, 0.542, 0.033),
    "llama-3-8b": ([[9301, 7, 35], [2, 29, 1], [1, 1, 209]], 1.235, 0.384, 0.490, 0.084),
}
# Table 5 of the paper, in percent of the row.
PUBLISHED_ROWS = {
    "gpt2-small": {"ND_to_CK": 3.3, "PK_to_CK": 0.0, "PK_to_ND": 6.2},
    "mistral-7b-v0.1": {"ND_to_CK": 0.0, "PK_to_CK": 2.2, "PK_to_ND": 0.2},
    "llama-3-8b": {"ND_to_CK": 6.2, "PK_to_CK": 0.5, "PK_to_ND": 0.5},
    "pythia-1.4b": {"ND_to_CK": 2.0, "PK_to_CK": 0.0, "PK_to_ND": 0.0},
    "phi-1.5": {"ND_to_CK": 2.5, "PK_to_CK": 0.4, "PK_to_ND": 0.1},
}


def from_table(table: Sequence[Sequence[int]], order: tuple[int, int, int]) -> Outcomes:
    """Outcomes with exactly these transitions, the prompts shuffled."""
    pairs = [(order[i], order[j]) for i in range(3) for j in range(3) for _ in range(table[i][j])]
    shuffled = np.random.default_rng(0).permutation(np.array(pairs, dtype=np.int8))
    return outcomes(shuffled.T.tolist())


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_numbers_follow_from_the_published_tables(model: str) -> None:
    table, ckcr, pkcr, gts, ndcr = PUBLISHED[model]
    observed = from_table(table, (CK, ND, PK))
    measures = of(ConversionRatios().measure(observed))
    assert measures["CKCR"].values[1] == pytest.approx(ckcr, abs=5.1e-4)
    assert measures["PKCR"].values[1] == pytest.approx(pkcr, abs=5.1e-4)
    assert measures["NDCR"].values[1] == pytest.approx(ndcr, abs=5.1e-4)
    assert measures["GTS"].values[1] == pytest.approx(gts, abs=5.1e-4)
    transitions = Transitions().measure(observed)
    assert transitions.tables[0].treated[np.ix_([CK, ND, PK], [CK, ND, PK])].tolist() == table
    assert transitions.broken is None
    for name, share in PUBLISHED_ROWS[model].items():
        assert of(transitions)[name].values[1] == pytest.approx(share, abs=0.0501), name


def test_a_global_score_of_93_8_percent_was_a_broken_model() -> None:
    """GPT-2 under mode ablation in the paper: all logits were NaN, so everything became ND; 1 - 666 / 10685."""
    table = [[0, 9987, 0], [0, 666, 0], [0, 32, 0]]
    observed = from_table(table, (CK, ND, PK))
    assert of(ConversionRatios().measure(observed))["GTS"].values[1] == pytest.approx(93.8, abs=0.05)
    assert "100% of the treated answers" in str(Transitions().measure(observed).broken)


tables = st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=3, max_size=3).filter(
    lambda table: any(map(any, table))
)


@settings(max_examples=60, deadline=None)
@given(tables)
def test_what_the_ratios_have_to_do_with_the_table(table: list[list[int]]) -> None:
    counts = np.array(table)
    total, changed = counts.sum(), counts.sum() - np.trace(counts)
    observed = from_table(table, (CK, PK, ND))
    transitions, ratios = Transitions().measure(observed), of(ConversionRatios().measure(observed))
    assert transitions.tables[0].treated.tolist() == table
    assert ratios["GTS"].values[1] == pytest.approx(100 * (1 - np.trace(counts) / total))
    # Every prompt that changed its source arrived at exactly one, and left exactly one.
    assert sum(ratios[f"{name}CR"].numerator[1].sum() for name in SOURCES) == changed
    *moves, invariant = transitions.measures
    assert sum(measure.numerator[1].sum() for measure in moves) == changed
    assert invariant.values[1] == pytest.approx(100 - ratios["GTS"].values[1])
    for code, name in enumerate(SOURCES):
        ratio, rest = ratios[f"{name}CR"], total - counts[code].sum()
        assert ratio.denominator[1].sum() == rest
        arrived = counts[:, code].sum() - counts[code, code]
        assert np.isnan(ratio.values[1]) if rest == 0 else ratio.values[1] == pytest.approx(100 * arrived / rest)


@settings(max_examples=20, deadline=None)
@given(tables, st.permutations(range(3)))
def test_renaming_the_sources_renames_the_ratios(table: list[list[int]], names: list[int]) -> None:
    plain = of(ConversionRatios().measure(from_table(table, (CK, PK, ND))))
    other = of(ConversionRatios().measure(from_table(table, tuple(names))))  # type: ignore[arg-type]
    np.testing.assert_allclose(other["GTS"].values, plain["GTS"].values)
    for code, name in enumerate(SOURCES):
        np.testing.assert_allclose(other[f"{SOURCES[names[code]]}CR"].values, plain[f"{name}CR"].values)


# -- entropy -----------------------------------------------------------------------------------------------------------

ENTROPY = [
    [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 4.0],
    [1.5, 2.0, 1.0, 1.0, 2.5, 3.0, 2.0, 5.0, 3.0, 3.0],
    [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 4.0],
    [2.0, 3.0, 4.0, 2.0, 3.0, 4.0, 2.0, 3.0, 4.0, 6.0],
]


def test_entropy_change_of_ten_prompts() -> None:
    measures = of(EntropyChange().measure(outcomes(HAND, entropy=ENTROPY)))
    treated = {
        "entropy_change": 0.2,  # (.5 + 0 - 2 + 0 + .5 + 0 + 1 + 3 + 0 - 1) / 10
        "entropy_change_CK_CK": 0.5,
        "entropy_change_CK_PK": 0.0,
        "entropy_change_CK_ND": -2.0,
        "entropy_change_PK_CK": 0.0,
        "entropy_change_PK_PK": 0.5,
        "entropy_change_PK_ND": 0.0,
        "entropy_change_ND_CK": 2.0,  # of two prompts
        "entropy_change_ND_PK": -1.0,
        "entropy_change_ND_ND": 0.0,
    }
    assert {name: measure.values[1] for name, measure in measures.items()} == pytest.approx(treated)
    assert [name for name, measure in measures.items() if measure.primary] == ["entropy_change"]
    assert {measure.unit for measure in measures.values()} == {"nats"}
    np.testing.assert_allclose(measures["entropy_change"].values, [0, 0.2, 0, 1.1])
    # Where a condition leaves a cell empty there is no mean: the untouched model has no prompt that goes CK -> ND.
    np.testing.assert_allclose(measures["entropy_change_CK_ND"].values, [np.nan, -2, np.nan, 1])
    np.testing.assert_allclose(measures["entropy_change_ND_ND"].values, [0, 0, 0, 1.25])


def test_cells_add_up_to_the_whole_change() -> None:
    total, *cells = EntropyChange().measure(outcomes(HAND, entropy=ENTROPY)).measures
    assert len(cells) == 9
    np.testing.assert_allclose(sum(cell.tally.events for cell in cells), total.tally.events)
    np.testing.assert_allclose(sum(cell.tally.trials for cell in cells), total.tally.trials)


# -- log-odds ----------------------------------------------------------------------------------------------------------


def test_log_odds_of_two_prompts_and_one_whose_objects_begin_alike() -> None:
    observed = outcomes([[CK] * 3] * 3, first_tokens=[(1, 2), (3, 4), (5, 5)], **LOG_P)
    measurement = LogOdds().measure(observed)
    values = {name: measure.values.tolist() for name, measure in of(measurement).items()}
    expected = {
        "log_odds_CK_PK": [0.5, 0.0, 0.5],  # before: 1, 0; after: -2, 2
        "log_odds_shift_CK_PK": [0.0, -0.5, 0.0],
        "log_odds_ND_CK": [0.75, 0.75, 0.75],  # before: .5, 1; after: 2.5, -1
        "log_odds_shift_ND_CK": [0.0, 0.0, 0.0],
        "log_odds_ND_PK": [1.25, 0.75, 1.25],  # before: 1.5, 1; after: .5, 1
        "log_odds_shift_ND_PK": [0.0, -0.5, 0.0],
    }
    assert values == {name: pytest.approx(value) for name, value in expected.items()}
    assert [measure.name for measure in measurement.measures if measure.primary] == ["log_odds_shift_CK_PK"]
    assert measurement.remarks == (
        "log-odds leave out 1 prompt whose counter and parametric object begin with the same token",
    )


def test_the_odds_have_no_remark_where_nothing_is_left_out() -> None:
    measurement = LogOdds().measure(outcomes([[CK] * 3] * 3, **LOG_P))
    assert measurement.remarks == ()
    assert all((measure.denominator == 1).all() for measure in measurement.measures)


def test_odds_add_up() -> None:
    """log(CK/PK) = log(ND/PK) - log(ND/CK), of the odds and of their shifts."""
    measures = of(LogOdds().measure(outcomes([[CK] * 3] * 3, **LOG_P)))
    for kind in ("log_odds", "log_odds_shift"):
        np.testing.assert_allclose(
            measures[f"{kind}_CK_PK"].values, measures[f"{kind}_ND_PK"].values - measures[f"{kind}_ND_CK"].values
        )


def test_odds_of_nothing_but_prompts_whose_objects_begin_alike_are_undefined() -> None:
    measurement = LogOdds().measure(outcomes([[CK] * 3] * 3, first_tokens=[(5, 5)] * 3, **LOG_P))
    assert "leave out 3 prompts" in measurement.remarks[0]
    assert {summary(measure).value for measure in measurement.measures} == {None}


# -- what is undefined -------------------------------------------------------------------------------------------------


def test_empty_cells_are_none_and_never_nan() -> None:
    """Everything was CK and stays CK: most rows and cells are empty, under every condition."""
    observed = outcomes([[CK] * 4] * 4, entropy=[[1.0] * 4] * 4)
    found = {}
    for metric in (Transitions(), ConversionRatios(), EntropyChange()):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            measurement = metric.measure(observed)
        found |= {measure.name: summary(measure).to_dict() for measure in measurement.measures}
    for name in ("PK_to_CK", "ND_to_PK", "CKCR", "entropy_change_ND_ND", "entropy_change_CK_PK"):
        assert found[name]["value"] is None and found[name]["baseline"] is None, name
        assert found[name]["ci_low"] is None and found[name]["p_two_sided"] is None, name
        assert found[name]["denominator"] == 0, name
    assert found["CK_to_PK"]["value"] == found["PKCR"]["value"] == found["GTS"]["value"] == 0.0
    numbers = [x for row in found.values() for x in row.values() if isinstance(x, float)]
    assert np.isfinite(numbers).all()
    canonical(found)  # refuses NaN


@pytest.mark.parametrize("metric", [Transitions(), ConversionRatios(), EntropyChange(), LogOdds()])
def test_a_metric_of_another_task_says_what_it_misses(metric: Transitions) -> None:
    other = Outcomes(conditions(), (Prompt("p", "", (1,), "p", {"first_tokens": [1, 2]}),), {})
    with pytest.raises(HarnessError, match="which this task does not observe"):
        metric.measure(other)
