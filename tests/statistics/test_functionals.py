"""Functions of sums equal their definitions on the whole data, and are resampled as ratios are."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.errors import HarnessError
from harness.statistics import Functional, Measure, interval_of, summarise
from harness.statistics.bootstrap import draw, resampled
from harness.statistics.functionals import (
    auroc,
    confidences,
    expected_calibration_error,
    moments,
    pearson,
    reliability,
)
from harness.statistics.measure import Aggregated


@given(st.integers(0, 2**32 - 1), st.integers(3, 60))
def test_pearson_of_sums_is_scipys(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 2, (2, 4, n))
    y = 0.5 * x + rng.normal(size=(2, 4, n))
    whole = pearson(np.stack([term.sum(axis=(1, 2)) for term in moments(x, y)], -1))
    for row in range(2):
        expected = stats.pearsonr(x[row].ravel(), y[row].ravel()).statistic
        assert whole[row] == pytest.approx(expected, abs=1e-9)


def test_pearson_without_spread_is_undefined() -> None:
    constant = np.array([term.sum() for term in moments(np.full(5, 0.1), np.arange(5.0))])
    assert np.isnan(pearson(constant))


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_calibration_error_is_its_definition(seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    confidence, group = rng.random((3, 40)), rng.integers(0, 4, 40)
    right = rng.random((3, 40)) < confidence
    sums = reliability(confidence, right, group, 4, bins)
    assert sums.shape == (3, 4, 3 * bins)
    for rows, found in (
        (np.ones(40, bool), expected_calibration_error(sums.sum(axis=1))),
        (group == group[0], expected_calibration_error(sums[:, group[0]])),
    ):
        for c in range(3):
            place = np.clip((confidence[c] * bins).astype(int), 0, bins - 1)
            total = sum(
                abs(right[c][inside].mean() - confidence[c][inside].mean()) * inside.sum()
                for b in range(bins)
                if (inside := (place == b) & rows).any()
            )
            assert found[c] == pytest.approx(total / rows.sum(), abs=1e-5)


def test_a_calibrated_model_has_no_error_and_a_confident_fool_has_all_of_it() -> None:
    sure, group, right = np.ones((2, 10)), np.zeros(10, int), np.array([[True] * 10, [False] * 10])
    found = expected_calibration_error(reliability(sure, right, group, 1, 15))
    assert found.tolist() == [[0.0], [1.0]]


@given(st.integers(0, 2**32 - 1))
def test_auroc_of_counts_is_the_mann_whitney_statistic(seed: int) -> None:
    rng = np.random.default_rng(seed)
    confidence = rng.integers(0, 50, (1, 80)) / 50 + 0.01  # in the middle of a bin: ties are ties
    right = rng.random((1, 80)) < confidence
    right[0, :2] = True, False
    found = auroc(confidences(confidence, right, rng.integers(0, 3, 80), 3, 50).sum(axis=1))
    expected = stats.mannwhitneyu(confidence[right], confidence[~right]).statistic / (right.sum() * (~right).sum())
    assert found[0] == pytest.approx(expected)


def test_auroc_needs_both_right_and_wrong_predictions() -> None:
    all_right = confidences(np.full((1, 4), 0.5), np.ones((1, 4), bool), np.zeros(4, int), 1, 10)
    assert np.isnan(auroc(all_right)).all()


def test_a_ratio_written_as_a_functional_has_the_same_numbers() -> None:
    rng = np.random.default_rng(0)
    numerator, denominator = rng.random((5, 120)), rng.random((5, 120)) + 0.5
    clusters = np.repeat(np.arange(40), 3)  # of fewer than 30 a ratio's interval is in closed form
    as_ratio = Measure("x", "x", "nats", numerator, denominator)
    as_functional = Functional(
        "x", "x", "nats", np.stack([numerator, denominator], -1), lambda sums: sums[..., 0] / sums[..., 1]
    )
    one, other = (summarise(x, clusters, seed=3, resamples=300).to_dict() for x in (as_ratio, as_functional))
    for key, value in one.items():
        if key not in ("denominator", "controls", "effects"):
            assert other[key] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), key
    assert interval_of(as_functional, 0, clusters, 1) is not None


def test_a_term_that_is_not_finite_is_refused() -> None:
    terms = np.ones((3, 4, 2))
    terms[2, 1, 0] = np.nan
    with pytest.raises(HarnessError, match=r'"r": a value that is not finite .* control-0000, 1 prompt'):
        Functional("r", "r", "", terms, lambda sums: sums[..., 0])


def test_terms_of_another_shape_are_refused() -> None:
    for shape in ((3, 4), (1, 4, 2)):
        with pytest.raises(ValueError, match=r"must be \[>= 2, n_prompts, n_terms\]"):
            Functional("r", "r", "", np.ones(shape), lambda sums: sums[..., 0])


def test_clusters_are_those_of_the_prompts() -> None:
    found = Functional("r", "r", "", np.ones((3, 6, 2)), lambda sums: sums[..., 0] / sums[..., 1])
    with pytest.raises(ValueError, match="5 cluster numbers for 6 prompts"):
        list(resampled(found, [1], np.arange(5), 0, 100))


def test_what_a_function_of_all_prompts_cannot_take_has_no_value() -> None:
    """No items (-1), a division by zero, a statistic that wants more: not a number, and no interval."""
    codes = np.array([[0, 1, 1, 0, 1, 1], [-1] * 6, [0, 1, 0, 1, 0, 1]])

    def harmonic(items: list[float]) -> float:
        return statistics.harmonic_mean(items)  # StatisticsError, a ValueError, where there are none

    found = Aggregated("h", "harmonic mean", "", codes, [1.0, 3.0], harmonic)
    assert np.isnan(found.treated) and found.baseline == pytest.approx(1.8)
    assert found.controls == pytest.approx([1.5])
    assert interval_of(found, 1, np.arange(6), 0) is None
    one = interval_of(found, 2, np.arange(6), 0, resamples=200)
    alone = interval_of(Aggregated("h", "", "", codes[[0, 2]], [1.0, 3.0], harmonic), 1, np.arange(6), 0, resamples=200)
    assert one is not None and one == alone and one.low < 1.5 < one.high


def test_an_aggregated_measure_is_resampled_by_calling_its_function() -> None:
    """Of a mean it must give what a ratio of sums gives, but for the fewer resamples."""
    from harness.statistics import Measure, summarise

    rng = np.random.default_rng(0)
    items = list(rng.normal(size=30))
    codes = rng.integers(0, 30, size=(40, 25))
    codes[:, 3] = -1
    clusters = np.arange(25) // 2
    mean: Callable[[list[float]], float] = lambda found: sum(found) / len(found)  # noqa: E731
    measure = Aggregated("m", "m", "", codes, items, mean)
    numbers = np.where(codes < 0, 0, np.array(items)[codes])
    ratio = Measure("m", "m", "", numbers, (codes >= 0).astype(float))
    np.testing.assert_allclose(measure.values, ratio.values)
    ours, theirs = (draw(x, clusters, 1, 200).treated for x in (measure, ratio))
    np.testing.assert_allclose(ours, theirs)
    assert summarise(measure, clusters, 1).difference_interval is not None
    empty = Aggregated("m", "m", "", np.full((2, 4), -1), items, mean)
    assert np.isnan(empty.values).all()
    change = Aggregated("m", "m", "", codes, items, mean, change=True)
    assert (change.values == measure.values - measure.values[0]).all()
