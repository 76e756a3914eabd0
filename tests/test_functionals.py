"""Functions of sums equal their definitions on the whole data, and are resampled as ratios are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.errors import HarnessError
from harness.statistics import Functional, Measure, bootstrap_interval, summarise
from harness.statistics.functionals import (
    auroc,
    confidences,
    expected_calibration_error,
    moments,
    pearson,
    reliability,
)


@given(st.integers(0, 2**32 - 1), st.integers(3, 60))
def test_pearson_of_sums_is_scipys(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 2, (2, 4, n))
    y = 0.5 * x + rng.normal(size=(2, 4, n))
    kept = rng.random(n) < 0.8
    kept[:3] = True
    sums = moments(x, y, kept)
    whole = pearson(sums.sum(axis=1))
    for row in range(2):
        expected = stats.pearsonr(x[row][:, kept].ravel(), y[row][:, kept].ravel()).statistic
        assert whole[row] == pytest.approx(expected, abs=1e-9)


def test_pearson_without_spread_is_undefined() -> None:
    constant = moments(np.full((1, 5), 0.1), np.arange(5.0)[None], np.ones(5, bool))
    assert np.isnan(pearson(constant)).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_calibration_error_is_its_definition(seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    confidence, kept = rng.random((3, 40)), rng.random(40) < 0.9
    kept[0] = True
    correct = rng.random((3, 40)) < confidence
    found = expected_calibration_error(reliability(confidence, correct, kept, bins))
    for row in range(3):
        place = np.clip((confidence[row] * bins).astype(int), 0, bins - 1)
        total = sum(
            abs(correct[row][inside].mean() - confidence[row][inside].mean()) * inside.sum()
            for b in range(bins)
            if (inside := (place == b) & kept).any()
        )
        assert found[row] == pytest.approx(total / kept.sum(), abs=1e-5)


def test_a_calibrated_model_has_no_error_and_a_confident_fool_has_all_of_it() -> None:
    sure, always = np.ones((1, 10)), np.ones(10, bool)
    assert expected_calibration_error(reliability(sure, np.ones((1, 10), bool), always, 15)) == 0
    assert expected_calibration_error(reliability(sure, np.zeros((1, 10), bool), always, 15)) == 1


@given(st.integers(0, 2**32 - 1))
def test_auroc_of_counts_is_the_mann_whitney_statistic(seed: int) -> None:
    rng = np.random.default_rng(seed)
    confidence = rng.integers(0, 50, (1, 80)) / 50 + 0.01  # in the middle of a bin: ties are ties
    correct = rng.random((1, 80)) < confidence
    correct[0, :2] = True, False
    found = auroc(confidences(confidence, correct, np.ones(80, bool), 50))
    right, wrong = confidence[correct], confidence[~correct]
    expected = stats.mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong))
    assert found[0] == pytest.approx(expected)


def test_auroc_needs_both_right_and_wrong_predictions() -> None:
    all_right = confidences(np.full((1, 4), 0.5), np.ones((1, 4), bool), np.ones(4, bool), 10)
    assert np.isnan(auroc(all_right)).all()


def test_a_ratio_written_as_a_functional_has_the_same_numbers() -> None:
    rng = np.random.default_rng(0)
    numerator, denominator = rng.random((5, 30)), rng.random((5, 30)) + 0.5
    clusters = np.repeat(np.arange(10), 3)
    as_ratio = Measure("x", "x", "nats", numerator, denominator)
    as_functional = Functional(
        "x", "x", "nats", np.stack([numerator, denominator], -1), lambda sums: sums[..., 0] / sums[..., 1]
    )
    one, other = (summarise(x, clusters, seed=3, resamples=300).to_dict() for x in (as_ratio, as_functional))
    for key, value in one.items():
        if key not in ("denominator", "controls", "effects"):
            assert other[key] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), key
    assert bootstrap_interval(as_functional, 0, clusters, 1) is not None


def test_a_term_that_is_not_finite_is_refused() -> None:
    terms = np.ones((3, 4, 2))
    terms[2, 1, 0] = np.nan
    with pytest.raises(HarnessError, match=r'"r": a value that is not finite .* control-0000, 1 prompts'):
        Functional("r", "r", "", terms, lambda sums: sums[..., 0])
