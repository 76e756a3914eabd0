"""Seeded noise: normal, independent where it should be, and the same number in every engine, batch and padding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from harness.builtin.interventions import Noise
from harness.conditions.conditions import BASELINE, Condition
from harness.conditions.noise import CELLS, AddNoise
from harness.conditions.units import Neuron
from harness.engine.activation_summaries import activation_statistics
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.testing import check_intervention, prompts_of, tiny_model


def mixed(word: int) -> int:
    word = ((word ^ (word >> 16)) * 0x7FEB352D) % 2**32
    word = ((word ^ (word >> 15)) * 0x846CA68B) % 2**32
    return word ^ (word >> 16)


def slowly(x: float, size: float, cell: float, seed: int, layer: int, index: int) -> float:
    """The definition, one number at a time, in Python's integers."""
    a, b = map(int, np.random.SeedSequence([seed, layer, index]).generate_state(2))
    knot = math.floor(x / cell)
    angle = (x / cell - knot) * math.pi / 2

    def normal(knot: int) -> float:
        u = (mixed((mixed(knot % 2**32 ^ a) + b) % 2**32) + 0.5) / 2**32
        v = (mixed((mixed(knot % 2**32 ^ b) + a) % 2**32) + 0.5) / 2**32
        return math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v)

    return x + size * (normal(knot) * math.cos(angle) + normal(knot + 1) * math.sin(angle))


def test_it_is_its_definition() -> None:
    edit = AddNoise(3, (5, 9), (0.5, 2.0), (0.01, 0.25), seed=7)
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) * 3
    found = edit.apply(x)
    for row in range(40):
        for k, index in enumerate(edit.indices):
            expected = slowly(x[row, k].item(), edit.size[k], edit.cell[k], 7, 3, index)
            assert found[row, k].item() == pytest.approx(expected, abs=1e-6)


def noise(x: np.ndarray, seed: int = 0, index: int = 0, sd: float = 1.0) -> np.ndarray:
    edit = AddNoise(0, (index,), (1.0,), (sd / CELLS,), seed)
    given = torch.from_numpy(x)[:, None]
    return (edit.apply(given) - given)[:, 0].numpy()


def test_it_is_normal_and_independent() -> None:
    x = np.random.default_rng(0).normal(size=20_000) * 50  # most in cells of their own
    found = noise(x)
    assert abs(found.mean()) < 0.03 and found.std() == pytest.approx(1, abs=0.02)
    assert (found**3).mean() == pytest.approx(0, abs=0.1) and (found**4).mean() == pytest.approx(3, abs=0.2)
    assert np.abs(np.quantile(found, [0.025, 0.5, 0.975]) - [-1.96, 0, 1.96]).max() < 0.06
    others = [x, noise(x, seed=1), noise(x, index=1), noise(x + 2 / CELLS), noise(-x), noise(x + 1)]
    assert np.corrcoef(found, noise(x + 1 / CELLS))[0, 1] == pytest.approx(1 / math.pi, abs=0.03)  # a knot is shared
    for other in others:
        assert abs(np.corrcoef(found, other)[0, 1]) < 0.03


def test_every_cell_has_variance_one_and_no_jump() -> None:
    """Over many neurons, at each place of a cell; and across the knots."""
    places = np.linspace(3.0, 3.0 + 2 / CELLS, 9)
    many = np.stack([noise(places, index=i) for i in range(4000)])
    np.testing.assert_allclose(many.std(axis=0), 1, atol=0.05)
    knots = np.arange(1, 200) / CELLS
    np.testing.assert_allclose(noise(knots - 1e-9), noise(knots + 1e-9), atol=1e-5)


def test_what_does_not_vary_stays_and_nan_stays_nan() -> None:
    edit = AddNoise(0, (0, 1), (0.0, 1.0), (1.0, 1.0), 0)
    found = edit.apply(torch.tensor([[0.5, float("nan")], [0.5, 1e30]]))
    assert found[:, 0].tolist() == [0.5, 0.5] and bool(found[0, 1].isnan()) and bool(torch.isfinite(found[1, 1]))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox", "opt"])
def test_it_keeps_the_promises_of_an_intervention(family: str) -> None:
    assert check_intervention(Noise, on=tiny_model(family), sigma=2.0, seed=3)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "falcon"])
@pytest.mark.parametrize("layer", [0, -1])
def test_every_engine_and_batch_gives_the_same_and_hooks_by_hand_do(family: str, layer: int) -> None:
    model = tiny_model(family)
    layer = layer % model.anatomy.n_layers
    prompts = prompts_of(model, n=6)
    statistics = activation_statistics(model, prompts, [layer], 8, 0)
    units = [Neuron(layer, i) for i in (1, 4, 7)]
    edits = Noise(sigma=3.0, seed=5).edits(units, statistics)
    [edit] = edits
    conditions = [BASELINE, Condition("noise", edits)]
    found = [
        engine(model, batch).score(prompts, conditions)
        for engine in (HookEngine, ClosedFormEngine)
        for batch in (1, 2, 6)  # other batches, other padding
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other.loss, found[0].loss, atol=1e-3)
    assert np.abs(found[0].loss[1] - found[0].loss[0]).max() > 0.01
    sd = statistics.value("std", units)

    def change(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        for unit, s in zip(units, sd, strict=True):
            flat = [slowly(v, 3.0 * s, s / CELLS, 5, layer, unit.index) for v in x[..., unit.index].flatten().tolist()]
            x[..., unit.index] = torch.tensor(flat).view(x.shape[:-1])
        return x

    place = 0
    for prompt in prompts:
        with torch.no_grad(), model.edit_neurons(layer, change):
            logits = model.hf(torch.tensor([prompt])).logits[0, :-1].float()
        loss = -logits.log_softmax(-1)[range(len(prompt) - 1), list(prompt[1:])]
        np.testing.assert_allclose(found[0].loss[1, place : place + len(loss)], loss, atol=1e-3)
        place += len(loss)
    assert edit.indices == (1, 4, 7)
