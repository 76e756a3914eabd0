"""One pass of the model over prompts: what every layer reads and writes at their last position."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.engine import batches
from harness.model import probe_norm
from harness.plugin import NEURONS, HarnessError, Model, counted, mlp_site


@dataclass(frozen=True, eq=False)
class LastPosition:
    """What the untouched model leaves at the last position of P prompts; float32, where the unembedding is.

    Attributes:
        before, after: for every layer, the residual stream that enters and leaves it, [P, d_model].
        neurons: for every layer, [P, d_mlp], of routed experts where it has such. heads: for every layer, [P, n_heads,
            d_head]; empty unless asked for.
        wrote: for every layer of experts, what its whole MLP wrote, before a norm after it, [P, d_model].
        denominator: [P], of the final norm. target: int64 [P], the token whose probability is attributed.
    """

    before: tuple[torch.Tensor, ...]
    after: tuple[torch.Tensor, ...]
    neurons: tuple[torch.Tensor, ...]
    heads: tuple[torch.Tensor, ...]
    denominator: torch.Tensor
    target: torch.Tensor
    wrote: Mapping[int, torch.Tensor] = field(default_factory=dict)

    def of(self, p: int) -> LastPosition:
        """The same of prompt ``p`` alone."""
        here = slice(p, p + 1)
        before, after, neurons, heads = (
            tuple(x[here] for x in group) for group in (self.before, self.after, self.neurons, self.heads)
        )
        wrote = {layer: x[here] for layer, x in self.wrote.items()}
        return LastPosition(before, after, neurons, heads, self.denominator[here], self.target[here], wrote)


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
            neurons = {}
            for layer in layers:
                neurons[layer] = stack.enter_context(mlp_site(model, layer).capture(model, [layer]))
            written = stack.enter_context(_written(model))
            outputs = stack.enter_context(model.capture_heads(layers)) if heads else {}
            final = stack.enter_context(model.capture_residual())
            predicted = model.forward(model.pad([list(prompts[row]) for row in rows])).logits[:, -1].argmax(-1)
        acts = {layer: seen[layer] for layer, seen in neurons.items()}
        kept = [last(seen[layer]) for seen in (before, after, acts, outputs) if seen for layer in layers]
        mlps = [last(written[layer].view(len(rows), -1, model.anatomy.d_model)) for layer in model.expert_layers]
        parts.append([*kept, *mlps, model.readout.denominator(last(final.residual))[:, 0], predicted.to(device)])
        order += rows.tolist()
    back = torch.tensor(order, device=device).argsort()
    *joined, denominator, target = (torch.cat(column)[back] for column in zip(*parts, strict=True))
    if not all(torch.isfinite(x).all() for x in (*joined, denominator)):
        raise HarnessError(f"activations of {model.name} are not finite (NaN or infinity) on these prompts.")
    n = len(layers)
    groups = [tuple(joined[start : start + n]) for start in range(0, 4 * n, n)]
    if targets is not None:
        target = torch.tensor(list(targets), device=device)
    n_groups = 4 if heads else 3
    wrote = dict(zip(model.expert_layers, joined[n_groups * n :], strict=True))
    return LastPosition(groups[0], groups[1], groups[2], groups[3] if heads else (), denominator, target, wrote)


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
    if mlp_site(model, anatomy.n_layers - 1) == NEURONS and anatomy.d_mlps[-1] and not anatomy.neurons_enter:
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
def _written(model: Model) -> Iterator[dict[int, torch.Tensor]]:
    """Within the block, ``written[layer]`` is what the MLP of each layer of experts wrote in the last pass, before a
    norm after it.

    Raises:
        HarnessError: no module of the layer returns that.
    """
    written: dict[int, torch.Tensor] = {}

    def keep(layer: int, x: Any) -> None:
        written[layer] = (x[0] if isinstance(x, list | tuple) else x).detach().clone()

    with contextlib.ExitStack() as hooks:
        for layer in model.expert_layers:
            norm, block = model.anatomy.post_mlp_norms[layer], model.anatomy.mlp_outputs[layer]
            if norm is not None:
                handle = norm.register_forward_pre_hook(lambda module, args, i=layer: keep(i, args[0]))
            elif block is not None:
                handle = block.register_forward_hook(lambda module, args, output, i=layer: keep(i, output))
            else:
                raise HarnessError(
                    f"knowledge attribution: no module of layer {layer} of {model.name} returns its MLP's output."
                )
            hooks.callback(handle.remove)
        yield written


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
    directions, activations, wrote = neuron_writes(model, layer, states.neurons[layer], states.wrote.get(layer))
    return Writes(directions, activations, states.after[layer] - wrote)


def neuron_writes(
    model: Model, layer: int, neurons: torch.Tensor, wrote: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``directions`` and ``activations`` of :class:`Writes`, and all that the MLP wrote [n, d_model], where its neurons
    are ``neurons`` [n, d_mlp]; of a layer of experts ``wrote`` is that before a norm."""
    device = neurons.device
    directions = mlp_site(model, layer).written(model, layer).to(device)
    if wrote is None:
        bias = model.down_bias(layer)
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
