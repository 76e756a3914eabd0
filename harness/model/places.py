"""Places in a layer where activations are read and edited, beside its neurons and heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from harness.errors import HarnessError, suggest
from harness.model.modules import linear_features

if TYPE_CHECKING:
    from harness.model.model import Model


class Spot(NamedTuple):
    """Where activations [batch, pos, *width] are read and edited: as they enter a module, or as they leave it."""

    module: nn.Module
    width: tuple[int, ...]
    name: str
    leaves: bool = False
    columns: slice | None = None
    """Which of the module's numbers; None: all of them."""


def spot_of(model: Model, place: str, layer: int) -> Spot:
    """Where a place of :data:`PLACES` is in a layer.

    Raises:
        HarnessError: there is no such place or layer, or the layer has no attention.
    """
    if place not in PLACES:
        raise HarnessError(
            f'there is no place "{place}" in a layer: there are {", ".join(PLACES)}.{suggest(place, PLACES)}'
        )
    model.check_layer(layer)
    return PLACES[place](model, layer)


def _residual_before(model: Model, layer: int) -> Spot:
    anatomy = model.anatomy
    return Spot(anatomy.layers[layer], (anatomy.d_model,), f"the residual stream before layer {layer}")


def _residual_after(model: Model, layer: int) -> Spot:
    anatomy = model.anatomy
    return Spot(anatomy.layers[layer], (anatomy.d_model,), f"the residual stream after layer {layer}", leaves=True)


def _heads(model: Model, layer: int) -> Spot:
    _, projection = model.attention(layer)
    return Spot(projection, (linear_features(projection)[0],), f"the heads of layer {layer}")


def _attention_out(model: Model, layer: int) -> Spot:
    _, projection = model.attention(layer)
    last = model.anatomy.post_attention_norms[layer] or projection
    return Spot(last, (model.anatomy.d_model,), f"the output of layer {layer}'s attention", leaves=True)


def _mlp_in(model: Model, layer: int) -> Spot:
    name = f"the input of layer {layer}'s MLP"
    return Spot(_there(model.anatomy.mlp_inputs[layer], name, model), (model.anatomy.d_model,), name)


def _mlp_out(model: Model, layer: int) -> Spot:
    name = f"the output of layer {layer}'s MLP"
    last = _there(model.anatomy.post_mlp_norms[layer] or model.anatomy.mlp_outputs[layer], name, model)
    return Spot(last, (model.anatomy.d_model,), name, leaves=True)


def _there(found: nn.Module | None, name: str, model: Model) -> nn.Module:
    if found is None:
        raise HarnessError(
            f"{name} of {model.name} is nowhere to be read: experts and what is beside them are in no module alone."
        )
    return found


def _pre_activation(model: Model, layer: int) -> Spot:
    block, _ = model.mlp_blocks(layer)
    name = f"the pre-activations of layer {layer}"
    return Spot(block.module, (model.anatomy.d_mlps[layer],), name, leaves=True, columns=block.columns)


def _up(model: Model, layer: int) -> Spot:
    _, block = model.mlp_blocks(layer)
    if block is None:
        raise HarnessError(f"the MLP of layer {layer} of {model.name} is not gated: it multiplies no activation.")
    name = f"what multiplies the activations of layer {layer}"
    return Spot(block.module, (model.anatomy.d_mlps[layer],), name, leaves=True, columns=block.columns)


PLACES: dict[str, Callable[[Model, int], Spot]] = {
    "residual_before": _residual_before,
    "residual_after": _residual_after,
    "heads": _heads,
    "attention_out": _attention_out,
    "mlp_in": _mlp_in,
    "mlp_out": _mlp_out,
    "pre_activation": _pre_activation,
    "up": _up,
}
"""``residual_before`` and ``residual_after`` a layer: [batch, pos, d_model]; ``heads``: their outputs side by side
before the output projection, [batch, pos, n_heads * d_head]; ``attention_out`` and ``mlp_out``: what attention and MLP
add to the residual stream, behind a norm of their own, before a residual multiplier (Granite); ``mlp_in``: what the MLP
reads, behind its norm; ``pre_activation`` and ``up``: neurons before their activation function (of a gated MLP the
gate), and what a gated MLP multiplies their activation by, [batch, pos, d_mlp]."""

READ_ONLY = frozenset({"mlp_in"})
"""Places that several modules read: they can be looked at, and not edited."""
