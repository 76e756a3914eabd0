"""How much of the entropy activations carry: held out, by plain least squares, and of what was planted."""

from __future__ import annotations

import numpy as np
import pytest
from roles import conditions

from harness.builtin.carry import Carry, predicted
from harness.plugin.records import Outcomes, Prompt


def outcomes(activations: np.ndarray, entropy: np.ndarray, per_cluster: int = 2) -> Outcomes:
    """activations [C, N, k]; entropies [N] of the untouched model, and others under the rest."""
    n = len(entropy)
    rows = np.concatenate([entropy[None], np.zeros((len(activations) - 1, n))])
    return Outcomes(
        conditions=conditions(len(activations) - 2),
        prompts=tuple(Prompt(f"p{i}", "", (1,), f"c{i // per_cluster:04d}") for i in range(n)),
        values={"entropy": rows, "activations": activations.astype(np.float32)},
    )


def some(seed: int = 0, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Treated activations that carry half of the variance, and controls that carry none; the untouched have none."""
    rng = np.random.default_rng(seed)
    activations = rng.normal(size=(6, n, 3))
    activations[0] = np.nan
    entropy = 4 + activations[1] @ [1.0, -2.0, 0.5] + rng.normal(size=n) * np.sqrt(5.25)
    return activations, entropy


def slow(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> float:
    """R2 of ridge regression by augmented least squares, one fold after another."""
    left = around = 0.0
    for held in np.unique(fold):
        known = fold != held
        scale = x[known].std(0)
        z = (x - x[known].mean(0)) / scale
        rows = np.concatenate([z[known], np.eye(x.shape[1])])
        target = np.concatenate([y[known] - y[known].mean(), np.zeros(x.shape[1])])
        weights = np.linalg.lstsq(rows, target, rcond=None)[0]
        left += ((y[~known] - y[known].mean() - z[~known] @ weights) ** 2).sum()
        around += ((y[~known] - y[known].mean()) ** 2).sum()
    return float(1 - left / around)


def test_it_is_least_squares_with_whole_clusters_held_out() -> None:
    activations, entropy = some()
    found = outcomes(activations, entropy)
    [measure] = Carry().measure(found).measures
    fold = found.clusters % 5
    assert all(len(set(fold[found.clusters == i])) == 1 for i in range(100))
    expected = [slow(x.astype(np.float32).astype(float), entropy, fold) for x in activations[1:]]
    np.testing.assert_allclose(measure.values[1:], expected, atol=1e-9)
    assert measure.values[0] == pytest.approx(0)
    assert 0.35 < measure.treated < 0.6 and (measure.controls < 0.1).all()


def test_a_set_with_fewer_neurons_is_that_set() -> None:
    activations, entropy = some(1)
    fold = np.arange(200) % 4
    fewer = activations[1:2].copy()
    fewer[..., 2] = np.nan
    np.testing.assert_allclose(predicted(fewer, entropy, fold), predicted(activations[1:2, :, :2], entropy, fold))


def test_constant_activations_carry_nothing() -> None:
    activations, entropy = some(2)
    activations[1] = 3.0
    [measure] = Carry().measure(outcomes(activations, entropy)).measures
    assert measure.treated == pytest.approx(0, abs=1e-12)


def test_nothing_without_activations_and_a_word_with_few_items() -> None:
    activations, entropy = some(3, 12)
    few = outcomes(activations, entropy)
    found = Carry().measure(few)
    assert not found.measures and "6 independent items" in found.remarks[0]
    values = {"entropy": few["entropy"]}
    assert not Carry().measure(Outcomes(few.conditions, few.prompts, values)).measures
