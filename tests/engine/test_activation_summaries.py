"""Activation statistics: exact in one pass, refusing what is not finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.conditions.units import Neuron
from harness.engine.activation_summaries import ActivationStatistics, _Moments, half_sample_mode
from harness.errors import HarnessError

floats = st.floats(-1000, 1000, width=32)


@given(arrays(np.float32, st.tuples(st.integers(2, 40), st.just(3)), elements=floats), st.integers(1, 7))
def test_moments_in_pieces_are_the_moments_of_the_whole(x: np.ndarray, piece: int) -> None:
    moments = _Moments(3)
    for start in range(0, len(x), piece):
        moments.add(torch.from_numpy(x[start : start + piece]))
    whole = x.astype(np.float64)
    assert moments.n == len(x)
    np.testing.assert_allclose(moments.mean, whole.mean(0), atol=1e-9)
    np.testing.assert_allclose(moments.m2, ((whole - whole.mean(0)) ** 2).sum(0), atol=1e-6, rtol=1e-9)
    np.testing.assert_array_equal(moments.minimum, whole.min(0))
    np.testing.assert_array_equal(moments.maximum, whole.max(0))


def test_half_precision_activations_do_not_overflow() -> None:
    """The authors' statistics do: the sum of squares of 20,000 values of sd 2 passes float16's largest number."""
    x = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)).mul(2).half()
    moments = _Moments(1)
    moments.add(x)
    assert np.sqrt(moments.m2 / (moments.n - 1))[0] == pytest.approx(2.0, rel=0.02)


def test_the_mode_is_where_the_values_crowd() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(5, 0.1, 3000), rng.uniform(-20, 20, 3000)])
    assert half_sample_mode(x) == pytest.approx(5, abs=0.15)
    assert half_sample_mode(np.array([0.0] * 60 + list(range(1, 41)))) == 0.0
    assert half_sample_mode(np.array([3.0])) == 3.0
    assert half_sample_mode(np.array([1.0, 2.0])) == 1.5
    assert half_sample_mode(np.array([1.0, 1.5, 9.0])) == 1.25


@given(arrays(np.float64, st.integers(1, 50), elements=floats), st.floats(-10, 10), st.floats(0.1, 10))
def test_the_mode_moves_and_scales_with_the_values(x: np.ndarray, shift: float, scale: float) -> None:
    assert x.min() <= half_sample_mode(x) <= x.max()
    assert half_sample_mode(np.round(x) * 4 + 2) == pytest.approx(half_sample_mode(np.round(x)) * 4 + 2)


def statistics(**changes: np.ndarray) -> ActivationStatistics:
    columns = {name: {2: np.array([1.0, 2.0])} for name in ("mean", "std", "minimum", "maximum")}
    sample = {2: np.array([[0.0, 5.0], [1.0, 5.0], [9.0, 5.0]], dtype=np.float32)}
    return ActivationStatistics(n=3, **{**columns, **{k: {2: v} for k, v in changes.items()}}, sample=sample)


def test_values_are_looked_up_by_neuron() -> None:
    assert statistics().value("mean", [Neuron(2, 1), Neuron(2, 0)]) == [2.0, 1.0]
    assert statistics().value("median", [Neuron(2, 0), Neuron(2, 1)]) == [1.0, 5.0]
    assert statistics().value("mode", [Neuron(2, 1)]) == [5.0]


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_statistics_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(HarnessError, match=r"the std of neuron 2\.1's activations is (inf|nan)"):
        statistics(std=np.array([1.0, bad])).value("std", [Neuron(2, 0), Neuron(2, 1)])


def test_a_statistic_that_there_is_not_is_named_with_the_nearest() -> None:
    with pytest.raises(HarnessError, match=r'no statistic "sd": there are mean, std, .*\. Did you mean "std"\?'):
        statistics().value("sd", [Neuron(2, 0)])
