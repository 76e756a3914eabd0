"""Finds the routed experts of a model's layers by running it, and verifies them numerically.

Two ways of building experts are known. *Fused*: one module holds the weights of all; it is called with hidden states
[tokens, d_model], whole numbers [tokens, top_k] and as many weights, and returns hidden states. Which of its parameters
are the output weights is tried out: the one through which its output is what its neurons write. *Separate*: a list of
modules of one kind that give hidden states, in a module that routes. The router is what gives n_experts numbers a token
before the experts run; what is routed must follow these numbers token by token, or they are not offered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from harness.model.experts import (
    Call,
    Experts,
    FusedExperts,
    Key,
    Router,
    SeparateExperts,
    Writes,
    argument,
    substituted,
    tensor_in,
)
from harness.model.matrices import STORED, is_packed
from harness.model.modules import features, linear_features, materialised
from harness.model.probes import relative_error, run, tolerance_of


@dataclass
class _Seen:
    """One call of a module in a layer, in the order in which calls ended."""

    path: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@torch.no_grad()
def find_experts(hf: Any, layers: Sequence[nn.Module], attentions: Sequence[str | None]) -> tuple[Experts | None, ...]:
    """The routed experts of each layer; None where it has none that are understood.

    Args:
        attentions: path of each layer's attention, in which nothing is looked for.
    """
    if not any(map(_could_have, layers)):
        return (None,) * len(layers)
    seen, logits = _walk(hf, layers, attentions)
    tolerance = tolerance_of(hf, logits)
    found = tuple(_experts_of(layer, calls, tolerance) for layer, calls in zip(layers, seen, strict=True))
    return _with_verified_routers(hf, found, seen, tolerance) if any(found) else found


def _could_have(layer: nn.Module) -> bool:
    """Whether a layer has a parameter that could hold several matrices, or a list of modules."""
    return any(x.dim() > 2 for x in layer.parameters()) or any(isinstance(x, nn.ModuleList) for x in layer.modules())


def _walk(
    hf: Any, layers: Sequence[nn.Module], attentions: Sequence[str | None]
) -> tuple[list[list[_Seen]], torch.Tensor]:
    seen: list[list[_Seen]] = [[] for _ in layers]

    def record(calls: list[_Seen], path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            calls.append(_Seen(path, module, args, kwargs, output))

        return hook

    with contextlib.ExitStack() as hooks:
        for layer, attention, calls in zip(layers, attentions, seen, strict=True):
            for path, module in layer.named_modules():
                if path and not (attention is not None and f"{path}.".startswith(f"{attention}.")):
                    handle = module.register_forward_hook(record(calls, path), with_kwargs=True)
                    hooks.callback(handle.remove)
        logits = run(hf, rows=2, change_last=True)
    return seen, logits


def _experts_of(layer: nn.Module, calls: Sequence[_Seen], tolerance: float) -> Experts | None:
    for seen in calls:
        if (keys := keys_of(seen.args, seen.kwargs, seen.output)) is not None:
            found = _fused(seen, keys, tolerance)
            if found is not None:
                return found
    for path, module in layer.named_modules():
        if isinstance(module, nn.ModuleList) and path:
            found_separate = _separate(layer, path, module, calls, tolerance)
            if found_separate is not None:
                return found_separate
    return None


# --- fused ----------------------------------------------------------------------------------------------------------


def _tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[Key, torch.Tensor]:
    """The tensors that a module was called with."""
    named: dict[Key, Any] = dict(enumerate(args))
    named.update(kwargs)
    return {key: value for key, value in named.items() if isinstance(value, torch.Tensor)}


def keys_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> tuple[Key, Key, Key] | None:
    """Which arguments of a call are hidden states, each token's experts, and their weights; None if it is no such
    call."""
    named = _tensors(args, kwargs)
    whole = [key for key, x in named.items() if x.dtype in (torch.int64, torch.int32) and x.dim() >= 2]
    if len(whole) != 1 or not isinstance(output, torch.Tensor) or not output.is_floating_point():
        return None
    chosen = named[whole[0]]
    real = {key: x for key, x in named.items() if x.is_floating_point()}
    weights = [key for key, x in real.items() if x.shape == chosen.shape]
    hidden = [key for key, x in real.items() if key not in weights and x.shape == output.shape]
    if len(weights) != 1 or len(hidden) != 1:
        return None
    x = named[hidden[0]]
    return (hidden[0], whole[0], weights[0]) if x[..., 0].numel() == chosen[..., 0].numel() else None


def _fused(seen: _Seen, keys: tuple[Key, Key, Key], tolerance: float) -> FusedExperts | None:
    """The experts, with the parameter for output weights through which the output is as the definition has it."""
    d_out = seen.output.shape[-1]
    with materialised(seen.module):
        large = {
            name: x
            for name, x in seen.module.named_parameters(recurse=False)
            if x.dim() == 3 and d_out in x.shape[1:] and x.dtype in STORED
        }
    for name, weight in large.items():
        for axis in (1, 2):
            if weight.shape[axis] != d_out:
                continue
            tried = FusedExperts(
                n_experts=weight.shape[0],
                d_expert=weight.shape[3 - axis],
                top_k=argument(seen.args, seen.kwargs, keys[1]).shape[-1],
                site=seen.module,
                router=None,
                keys=keys,
                down=name,
                transposed=axis == 2,
                biases=None,
            )
            call = tried.call(seen.args, seen.kwargs, seen.output)
            with contextlib.suppress(RuntimeError, IndexError, ValueError):  # shapes that do not fit: not this one
                tried = replace(tried, biases=_constant(tried, call))
                if _verified(tried, call, tolerance):
                    return tried
    return None


def _constant(tried: FusedExperts, call: Call) -> str | None:
    """Name of the parameter that the experts add to what their neurons write."""
    x, experts = call.tokens, torch.arange(tried.n_experts, device=call.x.device)
    unit = torch.zeros(call.output.shape[-1], tried.d_expert, dtype=x.dtype, device=x.device)
    ones = torch.ones(tried.n_experts, 1, dtype=x.dtype, device=x.device)
    out = tried.run(x[:1].expand(tried.n_experts, -1), experts[:, None], ones, tried.with_down(unit))
    with materialised(tried.site):
        own = tried.site.named_parameters(recurse=False)
        return next((name for name, bias in own if bias.shape == out.shape and torch.equal(bias.to(out), out)), None)


def _verified(experts: Experts, call: Call, tolerance: float, output: torch.Tensor | None = None) -> bool:
    """Whether the experts' output is what the definition says."""
    weights = experts.routing(call)
    wanted = (call.output if output is None else output).reshape(-1, call.output.shape[-1])
    return relative_error(experts.output(experts.activations(call, weights), weights), wanted) < tolerance


