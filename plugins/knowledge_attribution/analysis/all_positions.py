"""What the untouched model leaves at every position: attention patterns, value vectors, neurons.

A head's value vector at a position is what the head puts out when it attends to that position alone. That is what it
does in a sequence of one token: so the input that the attention reads at a position, given to it as a sequence of its
own, makes the head put out the value vector, whatever the layout of the weights (fused, grouped or multi-query). With
unit vectors as inputs the same gives the rows of the value projection. That patterns times value vectors are the heads'
outputs is checked on every prompt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from harness.model import layer_input, patterns
from harness.plugin import HarnessError, Model

from .head_outputs import TOLERANCE
from .last_position import LastPosition, run_prompts

ROWS = 1024
"""Sequences of one token in a pass."""


@dataclass(frozen=True, eq=False)
class Positions:
    """P prompts of equal length T; float32, where the unembedding is.

    Attributes:
        states: their last positions. neurons: by layer, at every position, [P, T, d_mlp].
        inputs: by module that was asked for, what it reads at every position, [P, T, d_model].
    """

    states: LastPosition
    neurons: tuple[torch.Tensor, ...]
    inputs: Mapping[nn.Module, torch.Tensor]


def of_equal_length(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Numbers of prompts of equal length, at most ``size`` at a time; shorter ones first."""
    lengths = [len(tokens) for tokens in prompts]
    for length in sorted(set(lengths)):
        rows = [row for row, found in enumerate(lengths) if found == length]
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


@torch.no_grad()
def run_positions(model: Model, prompts: Sequence[Sequence[int]], modules: Sequence[nn.Module]) -> Positions:
    """Pass prompts of equal length through the model, once.

    Args:
        modules: whose inputs are wanted: layers, norms, attentions or linear maps.
    """
    shape, device = (len(prompts), len(prompts[0]), -1), model.readout.W_U.device
    seen: dict[nn.Module, torch.Tensor] = {}

    def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
        # Cloned: a layer may add to it in place.
        seen[module] = layer_input(args, kwargs).detach().reshape(shape).to(device, torch.float32, copy=True)

    layers = range(model.anatomy.n_layers)
    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(keep, with_kwargs=True).remove)
        neurons = stack.enter_context(model.capture_neurons(layers))
        states = run_prompts(model, prompts, batch_size=len(prompts), heads=True)
    return Positions(states, tuple(neurons[layer].to(device).float() for layer in layers), seen)


@torch.no_grad()
def value_vectors(model: Model, inputs: Mapping[int, torch.Tensor], rows: int = ROWS) -> dict[int, torch.Tensor]:
    """The heads' value vectors [n, n_heads, d_head], float32, where their layers' attentions read ``inputs``
    [n, d_model].

    Needs attention whose weights sum to one (no learned sinks) and values that do not depend on the position, as
    :class:`harness.conditions.head_edits.AttendFirst` does.
    """
    n, device = len(next(iter(inputs.values()))), model.readout.W_U.device
    parts: dict[int, list[torch.Tensor]] = {layer: [] for layer in inputs}

    def replace(given: torch.Tensor) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
            old = layer_input(args, kwargs)
            new = given.to(old).view(old.shape)
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

        return hook

    for start in range(0, n, rows):
        some = {layer: x[start : start + rows] for layer, x in inputs.items()}
        batch = model.pad([[model.pad_id]] * len(next(iter(some.values()))))
        with contextlib.ExitStack() as stack:
            for layer, given in some.items():
                attention, _ = model.attention(layer)
                stack.callback(attention.register_forward_pre_hook(replace(given), with_kwargs=True).remove)
            heads = stack.enter_context(model.capture_heads(list(inputs)))
            model.forward(batch)
        for layer in inputs:
            parts[layer].append(heads[layer][:, 0].to(device).float())
    return {layer: torch.cat(found) for layer, found in parts.items()}


@torch.no_grad()
def last_patterns(model: Model, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """By layer, what the last position of prompts of equal length attends to, float32 [P, n_heads, T].

    Raises:
        HarnessError: the model returns no attention patterns.
    """
    device = model.readout.W_U.device
    return [found[:, :, -1].to(device) for found in patterns(model, prompts)]


def check_values(model: Model, layer: int, coefficients: torch.Tensor, heads: torch.Tensor) -> None:
    """Refuse a layer whose heads' outputs [P, n_heads, d_head] are not the sum over source positions of their weighted
    value vectors [P, T, n_heads, d_head].

    Raises:
        HarnessError: names the layer.
    """
    error = (coefficients.sum(1) - heads).abs().max() / heads.abs().max()
    if not error <= TOLERANCE[model.dtype]:
        raise HarnessError(
            f"what the heads of layer {layer} of {model.name} put out is not the sum of their value vectors, weighted "
            f"by their attention patterns (relative difference {float(error):.1e}), so that attention neurons are not "
            "defined."
        )
