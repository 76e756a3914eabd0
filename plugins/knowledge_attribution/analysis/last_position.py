"""One pass of the model over prompts: what every layer reads and writes at their last position."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.engine import batches
from harness.model import probe_norm
from harness.plugin import HarnessError, Model, counted


@dataclass(frozen=True, eq=False)
class LastPosition:
    """What the untouched model leaves at the last position of P prompts; float32, where the unembedding is.

    Attributes:
        before, after: for every layer, the residual stream that enters and leaves it, [P, d_model].
        neurons: for every layer, [P, d_mlp]. heads: for every layer, [P, n_heads, d_head]; empty unless asked for.
        denominator: [P], of the final norm. target: int64 [P], the token whose probability is attributed.
    """

    before: tuple[torch.Tensor, ...]
    after: tuple[torch.Tensor, ...]
    neurons: tuple[torch.Tensor, ...]
    heads: tuple[torch.Tensor, ...]
    denominator: torch.Tensor
    target: torch.Tensor

    def of(self, p: int) -> LastPosition:
        """The same of prompt ``p`` alone."""
        here = slice(p, p + 1)
        before, after, neurons, heads = (
            tuple(x[here] for x in group) for group in (self.before, self.after, self.neurons, self.heads)
        )
        return LastPosition(before, after, neurons, heads, self.denominator[here], self.target[here])


@torch.no_grad()
def run_prompts(
    model: Model,
    prompts: Sequence[Sequence[int]],
    targets: Sequence[int] | None = None,
    batch_size: int = 64,
    heads: bool = False,
) -> LastPosition:
    """Pass the prompts through the model.

    Args:
        targets: a token for each prompt; by default the one that the model itself predicts next.
        heads: keep the heads' outputs, too.

    Raises:
        HarnessError: no prompts, targets that do not fit, a model whose residual stream is no sum of what its parts
            write (a norm stands on it), or activations that are not finite.
    """
    check_residual_stream(model)
    _check_targets(prompts, targets, model.anatomy.d_vocab)
    layers = range(model.anatomy.n_layers)
    device, order, parts = model.readout.W_U.device, [], []

    def last(x: torch.Tensor) -> torch.Tensor:
        return x[:, -1].to(device).float()  # prompts are padded on the left

    for rows in batches(prompts, batch_size):
        with contextlib.ExitStack() as stack:
            before, after = stack.enter_context(_streams(model))
            neurons = stack.enter_context(model.capture_neurons(layers))
            outputs = stack.enter_context(model.capture_heads(layers)) if heads else {}
            final = stack.enter_context(model.capture_residual())
            predicted = model.forward(model.pad([list(prompts[row]) for row in rows])).logits[:, -1].argmax(-1)
        kept = [last(seen[layer]) for seen in (before, after, neurons, outputs) if seen for layer in layers]
        parts.append([*kept, model.readout.denominator(last(final.residual))[:, 0], predicted.to(device)])
        order += rows.tolist()
    back = torch.tensor(order, device=device).argsort()
    *joined, denominator, target = (torch.cat(column)[back] for column in zip(*parts, strict=True))
    if not all(torch.isfinite(x).all() for x in (*joined, denominator)):
        raise HarnessError(f"activations of {model.name} are not finite (NaN or infinity) on these prompts.")
    n = len(layers)
    groups = [tuple(joined[start : start + n]) for start in range(0, 4 * n, n)]
    if targets is not None:
        target = torch.tensor(list(targets), device=device)
    return LastPosition(groups[0], groups[1], groups[2], groups[3], denominator, target)


def check_residual_stream(model: Model) -> None:
    """Refuse a model in which a norm stands on the residual stream itself.

    Raises:
        HarnessError: for example OPT-350m, whose layers end with a LayerNorm of the sum.
    """
    anatomy = model.anatomy
    straight = anatomy.direct_write or anatomy.residual_multiplier != 1.0 or anatomy.post_mlp_norms[-1] is not None
    if not straight:
        raise HarnessError(
            f"knowledge attribution: the residual stream of {model.name} is no sum of what its layers write (a norm "
            "stands on it), so that a neuron's own contribution is not defined."
        )
    if anatomy.d_mlps[-1] and not anatomy.neurons_enter:
        raise HarnessError(
            f"knowledge attribution: the dense neurons of {model.name} are those of shared experts whose output is "
            "scaled token by token, so that a neuron's own contribution is not its activation times what it writes."
        )


def _check_targets(prompts: Sequence[Sequence[int]], targets: Sequence[int] | None, d_vocab: int) -> None:
    if not prompts:
        raise HarnessError("knowledge attribution needs at least one prompt.")
    if targets is not None and (len(targets) != len(prompts) or not all(0 <= t < d_vocab for t in targets)):
        raise HarnessError(
            f"knowledge attribution: expected one target token (0 to {d_vocab - 1}) for each of "
            f"{counted(len(prompts), 'prompt')}."
        )


@contextlib.contextmanager
def _streams(model: Model) -> Any:
    """Within the block, ``(before, after)[layer]`` are what enters and leaves each layer in the last pass."""
    from harness.model import layer_input

    before: dict[int, torch.Tensor] = {}
    after: dict[int, torch.Tensor] = {}

    def see(layer: int) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            after[layer] = (output[0] if isinstance(output, list | tuple) else output).detach()[:, -1:]

        return hook

    def enter(layer: int) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            # Cloned: a layer may add to its input in place.
            before[layer] = layer_input(args, kwargs).detach()[:, -1:].clone()

        return hook

    with contextlib.ExitStack() as hooks:
        for i, layer in enumerate(model.anatomy.layers):
            hooks.callback(layer.register_forward_pre_hook(enter(i), with_kwargs=True).remove)
            hooks.callback(layer.register_forward_hook(see(i), with_kwargs=True).remove)
        yield before, after


@dataclass(frozen=True, eq=False)
class Writes:
    """What one layer's neurons add to the residual stream: ``activations[p, i] * directions[i]``.

    Attributes (float32, where the unembedding is):
        directions: [d_mlp, d_model], output weights with the gain of a norm after the MLP, or Granite's multiplier.
        activations: [P, d_mlp]; where a norm follows the MLP, divided by its denominator, which is held.
        residual: [P, d_model], the residual stream that the MLP adds to: the layer's output less what the MLP wrote.
    """

    directions: torch.Tensor
    activations: torch.Tensor
    residual: torch.Tensor


@torch.no_grad()
def mlp_writes(model: Model, states: LastPosition, layer: int) -> Writes:
    """What the neurons of ``layer`` write; the MLP's own biases are nobody's, but part of what it wrote."""
    directions, activations, wrote = neuron_writes(model, layer, states.neurons[layer])
    return Writes(directions, activations, states.after[layer] - wrote)


def neuron_writes(model: Model, layer: int, neurons: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``directions`` and ``activations`` of :class:`Writes`, and all that the MLP wrote [n, d_model], where its neurons
    are ``neurons`` [n, d_mlp]."""
    device = neurons.device
    directions, bias = model.w_out(layer).to(device), model.down_bias(layer)
    wrote = neurons @ directions
    wrote = wrote if bias is None else wrote + bias.to(device)
    module = model.anatomy.post_mlp_norms[layer]
    if module is None:
        factor = model.anatomy.residual_multiplier
        return directions * factor, neurons, wrote * factor
    kind, eps, gain, shift = probe_norm(module, model.anatomy.d_model)
    if kind == "layernorm":
        directions = directions - directions.mean(1, keepdim=True)
        wrote = wrote - wrote.mean(1, keepdim=True)
    share = (wrote.square().mean(1, keepdim=True) + eps).rsqrt()
    wrote = wrote * share * gain.to(device)
    wrote = wrote if shift is None else wrote + shift.to(device)
    return directions * gain.to(device), neurons * share, wrote
