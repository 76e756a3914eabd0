"""Neurons whose activation shifts when a text is repeated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families import tiny, tiny_hf, tokenizer
from harness_plugins.confidence_regulation.selectors.activation_shift import ActivationShift
from harness_plugins.confidence_regulation.selectors.entropy import Entropy
from texts import context, letters

from harness.builtin.components import Heads, Neurons
from harness.conditions.units import Neuron
from harness.data.token_sequences import sequences
from harness.errors import HarnessError
from harness.model.output_weights import write_directions
from harness.model.wrapping import wrap

ASKED: dict[str, Any] = {"corpus": letters(), "sequences": 4, "length": 12}


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("layer", [-1, 0])
def test_shifts_are_those_of_a_plain_loop(bos: bool, layer: int) -> None:
    model = wrap(tiny_hf("gpt2"), tokenizer(bos), "gpt2")
    selection = ActivationShift(**ASKED, layer=layer, top=5).select(context(model, seed=3))
    p, layer = int(bos), layer % 3
    first, second = [], []
    for found in sequences(model, ASKED["corpus"], 4, 12 + p, 3, part="select", across_documents=True):
        span = found.tokens[p:]
        assert len(span) == 12
        with torch.no_grad(), model.capture_neurons(layer) as seen:
            model.forward(model.pad([[*model.prefix, *span, *span]]))
        first.append(seen[layer][0, p : p + 12].double())
        second.append(seen[layer][0, p + 12 :].double())
        assert len(second[-1]) == 12
    shift = (torch.cat(second).mean(0) - torch.cat(first).mean(0)).numpy()
    np.testing.assert_allclose(selection.scores["shift"], shift, atol=1e-6)
    weighted = np.abs(shift) * np.linalg.norm(write_directions(model, layer), axis=1)
    assert selection.units == tuple(Neuron(layer, int(i)) for i in np.argsort(-weighted)[:5])
    assert len(selection.candidates) == model.anatomy.d_mlp
    assert (shift > 0).any() and (shift < 0).any()  # the sign is kept


def test_another_selectors_choice_may_be_kept() -> None:
    """clip_mean:side=shift then works with any selector of neurons."""
    model = tiny("gpt2")
    plain = ActivationShift(**ASKED).select(context(model))
    for selector in (Neurons(neurons=("2.7", "2.3")), Entropy(null_dims=4, rule="stolfo2024", top=3)):
        selection = ActivationShift(**ASKED, keep=selector).select(context(model))
        chosen = selector.select(context(model))
        assert selection.units == chosen.units
        assert set(chosen.scores) < set(selection.scores)
        np.testing.assert_array_equal(selection.scores["shift"], plain.scores["shift"])
        assert chosen.rule in selection.rule and "shifts measured on" in selection.rule
    with pytest.raises(HarnessError, match="keep must choose neurons of one layer, got 2 layers"):
        ActivationShift(**ASKED, keep=Neurons(neurons=("2.7", "1.3"))).select(context(model))
    with pytest.raises(HarnessError, match="keep must choose neurons of one layer, got 0 layers"):
        ActivationShift(**ASKED, keep=Heads(heads=("L1H0",))).select(context(model))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(HarnessError, match="length=33 tokens, duplicated, do not fit the 64 positions of gpt2"):
        ActivationShift(**{**ASKED, "length": 33}).select(context(tiny("gpt2")))


def test_its_figure() -> None:
    selector = ActivationShift(**ASKED)
    [figure] = selector.figures(selector.select(context(tiny("gpt2"))))
    assert figure.name == "selection_activation_changes"
