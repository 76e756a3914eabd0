"""The MLPs of a model's layers: their down projections, what they read and what they write, dense, routed or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from harness.errors import HarnessError
from harness.files.wording import counted
from harness.model.experts import Experts, tensor_in
from harness.model.modules import features, linear_features
from harness.model.probes import check_down_projections, run, tolerance_of
from harness.model.walks import Call, Walk, find_post_norm, refusal, same_in_all, walk_layer


@dataclass(frozen=True)
class MLPs:
    """Of each layer, as in :class:`harness.model.anatomy.Anatomy`: down projection, input, output, norm after it, and
    how many dense neurons it has."""

    downs: tuple[nn.Module | None, ...]
    inputs: tuple[nn.Module | None, ...]
    outputs: tuple[nn.Module | None, ...]
    norms: tuple[nn.Module | None, ...]
    widths: tuple[int, ...]


def find_mlps(
    hf: Any,
    layers: tuple[nn.Module, ...],
    unembedding: nn.Module,
    experts: tuple[Experts | None, ...],
    walk: Walk,
    d_model: int,
) -> MLPs:
    """Found in the last of the layers that have routed experts, and in the last of those that have none."""
    found: dict[int, tuple[nn.Module | None, ...]] = {}
    for routed in (False, True):
        alike = [i for i, some in enumerate(experts) if (some is not None) == routed]
        if not alike:
            continue
        seen = walk if alike[-1] == len(layers) - 1 else walk_layer(hf, layers, unembedding, experts, alike[-1])
        paths = _routed(hf, layers[alike[-1]], seen, d_model) if routed else _dense(hf, seen, d_model)
        some_layers = tuple(layers[i] for i in alike)
        parts = [same_in_all(hf, some_layers, path, what) for path, what in zip(paths, WHAT, strict=True)]
        found |= dict(zip(alike, zip(*parts, strict=True), strict=True))
    downs, inputs, outputs, norms = zip(*(found[i] for i in range(len(layers))), strict=True)
    widths = tuple(0 if down is None else linear_features(down)[0] for down in downs)
    if any(some is not None for some in experts):
        check_down_projections(hf, downs, tolerance_of(hf, walk.logits))
    elif len(set(widths)) > 1:
        raise HarnessError(
            f"{type(hf).__name__} has MLPs of different widths ({min(widths)} to {counted(max(widths), 'neuron')}), "
            "which is not supported."
        )
    return MLPs(downs, inputs, outputs, norms, widths)


WHAT = ("MLP down projection", "MLP's input", "MLP's output", "norm")


def _dense(hf: Any, walk: Walk, d_model: int) -> tuple[str, str, str, str | None]:
    """Paths of the parts of a dense MLP, in the order of :class:`MLPs`."""
    down = _find_down(hf, walk, d_model)
    return down.path, _find_mlp_input(hf, walk, down, d_model), down.path, find_post_norm(walk, [down])


def _routed(
    hf: Any, layer: nn.Module, walk: Walk, d_model: int
) -> tuple[str | None, str | None, str | None, str | None]:
    """Paths of the parts of an MLP of routed experts, and of what is beside them."""
    down = _find_shared(walk, d_model)
    assert walk.experts is not None
    parts = [call for call in (walk.experts, down) if call is not None]
    read = walk.experts.path if walk.experts_read in (0, "hidden_states") else None
    return None if down is None else down.path, read, _find_block(hf, layer, walk, down), find_post_norm(walk, parts)


@torch.no_grad()
def _find_block(hf: Any, layer: nn.Module, walk: Walk, down: Call | None) -> str | None:
    """Path of the module that returns what experts write and, times a gate if there is one, what is beside them."""
    assert walk.experts is not None
    path = walk.experts.path.partition(".")[0]
    if down is not None and not down.path.startswith(f"{path}."):
        return None
    seen: list[torch.Tensor] = []
    handle = layer.get_submodule(path).register_forward_hook(
        lambda module, args, output: seen.append(tensor_in(output).detach().float().flatten(0, -2))
    )
    try:
        logits = run(hf, rows=2, change_last=True)
    finally:
        handle.remove()
    rest = seen[-1] - walk.experts.output.float().flatten(0, -2)
    if down is not None:
        beside = down.output.float().flatten(0, -2)
        gate = (rest * beside).sum(-1, keepdim=True) / beside.square().sum(-1, keepdim=True).clamp(min=1e-9)
        rest = rest - gate * beside
    return path if float(rest.abs().max() / seen[-1].abs().max()) < tolerance_of(hf, logits) else None


def _find_down(hf: Any, walk: Walk, d_model: int) -> Call:
    """The linear map outside the attention that runs last: the MLP's down projection.

    A bottleneck behind it is passed over, as that through which Gemma 4 writes what it keeps of each token by layer.
    """
    calls = [call for call in walk.inside if not walk.in_attention(call) and features(call.module) is not None]
    if calls and (width := linear_features(calls[-1].module)[0]) < d_model:
        calls = [call for call in calls if width not in linear_features(call.module)] or calls
    if not calls or linear_features(calls[-1].module)[1] != d_model:
        raise refusal(hf, "an MLP whose last linear map gives d_model")
    return calls[-1]


def _find_mlp_input(hf: Any, walk: Walk, down: Call, d_model: int) -> str:
    """Path of the first linear map of the MLP that reads the residual stream, which others may read with it."""
    mlp = down.path.rpartition(".")[0]
    for call in walk.inside[: walk.inside.index(down)]:
        inside = not walk.in_attention(call) and (not mlp or call.path.startswith(f"{mlp}."))
        if inside and (features(call.module) or (0,))[0] == d_model:
            return call.path
    raise refusal(hf, "an MLP whose first linear map reads d_model")


def _find_shared(walk: Walk, d_model: int) -> Call | None:
    """Beside routed experts, the last linear map that gives d_model, in a module that reads what the experts read (or,
    where the layer has an attention, outside of that): the down projection of shared experts, or of a dense MLP."""
    assert walk.experts is not None
    read = walk.experts.input.flatten(0, -2)
    calls = [call for call in walk.inside if not walk.in_attention(call) and features(call.module) is not None]
    for call in reversed(calls):
        around = call.path.rpartition(".")[0]
        beside = [x for x in calls if x.path.startswith(f"{around}.") and x.input.shape[-1] == read.shape[-1]]
        reads = any(torch.equal(x.input.reshape(read.shape), read) for x in beside)
        if linear_features(call.module)[1] == d_model and around and (reads or walk.attention is not None):
            return call
    return None


def find_mixer(hf: Any, walk: Walk, d_model: int) -> nn.Module:
    """In a layer without attention, the linear map with which what mixes its tokens ends."""
    end = walk.experts or _find_down(hf, walk, d_model)
    mlp = end.path.rpartition(".")[0]
    before = [call for call in walk.inside[: walk.inside.index(end)] if features(call.module) is not None]
    before = [call for call in before if not (mlp and call.path.startswith(f"{mlp}."))]
    if not before or linear_features(before[-1].module)[1] != d_model:
        raise refusal(hf, "what mixes the tokens of the last layer (a linear map before the MLP that gives d_model)")
    return before[-1].module