# --- separate -------------------------------------------------------------------------------------------------------


def _separate(
    layer: nn.Module, path: str, experts: nn.ModuleList, calls: Sequence[_Seen], tolerance: float
) -> SeparateExperts | None:
    """The experts of a list of modules of one kind, which the module around it routes tokens to."""
    if len(experts) < 2 or len({type(x) for x in experts}) > 1:
        return None
    around, _, name = path.rpartition(".")
    ran = next((x for x in calls if x.path == around), None)
    inside = [x for x in calls if x.path.startswith(f"{path}.")]
    of_expert = [x for x in inside if x.path.count(".") == path.count(".") + 1 and isinstance(x.output, torch.Tensor)]
    if ran is None or not of_expert:
        return None
    d_out = of_expert[0].output.shape[-1]
    key = next((k for k, x in _tensors(ran.args, ran.kwargs).items() if _is_hidden(x, d_out)), None)
    linear = [x for x in inside if features(x.module) is not None and x.path.startswith(f"{of_expert[0].path}.")]
    if key is None or not _is_hidden(tensor_in(ran.output), d_out) or not linear or is_packed(linear[-1].module):
        return None
    down = linear[-1].path.removeprefix(f"{of_expert[0].path}.")
    downs = tuple(expert.get_submodule(down) for expert in experts)
    children = {f"{around}.{child}": child for child, _ in ran.module.named_children() if child != name}
    beside = tuple(
        children[x.path] for x in calls if x.path in children and _is_hidden(x.output, d_out)
    )  # those that give n_experts numbers are routers
    tried = SeparateExperts(
        n_experts=len(experts),
        d_expert=linear_features(downs[0])[0],
        top_k=0,
        site=ran.module,
        router=None,
        key=key,
        path=name,
        experts=tuple(experts),
        downs=downs,
        beside=beside,
    )
    call = tried.call(ran.args, ran.kwargs, ran.output)
    routing = tried.routing(call)
    alone = _without(tried, ran, call)
    tried = replace(tried, top_k=int(routing.ne(0).sum(1).max()))
    return tried if _verified(tried, call, tolerance, alone) else None


