"""Ablation values: which constant, clamped how."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.activations import ActivationStatistics
from harness.components import ComponentSpec
from harness.conditions import Neuron, SetNeurons
from harness.plugins import catalogue

NEURONS = [Neuron(1, 2), Neuron(0, 1), Neuron(1, 0)]
X = {0: np.array([[0.0, 1, 2], [0, 3, 2], [0, 5, 9]]), 1: np.array([[-4.0, 1, 0], [-4, 1, 0], [8, 1, 90]])}


def statistics() -> ActivationStatistics:
    return ActivationStatistics(
        n=3,
        mean={layer: x.mean(0) for layer, x in X.items()},
        sd={layer: x.std(0, ddof=1) for layer, x in X.items()},
        minimum={layer: x.min(0) for layer, x in X.items()},
        maximum={layer: x.max(0) for layer, x in X.items()},
        sample={layer: x.astype(np.float32) for layer, x in X.items()},
    )


def values(name: str, **params: object) -> dict[Neuron, float]:
    intervention = catalogue().build("intervention", ComponentSpec(name, params), "--intervention")
    edits = intervention.edits(NEURONS, statistics())
    assert all(isinstance(edit, SetNeurons) for edit in edits)
    assert [edit.layer for edit in edits] == [0, 1]
    return {Neuron(e.layer, i): v for e in edits for i, v in zip(e.indices, e.values, strict=True)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean", [30.0, 3.0, 0.0]),
        ("median", [0.0, 3.0, -4.0]),
        ("mode", [0.0, 3.0, -4.0]),
        ("zero", [0.0, 0.0, 0.0]),
    ],
)
def test_constants(name: str, expected: list[float]) -> None:
    found = values(name)
    assert [found[neuron] for neuron in NEURONS] == pytest.approx(expected)


def test_three_sigmas_stop_at_what_was_observed() -> None:
    low, high = values("mean_minus_sigma"), values("mean_plus_sigma")
    for neuron in NEURONS:
        column = X[neuron.layer][:, neuron.index]
        assert low[neuron] == column.min()  # three of three points are never three sigmas away
        assert high[neuron] == column.max()
    half = values("mean_plus_sigma", sigmas=0.5)
    assert half[Neuron(0, 1)] == pytest.approx(3 + 0.5 * 2)


def test_an_edit_replaces_values_and_keeps_shape_and_type() -> None:
    edit = SetNeurons(0, (4, 7), (1.5, -2.0))
    x = torch.zeros(2, 3, 2, dtype=torch.bfloat16)
    out = edit.apply(x)
    assert out.shape == x.shape and out.dtype == x.dtype
    assert out[..., 0].eq(1.5).all() and out[..., 1].eq(-2).all()
