"""What ran in one layer of a model, in order: its linear maps, its norms and its routed experts."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from harness.errors import HarnessError
from harness.model.experts import Experts, Key, tensor_in
from harness.model.modules import features, is_norm
from harness.model.probes import run


@dataclass
class Call:
    """One module that ran: its path within the layer, what went in and what came out."""

    path: str
    module: nn.Module
    input: torch.Tensor
    output: torch.Tensor


@dataclass
class Walk:
    """The linear maps and norms of a layer, and the modules between the last one and the unembedding, as they ran.

    ``attention``: path of the layer's outermost module that calls itself an attention, or None. ``experts``: the call
    of its routed experts, which is among those ``inside`` (parts of experts and router are not), and ``experts_read``
    the argument that these read. ``ran``: how many of the model's layers did. ``logits`` are those of
    :func:`harness.model.probes.run` with two rows.
    """

    attention: str | None
    inside: list[Call] = field(default_factory=list)
    experts: Call | None = None
    experts_read: Key | None = None
    between: list[nn.Module] = field(default_factory=list)
    ran: int = 0
    logits: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def in_attention(self, call: Call) -> bool:
        return self.attention is not None and call.path.startswith(f"{self.attention}.")


def walk_layer(
    hf: Any, layers: tuple[nn.Module, ...], unembedding: nn.Module, experts: tuple[Experts | None, ...], at: int = -1
) -> Walk:
    walk, passed, routed = Walk(attention_in(layers[at])), False, experts[at]
    parts = set() if routed is None else {id(x) for part in routed.parts for x in part.modules()}
    in_layers = {id(part) for layer in layers for part in layer.modules()}

    def record(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            # Cloned: Falcon adds the attention's output to the MLP's in place.
            walk.inside.append(Call(path, module, args[0].detach().clone(), output.detach().clone()))

        return hook

    def experts_ran(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        assert routed is not None
        call = routed.call(args, kwargs, tensor_in(output))
        path = next(path for path, part in layers[at].named_modules() if part is module)
        walk.experts, walk.experts_read = (
            Call(path, module, call.x.detach().clone(), call.output.detach().clone()),
            routed.reads,
        )
        walk.inside.append(walk.experts)

    def count(*_: Any) -> None:
        walk.ran += 1

    def leave(*_: Any) -> None:
        nonlocal passed
        passed = True

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if passed and module is not unembedding:
            walk.between.append(module)

    with contextlib.ExitStack() as hooks:
        for path, part in layers[at].named_modules():
            if path and id(part) not in parts and (features(part) is not None or is_norm(part)):
                hooks.callback(part.register_forward_hook(record(path)).remove)
        if routed is not None:
            hooks.callback(routed.site.register_forward_hook(experts_ran, with_kwargs=True).remove)
        for layer in layers:
            hooks.callback(layer.register_forward_hook(count).remove)
        hooks.callback(layers[-1].register_forward_hook(leave).remove)
        for part in hf.modules():
            if id(part) not in in_layers and (not list(part.children()) or is_norm(part)):
                hooks.callback(part.register_forward_hook(after).remove)
        walk.logits = run(hf, rows=2, change_last=True)
    return walk


def attention_in(layer: nn.Module) -> str | None:
    """Path of a layer's outermost module that calls itself an attention; linear attention has no heads to speak of."""
    path: str
    for path, module in layer.named_modules():
        if not path or not list(module.children()):
            continue
        own = path.rpartition(".")[2].lower()
        if (
            any(word in f"{own} {type(module).__name__.lower()}" for word in ("attn", "attention"))
            and "linear" not in own
        ):
            return path
    return None


def find_post_norm(walk: Walk, parts: Sequence[Call]) -> str | None:
    """Path of a norm that is applied to what some parts of a layer write together, and to nothing else."""
    total = parts[0].output
    for call in parts[1:]:
        total = total.flatten(0, -2) + call.output.flatten(0, -2)
    for call in walk.inside[max(map(walk.inside.index, parts)) + 1 :]:
        if not is_norm(call.module) or walk.in_attention(call) or call.input.numel() != total.numel():
            continue
        if len(parts) == 1 and call.input.shape == total.shape and torch.equal(call.input, total):
            return call.path
        close = torch.allclose(call.input.reshape(total.shape).float(), total.float(), 1e-2)
        if close and walk.experts in parts:  # a sum of parts is rounded as the model rounds it
            return call.path
    return None


def refusal(hf: Any, missing: str) -> HarnessError:
    return HarnessError(
        f"{type(hf).__name__} is not supported: did not find {missing}; teach harness/model/anatomy.py where it is and "
        "add the family to harness/testing/tiny_models.py."
    )


def submodule(layer: nn.Module, path: str) -> nn.Module | None:
    try:
        return layer.get_submodule(path)
    except AttributeError:
        return None


def same_in_all(hf: Any, layers: tuple[nn.Module, ...], path: str | None, what: str) -> tuple[nn.Module | None, ...]:
    """The module at a path in each layer; None in all where there is no path."""
    found = []
    for i, layer in enumerate(layers):
        module = None if path is None else submodule(layer, path)
        if path is not None and module is None:
            raise refusal(hf, f'"{path}" ({what}) in layer {i}: layers of different kinds')
        found.append(module)
    return tuple(found)
