"""Activations under conditions against one hooked pass of one prompt at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engines import late_mixture, some_prompts
from families import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.conditions.positions import Layout, Positions
from harness.conditions.units import Neuron
from harness.engine.activation_capture import activations
from harness.engine.hooks import under
from harness.errors import HarnessError


@settings(max_examples=10)
@given(st.sampled_from(["gpt2", "llama", "opt", "gpt_neox", "gemma2"]), st.integers(0, 10_000), st.integers(1, 5))
def test_watched_activations_are_those_of_one_prompt_at_a_time(family: str, seed: int, batch: int) -> None:
    model = tiny(family)
    prompts, conditions = some_prompts(seed, n=4), late_mixture(model, seed)
    rng, anatomy = np.random.default_rng(seed), model.anatomy
    neurons = [Neuron(int(rng.integers(anatomy.n_layers)), int(rng.integers(anatomy.d_mlp))) for _ in range(5)]
    found = activations(model, prompts, conditions, neurons, batch)
    assert found.shape == (len(conditions), 5, 4, max(map(len, prompts))) and found.dtype == np.float32
    for c, condition in enumerate(conditions):
        for i, prompt in enumerate(prompts):
            with (
                torch.no_grad(),
                under(model, condition, Layout.of([len(prompt)])),
                model.capture_neurons(range(anatomy.n_layers)) as seen,
            ):
                model.hf(torch.tensor([prompt]))
            for n, neuron in enumerate(neurons):
                values = seen[neuron.layer].view(len(prompt), -1)[:, neuron.index]
                np.testing.assert_allclose(found[c, n, i, : len(prompt)], values, atol=2e-4, rtol=1e-4)
            assert np.isnan(found[c, :, i, len(prompt) :]).all()


def test_watched_are_edited_values_and_what_follows_from_them() -> None:
    model = tiny("gpt2")
    conditions = [BASELINE, Condition("set", (SetNeurons(1, (3,), (7.0,)),), Positions("2:"))]
    prompts = [[5, 6, 7, 8], [9, 10, 11]]
    found = activations(model, prompts, conditions, [Neuron(0, 2), Neuron(1, 3), Neuron(2, 4)])
    before, after = found
    np.testing.assert_array_equal(after[0], before[0])  # earlier
    assert (after[1, 0, 2:] == 7).all() and (after[1, 1, 2:3] == 7).all()
    np.testing.assert_array_equal(after[:, :, :2], before[:, :, :2])
    assert (after[2, 0, 2:] != before[2, 0, 2:]).all()


def test_watching_refuses_what_is_not_there() -> None:
    model = tiny("gpt2")
    bad = Condition("bad", (SetNeurons(1, (3,), (float("inf"),)),))
    for neurons, condition, says in (
        ([Neuron(9, 1)], BASELINE, "names neuron 9.1, but the model has layers 0 to 2"),
        ([Neuron(0, 9999)], BASELINE, "names neuron 0.9999"),
        (["0.1"], BASELINE, '"0.1" is not a neuron'),
        ([Neuron(1, 3)], bad, 'not finite under condition "bad"'),
        ([Neuron(1, 3)], Condition("s", bad.edits, Positions("subject")), 'no span of the name "subject"'),
    ):
        with pytest.raises(HarnessError, match=says):
            activations(model, [[1, 2, 3]], [condition], neurons)  # type: ignore[arg-type]
    assert activations(model, [], [BASELINE], [Neuron(0, 1)]).shape == (1, 1, 0, 0)
    assert activations(model, [[1, 2]], [BASELINE], []).shape == (1, 0, 1, 2)
    assert activations(model, [[1, 2]], [], [Neuron(0, 1)]).shape == (0, 1, 1, 2)
