"""What the conditions' neurons do in the untouched model, in every engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engines import some_prompts
from families import tiny

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.conditions.units import Head, Neuron
from harness.engine.activation_capture import activations
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.running.shared_passes import own_columns


def about(*indices: int, layer: int) -> Condition:
    edit = SetNeurons(layer, indices, (1.0,) * len(indices))
    return Condition(str(indices), (edit,), units=tuple(Neuron(layer, i) for i in indices))


@pytest.mark.parametrize("family", ["gpt2", "llama_gqa_tied"])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("engine", [HookEngine, ClosedFormEngine])
def test_they_are_the_activations_at_the_last_token(family: str, early: bool, engine: type[HookEngine]) -> None:
    model = tiny(family)
    layer = 0 if early else model.anatomy.n_layers - 1
    prompts = some_prompts(1)
    some = [BASELINE, about(3, 1, layer=layer), about(7, layer=layer)]
    made = engine(model, 4).generate(prompts, some, 3, watched=True)
    assert made.watched is not None
    found = made.watched.by_condition(some)
    seen = activations(model, prompts, [BASELINE], [Neuron(layer, i) for i in (3, 1, 7)])[0]
    last = np.stack([seen[:, i, len(tokens) - 1] for i, tokens in enumerate(prompts)])
    assert found.shape == (3, len(prompts), 2) and np.isnan(found[0]).all() and np.isnan(found[2, :, 1]).all()
    np.testing.assert_allclose(found[1], last[:, :2], atol=1e-5)
    np.testing.assert_allclose(found[2, :, 0], last[:, 2], atol=1e-5)
    plain = engine(model, 4).generate(prompts, some, 3)
    assert plain.watched is None
    np.testing.assert_array_equal(plain.tokens, made.tokens)


def test_heads_are_not_watched() -> None:
    model = tiny("gpt2")
    head = replace(about(1, layer=0), units=(Head(0, 0),))
    assert HookEngine(model).generate(some_prompts(1), [BASELINE, head], 1, watched=True).watched is None


def test_a_run_keeps_the_columns_that_its_own_conditions_fill() -> None:
    nan = np.nan
    array = np.array([[[nan, nan, nan]], [[1.0, 2.0, nan]]])
    assert own_columns(array).shape == (2, 1, 2)
    assert own_columns(array[:1]).shape == (1, 1, 0)
    assert own_columns(np.zeros((2, 3), np.int8)).shape == (2, 3)
