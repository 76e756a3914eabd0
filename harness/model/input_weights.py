"""What neurons read: their input weights, and the norms on the way, found by running the layer as the harness does.

    pre-activation of neuron i = w_in_i . norm(x) + b_in_i          x the residual stream where the MLP reads it

In a gated MLP, activation = act(gate) * up, "pre-activation" is that of the gate: it decides whether the neuron is on.
Nothing is looked up by name. The linear maps that run before the down projection are perturbed one column at a time (in
code: each column in some rows of the batch and not in others): column i must move neuron i and no other, and the map in
which the neurons are linear is no gate. A layer that does not fit is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from harness.errors import HarnessError
from harness.model.matrices import write_matrix
from harness.model.model import Model
from harness.model.modules import down_bias, features, is_norm
from harness.model.probes import N_TOKENS, run
from harness.model.readout import NormKind, probe_norm


@dataclass(frozen=True, eq=False)
class Norm:
    """A LayerNorm or RMSNorm, linear once its denominator is given: norm(x) = gain * (x - c) / denominator(x) + bias.

    Attributes:
        module: the model's own; None where there is no norm.
        gain, bias: float64 [d_model] on the CPU; bias may be None.
    """

    module: nn.Module | None
    kind: NormKind
    eps: float
    gain: torch.Tensor
    bias: torch.Tensor | None

    @classmethod
    def of(cls, module: nn.Module | None, d_model: int) -> Norm:
        """Raises: HarnessError: the module is neither a LayerNorm nor an RMSNorm."""
        kind, eps, gain, bias = probe_norm(module, d_model)
        return cls(module, kind, eps, gain.double(), None if bias is None else bias.double())

    def denominator(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [...] of inputs x [..., d_model]; ones without a norm."""
        x = x.float()
        if self.kind == "none":
            return torch.ones_like(x[..., 0])
        centred = x - x.mean(-1, keepdim=True) if self.kind == "layernorm" else x
        return (centred.square().mean(-1) + self.eps).sqrt()

    def fold(self, directions: torch.Tensor) -> torch.Tensor:
        """Directions r' [..., d_model] with r . norm(x) = r' . x / denominator(x) + :meth:`constant`."""
        folded = directions * self.gain
        return folded - folded.mean(-1, keepdim=True) if self.kind == "layernorm" else folded

    def constant(self, directions: torch.Tensor) -> torch.Tensor:
        """What the norm's bias adds, [...]."""
        return torch.zeros_like(directions[..., 0]) if self.bias is None else directions @ self.bias


@dataclass(frozen=True, eq=False)
class InputWeights:
    """Where and how one layer's neurons read the residual stream.

    Attributes:
        projection: the linear map whose outputs ``columns`` are the pre-activations [batch, pos, d_mlp].
        norm: before it (none in OLMo 2, whose MLP reads the residual stream itself).
        attention_norm: between the attention's output and the residual stream (Gemma 2 and 3, OLMo 2), mostly none;
            none without attention.
        w_in: float64 [d_mlp, d_model], b_in: float64 [d_mlp]; on the CPU.
        gated: whether the pre-activations are those of a gate.
    """

    layer: int
    projection: nn.Module
    columns: slice
    norm: Norm
    attention_norm: Norm
    w_in: torch.Tensor
    b_in: torch.Tensor
    gated: bool


@dataclass(frozen=True)
class _Call:
    """One linear map or norm that ran; input and output are float32 [positions, width]."""

    module: nn.Module
    input: torch.Tensor
    output: torch.Tensor


@dataclass(frozen=True)
class Block:
    """``d_mlp`` consecutive outputs of a linear map."""

    module: nn.Module
    columns: slice


@torch.no_grad()
def mlp_blocks(model: Model, layer: int) -> tuple[Block, Block | None]:
    """What becomes a layer's neurons: the pre-activations, and in a gated MLP what their activation is multiplied by.

    Raises:
        HarnessError: no linear map moves the neurons one by one, or a gated MLP in which the gate cannot be told.
    """
    return _blocks(model, layer, _walk(model, layer))


def _blocks(model: Model, layer: int, calls: Sequence[_Call]) -> tuple[Block, Block | None]:
    blocks = _candidates(model, layer, calls)
    found = [block for block in blocks if _moves_one_by_one(model, layer, block, blocks)]
    gates = [block for block in found if len(found) == 1 or not _is_linear(model, layer, block, blocks)]
    if len(found) not in (1, 2) or len(gates) != 1:
        raise HarnessError(
            f"the input weights of layer {layer} of {model.name} were not found: {len(found)} linear maps move its "
            f"neurons one by one, {len(gates)} of them through an activation function (expected: one)."
        )
    return gates[0], next((block for block in found if block is not gates[0]), None)


@torch.no_grad()
def read_in(model: Model, layer: int) -> InputWeights:
    """Find the input weights of a layer's neurons.

    Raises:
        HarnessError: as of :func:`mlp_blocks`.
    """
    anatomy = model.anatomy
    calls = _walk(model, layer)
    chosen, up = _blocks(model, layer, calls)
    read = next(call for call in calls if call.module is chosen.module).input
    norms = [call for call in calls if is_norm(call.module)]
    norm = next((x.module for x in reversed(norms) if _same(x.output, read)), None)
    bias = down_bias(chosen.module)
    weight = write_matrix(chosen.module, model.dtype).T[chosen.columns].double().cpu()
    return InputWeights(
        layer=layer,
        projection=chosen.module,
        columns=chosen.columns,
        norm=Norm.of(norm, anatomy.d_model),
        attention_norm=attention_norm(model, layer, calls)
        if layer in anatomy.with_attention
        else Norm.of(None, anatomy.d_model),
        w_in=weight,
        b_in=torch.zeros(anatomy.d_mlps[layer]).double() if bias is None else bias[chosen.columns].double().cpu(),
        gated=up is not None,
    )


