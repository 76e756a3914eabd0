"""Input weights of neurons: found by what a map does, on every family, and refused where nothing does it."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from families import tiny
from slow_dfa import NAMES, linear

from harness.errors import HarnessError
from harness.model.input_weights import read_in
from harness.model.model import Model

# -- input weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", NAMES)
def test_input_weights_are_those_of_the_named_map(family: str) -> None:
    model, names = tiny(family), NAMES[family]
    layer = model.hf.get_submodule(names.layers)[1]
    weight, bias = linear(layer.get_submodule(names.read))
    rows = slice(*(names.rows or (0, model.anatomy.d_mlp)))
    found = read_in(model, 1)
    assert torch.equal(found.w_in, weight[rows]) and torch.equal(found.b_in, bias[rows])
    assert found.norm.module is (layer.get_submodule(names.norm) if names.norm else None)
    assert found.attention_norm.module is (
        layer.get_submodule(names.after_attention) if names.after_attention else None
    )
    gated = {"cohere", "llama", "llama_gqa_tied", "phi3", "gemma2", "olmo2", "granite"}
    assert found.gated == (family in gated)


def with_mlp(forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> Model:
    """A tiny Llama whose second MLP computes something else."""
    model = tiny("llama")
    mlp = model.hf.model.layers[1].mlp
    mlp.forward = MethodType(forward, mlp)
    return model


def test_columns_that_are_not_the_neurons_in_order_are_refused() -> None:
    def rolled(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x).roll(1, -1)) * self.up_proj(x).roll(1, -1))

    with pytest.raises(HarnessError, match="input weights of layer 1 of llama were not found: 0 linear maps"):
        read_in(with_mlp(rolled), 1)


def test_a_bilinear_mlp_has_no_gate() -> None:
    def bilinear(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.gate_proj(x) * self.up_proj(x))

    with pytest.raises(HarnessError, match="2 linear maps move its neurons one by one, 0 of them through"):
        read_in(with_mlp(bilinear), 1)


def test_the_gate_is_found_by_what_it_does_and_not_by_its_place() -> None:
    def swapped(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.gate_proj(x) * torch.relu(self.up_proj(x)))

    model = with_mlp(swapped)
    assert read_in(model, 1).projection is model.hf.model.layers[1].mlp.up_proj


def test_a_map_that_moves_no_neuron_is_passed_over() -> None:
    def idle(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x) + 0 * self.idle(x))

    model = with_mlp(idle)
    mlp = model.hf.model.layers[1].mlp
    mlp.idle = torch.nn.Linear(32, 48)
    found = read_in(model, 1)
    assert found.projection is mlp.gate_proj and found.gated