def _is_hidden(x: Any, d_model: int) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point() and x.dim() >= 2 and x.shape[-1] == d_model


def _without(experts: SeparateExperts, ran: _Seen, call: Call) -> torch.Tensor:
    """What the module returns where nothing writes beside the experts."""
    other = dict.fromkeys(experts.beside, Writes(-1, call.output.shape[-1]))
    return tensor_in(type(ran.module).forward(substituted(ran.module, {}, other), *ran.args, **ran.kwargs))


# --- routers --------------------------------------------------------------------------------------------------------


def _router(experts: Experts, calls: Sequence[_Seen]) -> Router | None:
    """What gives n_experts numbers a token, last before the experts, and innermost."""
    own = f"{experts.path}." if isinstance(experts, SeparateExperts) else None
    end = next(i for i, seen in enumerate(calls) if seen.module is experts.site)
    giving = [seen for seen in calls[:end] if _place(seen, experts.n_experts) is not None]
    giving = [seen for seen in giving if own is None or f".{own}" not in f".{seen.path}"]
    giving = [x for x in giving if not any(y.path.startswith(f"{x.path}.") for y in giving)]
    if not giving:
        return None
    seen = giving[-1]
    key = next(iter(_tensors(seen.args, seen.kwargs)), None)
    if key is None:
        return None
    if isinstance(seen.output, torch.Tensor):
        return Router(seen.module, None, key)
    return _choosing(seen, Router(seen.module, _place(seen, experts.n_experts), key), experts.n_experts)


def _place(seen: _Seen, n_experts: int) -> int | None:
    """Where logits are among what a module returned (0 where it is all)."""
    outputs = seen.output if isinstance(seen.output, tuple | list) else (seen.output,)
    return next((i for i, x in enumerate(outputs) if _is_hidden(x, n_experts)), None)


def _choosing(seen: _Seen, router: Router, n_experts: int) -> Router | None:
    """A router that chooses the experts itself, when it gives the same from its own logits."""
    width = argument(seen.args, seen.kwargs, router.key).shape[-1]
    with materialised(seen.module):
        own = dict(seen.module.named_parameters(recurse=False))
    constants = tuple(name for name, x in own.items() if x.shape == (n_experts,))
    for matrix in [name for name, x in own.items() if x.shape == (n_experts, width) and n_experts <= width]:
        for some in (constants, ()):
            tried = replace(router, matrix=matrix, constants=some)
            again = tried.with_logits(seen.args, seen.kwargs, seen.output, tried.logits(seen.output))
            pairs = zip(again, seen.output, strict=True)
            if all(torch.equal(a, b) for a, b in pairs if isinstance(b, torch.Tensor)):
                return tried
    return None


def _with_verified_routers(
    hf: Any, found: Sequence[Experts | None], seen: Sequence[Sequence[_Seen]], tolerance: float
) -> tuple[Experts | None, ...]:
    """The experts with their routers, where these decide: a row of the batch whose logits are those of another row, one
    token later, is routed as that row is, one token later."""
    routers = [None if x is None else _router(x, calls) for x, calls in zip(found, seen, strict=True)]
    routing: dict[int, torch.Tensor] = {}

    def roll(router: Router) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            own = router.logits(output)
            rows = own.reshape(2, -1, own.shape[-1])
            return router.with_logits(args, kwargs, output, torch.stack([rows[0], rows[0].roll(1, 0)]).view(own.shape))

        return hook

    def keep(layer: int, experts: Experts) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            routing[layer] = experts.routing(experts.call(args, kwargs, output)).float()

        return hook

    with contextlib.ExitStack() as hooks:
        for layer, (experts, router) in enumerate(zip(found, routers, strict=True)):
            if experts is not None and router is not None:
                kept = experts.site.register_forward_hook(keep(layer, experts), with_kwargs=True)
                hooks.callback(kept.remove)
                hooks.callback(router.module.register_forward_hook(roll(router), with_kwargs=True).remove)
        if any(router is not None for router in routers):
            run(hf, rows=2)
    verified = {
        layer
        for layer, weights in routing.items()
        for first, second in [weights.view(2, -1, weights.shape[-1])]
        if relative_error(second, first.roll(1, 0)) < tolerance
    }
    return tuple(
        None if x is None else replace(x, router=routers[layer] if layer in verified else None)
        for layer, x in enumerate(found)
    )