@torch.no_grad()
def attention_norm(model: Model, layer: int, calls: Sequence[_Call] | None = None) -> Norm:
    """The norm that the attention's output alone goes through before it is added to the residual stream.

    Raises:
        HarnessError: the layer has no attention.
    """
    calls = _walk(model, layer) if calls is None else calls
    _, output = model.attention(layer)
    written = next(call.output for call in calls if call.module is output)
    norm = next((x.module for x in calls if is_norm(x.module) and _same(x.input, written)), None)
    return Norm.of(norm, model.anatomy.d_model)


@torch.no_grad()
def input_norm(model: Model, layer: int) -> Norm:
    """The norm through which the attention reads the residual stream (none in OLMo 2).

    Raises:
        HarnessError: the layer has no attention.
    """
    calls, inside = _walk(model, layer), {id(module) for module in model.attention(layer)[0].modules()}
    read = next(call.input for call in calls if id(call.module) in inside and features(call.module) is not None)
    norm = next((x.module for x in reversed(calls) if is_norm(x.module) and _same(x.output, read)), None)
    return Norm.of(norm, model.anatomy.d_model)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _walk(model: Model, layer: int) -> list[_Call]:
    """The linear maps and norms of one layer, in the order in which they run on the probe tokens."""
    calls: list[_Call] = []

    def record(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        # Cloned: Falcon adds the attention's output to the MLP's in place.
        x, y = args[0].detach().float(), output.detach().float().clone()
        calls.append(_Call(module, x.reshape(-1, x.shape[-1]).clone(), y.reshape(-1, y.shape[-1])))

    with contextlib.ExitStack() as hooks:
        for module in model.anatomy.layers[layer].modules():
            if features(module) is not None or is_norm(module):
                hooks.callback(module.register_forward_hook(record).remove)
        run(model.hf)
    return calls


def _candidates(model: Model, layer: int, calls: Sequence[_Call]) -> list[Block]:
    """Blocks of d_mlp outputs of the maps outside the attention that run before the down projection."""
    anatomy = model.anatomy
    attention = anatomy.attentions[layer]
    inside = set() if attention is None else {id(module) for module in attention.modules()}
    blocks, width = [], anatomy.d_mlps[layer]
    for call in calls:
        if call.module is model.down_projection(layer):
            break
        d_in, d_out = features(call.module) or (0, 0)
        if d_in == anatomy.d_model and d_out in (width, 2 * width) and id(call.module) not in inside:
            blocks += [Block(call.module, slice(start, start + width)) for start in range(0, d_out, width)]
    return blocks


def _perturbed(
    model: Model, layer: int, block: Block, blocks: Sequence[Block], factor: torch.Tensor, push: torch.Tensor
) -> torch.Tensor:
    """Neurons [rows, pos, d_mlp] of equal rows in which ``block`` becomes factor * block + push * its size.

    Args:
        factor, push: [rows, d_mlp]; the first row should leave everything as it is.
    """
    seen: dict[str, torch.Tensor] = {}
    n = len(factor)

    def change(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        rows = output.detach().clone().view(n, N_TOKENS, -1)
        rows[1:] = rows[:1]  # equal bit by bit, whatever the order in which a matrix product sums
        if module is block.module:
            part = rows[..., block.columns]
            size = part.float().square().mean().sqrt().to(part)
            rows[..., block.columns] = factor[:, None].to(part) * part + push[:, None].to(part) * size
        return rows.view(output.shape)

    def keep(module: nn.Module, args: Any) -> None:
        seen["neurons"] = args[0].detach().float().view(n, N_TOKENS, -1)

    with contextlib.ExitStack() as hooks:
        for module in {id(x.module): x.module for x in blocks}.values():
            hooks.callback(module.register_forward_hook(change).remove)
        hooks.callback(model.down_projection(layer).register_forward_pre_hook(keep).remove)
        run(model.hf, rows=n)
    return seen["neurons"].cpu()


def _moves_one_by_one(model: Model, layer: int, block: Block, blocks: Sequence[Block]) -> bool:
    """Whether column i moves neuron i alone.

    For each binary digit, the columns whose number has it are pushed in one row and those without it in another. If
    the other neurons stay as they are in every row, then whatever column i moves agrees with i in every digit.
    """
    d_mlp = model.anatomy.d_mlps[layer]
    digits = torch.arange(d_mlp)[None] >> torch.arange(max(1, (d_mlp - 1).bit_length()))[:, None] & 1
    pushed = torch.cat([torch.zeros(1, d_mlp), digits.float(), 1 - digits.float()])
    neurons = _perturbed(model, layer, block, blocks, torch.ones_like(pushed), pushed)
    near = torch.isclose(neurons, neurons[:1], rtol=1e-2, atol=1e-6 * neurons.abs().max().item())
    moved = ~near.all(1)  # [rows, d_mlp]
    may = pushed.bool()
    return not bool(moved[~may].any()) and bool(moved[may].float().mean() > 0.5)


def _is_linear(model: Model, layer: int, block: Block, blocks: Sequence[Block]) -> bool:
    """Whether neurons are proportional to the block: -2 times the block makes -2 times the neurons."""
    factor = torch.ones(2, model.anatomy.d_mlps[layer])
    factor[1] = -2.0
    neurons = _perturbed(model, layer, block, blocks, factor, torch.zeros_like(factor))
    size = neurons.abs().max().item()
    return bool(torch.allclose(neurons[1], -2 * neurons[0], rtol=2e-2, atol=1e-3 * size))
