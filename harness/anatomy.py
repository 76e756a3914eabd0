"""Where things are in a decoder-only language model: neurons, heads, norms, unembedding.

Nothing is looked up by model type. A few tokens are run through the model with hooks; the *order* in which linear maps
and norms run says which is which, and a second pass with perturbed activations checks the answer numerically: what the
neurons write, whether it reaches the final residual unchanged, whether attention and MLP run in parallel, whether the
model is causal. A model that the search misunderstands is refused when it is loaded, instead of giving wrong numbers.
The only name that matters is that the attention's module, or its class, calls itself "attn" or "attention".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from harness.errors import HarnessError

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest accepted relative error of the self-checks, by the dtype of the forward pass."""

N_TOKENS = 6
"""Length of the probe sequence."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The parts of a decoder-only transformer.

    Attributes:
        layers: the decoder layers, first to last.
        down_projections: one a layer; its *input* is the neurons' activations [batch, pos, d_mlp]
            ([batch * pos, d_mlp] when ``flattened``, as in OPT).
        attentions: the attention module of each layer.
        attention_outputs: the output projection of each attention; its input is the heads' outputs, concatenated
            [batch, pos, n_heads * d_head].
        post_mlp_norms: the norm between a layer's down projection and the residual stream (Gemma 2 and 3, OLMo 2), or
            None.
        final_norm: the norm between the last layer and the unembedding, or None.
        tail: linear maps between the final norm and the unembedding (``project_out`` of OPT-350m); mostly empty.
        unembedding: the module that maps to logits (``lm_head``).
        n_layers, d_model, d_mlp, n_heads, n_kv_heads, d_head: counts and widths.
        d_vocab: rows of the unembedding matrix (may exceed the tokeniser's vocabulary).
        parallel: attention and MLP of a layer both read the layer's input (GPT-J, Pythia, Phi, Cohere).
        residual_multiplier: factor on the MLP's output where it is added to the residual stream (Granite), else 1.
        direct_write: the last MLP's output is added to the final residual unchanged, so that an edit of the last
            layer's neurons moves the final residual by ``delta @ w_out`` exactly.
        flattened: the down projection sees [batch * pos, d_mlp].
    """

    layers: tuple[nn.Module, ...]
    down_projections: tuple[nn.Module, ...]
    attentions: tuple[nn.Module, ...]
    attention_outputs: tuple[nn.Module, ...]
    post_mlp_norms: tuple[nn.Module | None, ...]
    final_norm: nn.Module | None
    tail: tuple[nn.Module, ...]
    unembedding: nn.Module
    n_layers: int
    d_model: int
    d_mlp: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_vocab: int
    parallel: bool
    residual_multiplier: float
    direct_write: bool
    flattened: bool


def locate(hf: nn.Module) -> Anatomy:
    """Find and check the parts of a ``transformers`` causal language model in evaluation mode.

    Raises:
        HarnessError: no decoder layers, a mixture of experts, no attention or MLP where one is expected, MLPs of
            different widths, a model that is not causal, or a self-check that fails.
    """
    config = text_config(hf)
    layers = _find_layers(hf, config)
    _refuse_experts(hf, layers)
    unembedding = hf.get_output_embeddings()
    if unembedding is None or features(unembedding) is None:
        raise _refusal(hf, "an unembedding (get_output_embeddings() gives no linear map)")
    d_model = config.hidden_size
    walk = _walk(hf, layers, unembedding)
    attention, attention_output = _find_attention(hf, walk, d_model)
    down = _find_down(hf, walk, d_model)
    post_norm = _find_post_norm(walk, down)
    final_norm, tail = _find_final_norm(hf, walk)
    downs = _same_in_all(hf, layers, down.path, "MLP down projection")
    outputs = _same_in_all(hf, layers, attention_output, "attention output projection")
    d_mlp = _one_width(hf, downs)
    n_heads = config.num_attention_heads
    attentions = _same_in_all(hf, layers, attention, "attention")
    probe = _probe(hf, layers[-1], downs[-1], outputs[-1], final_norm)
    _check_neurons(hf, probe)
    multiplier = None if post_norm is not None else _write_multiplier(probe, config)
    return Anatomy(
        layers=layers,
        down_projections=downs,
        attentions=attentions,
        attention_outputs=outputs,
        post_mlp_norms=(None,) * len(layers) if post_norm is None else _same_in_all(hf, layers, post_norm, "norm"),
        final_norm=final_norm,
        tail=tail,
        unembedding=unembedding,
        n_layers=len(layers),
        d_model=d_model,
        d_mlp=d_mlp,
        n_heads=n_heads,
        n_kv_heads=_kv_heads(attentions[-1], config, n_heads),
        d_head=_features(outputs[-1])[0] // n_heads,
        d_vocab=_features(unembedding)[1],
        parallel=_distance(probe.neurons[2], probe.neurons[0]) < probe.tolerance,
        residual_multiplier=1.0 if multiplier is None else multiplier,
        direct_write=multiplier == 1.0,
        flattened=probe.flattened,
    )


# --- modules -------------------------------------------------------------------------------------------------------


def text_config(hf: nn.Module) -> Any:
    """The configuration of the language model proper (that of a vision-language model has it inside)."""
    config: Any = hf.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def features(module: nn.Module) -> tuple[int, int] | None:
    """``(d_in, d_out)`` of a linear map (nn.Linear and its kin, the Conv1D of GPT-2), None for other modules."""
    if type(module).__name__ == "Conv1D":
        return int(module.nx), int(module.nf)  # type: ignore[arg-type]
    d_in, d_out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return (d_in, d_out) if isinstance(d_in, int) and isinstance(d_out, int) else None


def _features(module: nn.Module) -> tuple[int, int]:
    found = features(module)
    assert found is not None
    return found


@contextlib.contextmanager
def materialised(module: nn.Module) -> Iterator[None]:
    """Within the block, weights that ``device_map`` offloaded to disk or CPU are there to be read."""
    if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        from accelerate.utils import align_module_device

        with align_module_device(module):
            yield
    else:
        yield


def write_matrix(down: nn.Module) -> torch.Tensor:
    """[d_mlp, d_model] in the module's dtype, row i = what neuron i writes per unit of activation.

    Raises:
        HarnessError: the weights are packed (quantised) and cannot be read as a matrix.
    """
    with materialised(down):
        weight: torch.Tensor = down.weight.detach()  # type: ignore[assignment,operator]
        matrix = weight if type(down).__name__ == "Conv1D" else weight.T
    if not matrix.is_floating_point() or tuple(matrix.shape) != features(down):
        raise HarnessError(
            f"the output weights of the neurons are stored as {weight.dtype} {tuple(weight.shape)} "
            f"({type(down).__name__}): quantised weights are not supported, load the model unquantised."
        )
    return matrix


def input_device(hf: nn.Module) -> torch.device:
    """Where token ids have to be."""
    weight: torch.Tensor = hf.get_input_embeddings().weight
    return hf.device if weight.is_meta else weight.device  # type: ignore[return-value]


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _in_attention(path: str) -> bool:
    return any("attn" in part or "attention" in part for part in path.lower().split(".")[:-1])


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """The hidden states [batch, pos, d_model] that a decoder layer was called with."""
    hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _refusal(hf: nn.Module, missing: str) -> HarnessError:
    return HarnessError(
        f"{type(hf).__name__} is not supported: did not find {missing}; teach harness/anatomy.py where it is and add "
        "the family to tests/model/families.py."
    )


# --- the structural search -----------------------------------------------------------------------------------------


def _find_layers(hf: nn.Module, config: Any) -> tuple[nn.Module, ...]:
    n = getattr(config, "num_hidden_layers", None)
    if not isinstance(n, int) or not isinstance(getattr(config, "hidden_size", None), int):
        raise _refusal(hf, "num_hidden_layers and hidden_size in its configuration")
    lists = [
        (name, module)
        for name, module in hf.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == n
        and all(sum(features(part) is not None for part in layer.modules()) >= 2 for layer in module)
    ]
    lists = [x for x in lists if not any(word in x[0] for word in ("vision", "visual", "audio"))] or lists
    if not lists:
        raise _refusal(hf, f"a list of {n} decoder layers")
    return tuple(min(lists, key=lambda x: x[0].count("."))[1])


def _refuse_experts(hf: nn.Module, layers: tuple[nn.Module, ...]) -> None:
    for i, layer in enumerate(layers):
        for path, module in layer.named_modules():
            if any(word in f"{path} {type(module).__name__}".lower() for word in ("expert", "moe", "router")):
                raise HarnessError(
                    f'{type(hf).__name__} is a mixture of experts (layer {i} has "{path}"), which is not supported: '
                    "its neurons belong to experts that see different tokens."
                )


@dataclass
class _Call:
    """One module that ran: its path within the last layer, what went in and what came out."""

    path: str
    module: nn.Module
    input: torch.Tensor
    output: torch.Tensor


@dataclass
class _Walk:
    """The linear maps and norms of the last layer, and the modules between it and the unembedding, as they ran."""

    inside: list[_Call] = field(default_factory=list)
    between: list[nn.Module] = field(default_factory=list)


def _walk(hf: nn.Module, layers: tuple[nn.Module, ...], unembedding: nn.Module) -> _Walk:
    walk, passed = _Walk(), False
    in_layers = {id(part) for layer in layers for part in layer.modules()}

    def record(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            # Cloned: Falcon adds the attention's output to the MLP's in place.
            walk.inside.append(_Call(path, module, args[0].detach().clone(), output.detach().clone()))

        return hook

    def leave(*_: Any) -> None:
        nonlocal passed
        passed = True

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if passed and module is not unembedding:
            walk.between.append(module)

    with contextlib.ExitStack() as hooks:
        for path, part in layers[-1].named_modules():
            if path and (features(part) is not None or _is_norm(part)):
                hooks.callback(part.register_forward_hook(record(path)).remove)
        hooks.callback(layers[-1].register_forward_hook(leave).remove)
        for part in hf.modules():
            if id(part) not in in_layers and (not list(part.children()) or _is_norm(part)):
                hooks.callback(part.register_forward_hook(after).remove)
        _run(hf, torch.arange(1, N_TOKENS + 1)[None])
    return walk


def _run(hf: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Logits [batch, pos, d_vocab] of probe tokens."""
    ids = (ids % text_config(hf).vocab_size).to(input_device(hf))
    with torch.no_grad():
        logits: torch.Tensor = hf(input_ids=ids, use_cache=False).logits
    return logits


def _find_attention(hf: nn.Module, walk: _Walk, d_model: int) -> tuple[str, str]:
    """Paths, within a layer, of the attention (outermost module of that name) and of its output projection."""
    calls = [call for call in walk.inside if _in_attention(call.path) and features(call.module) is not None]
    calls = [call for call in calls if _features(call.module)[1] == d_model]
    if not calls:
        raise _refusal(hf, 'an attention (a module named "attn" or "attention" whose last linear map gives d_model)')
    output = calls[-1].path
    parts = output.split(".")
    depth = next(i for i, part in enumerate(parts) if "attn" in part.lower() or "attention" in part.lower())
    return ".".join(parts[: depth + 1]), output


def _find_down(hf: nn.Module, walk: _Walk, d_model: int) -> _Call:
    """The linear map outside the attention that runs last: the MLP's down projection."""
    calls = [call for call in walk.inside if not _in_attention(call.path) and features(call.module) is not None]
    if not calls or _features(calls[-1].module)[1] != d_model:
        raise _refusal(hf, "an MLP whose last linear map gives d_model")
    return calls[-1]


def _find_post_norm(walk: _Walk, down: _Call) -> str | None:
    """Path of a norm that is applied to the down projection's output alone."""
    later = walk.inside[walk.inside.index(down) + 1 :]
    for call in later:
        alone = call.input.shape == down.output.shape and torch.equal(call.input, down.output)
        if _is_norm(call.module) and not _in_attention(call.path) and alone:
            return call.path
    return None


def _find_final_norm(hf: nn.Module, walk: _Walk) -> tuple[nn.Module | None, tuple[nn.Module, ...]]:
    """The final norm and the linear maps that follow it."""
    rest = [module for module in walk.between if not isinstance(module, nn.Dropout | nn.Identity)]
    norm = rest.pop(0) if rest and features(rest[0]) is None else None
    for module in rest:
        if features(module) is None or getattr(module, "bias", None) is not None:
            raise _refusal(hf, f"a meaning for {type(module).__name__} between the final norm and the unembedding")
    return norm, tuple(rest)


def _same_in_all(hf: nn.Module, layers: tuple[nn.Module, ...], path: str, what: str) -> tuple[nn.Module, ...]:
    found = []
    for i, layer in enumerate(layers):
        try:
            found.append(layer.get_submodule(path))
        except AttributeError:
            raise _refusal(hf, f'"{path}" ({what}) in layer {i}: layers of different kinds') from None
    return tuple(found)


def _one_width(hf: nn.Module, downs: tuple[nn.Module, ...]) -> int:
    widths = [_features(down)[0] for down in downs]
    if len(set(widths)) > 1:
        raise HarnessError(
            f"{type(hf).__name__} has MLPs of different widths ({min(widths)} to {max(widths)} neurons), "
            "which is not supported."
        )
    return widths[0]


def _kv_heads(attention: nn.Module, config: Any, n_heads: int) -> int:
    """Key-value heads; Falcon's attention knows better than its configuration."""
    for owner in (attention, config):
        for name in ("num_kv_heads", "num_key_value_heads"):
            if isinstance(found := getattr(owner, name, None), int):
                return found
    return n_heads


# --- the numerical check -------------------------------------------------------------------------------------------


@dataclass
class _Probe:
    """One pass over four rows: untouched; neurons perturbed; heads perturbed; another last token.

    All of the last layer, in float32: neurons [4, pos, d_mlp] before the perturbation, ``written`` [4, pos, d_model]
    (output of the down projection), ``residual`` [4, pos, d_model] (final residual), ``push`` [d_model] (what the
    perturbation of row 1 writes), ``expected`` [4, pos, d_model] (``written`` recomputed from the neurons).
    """

    neurons: torch.Tensor
    written: torch.Tensor
    expected: torch.Tensor
    residual: torch.Tensor
    push: torch.Tensor
    logits: torch.Tensor
    flattened: bool
    tolerance: float


def _probe(
    hf: nn.Module, layer: nn.Module, down: nn.Module, attention_output: nn.Module, final_norm: nn.Module | None
) -> _Probe:
    ids = torch.arange(1, N_TOKENS + 1).repeat(4, 1)
    ids[3, -1] += 1
    generator = torch.Generator().manual_seed(0)
    seen: dict[str, Any] = {}

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen["size"] = _hidden(args, kwargs).float().norm(dim=-1).mean().item()

    def perturb(row: int, key: str) -> Any:
        def hook(module: nn.Module, args: Any) -> Any:
            x = args[0]
            rows = x.detach().clone().view(4, N_TOKENS, -1)
            seen[key] = rows.float().clone()
            direction = torch.randn(rows.shape[-1], generator=generator).to(x.device, x.dtype)
            push = direction.float() @ write_matrix(module).to(x.device).float()
            # As large as the residual stream, so that the effect stands out of the rounding in any dtype.
            direction *= seen["size"] / max(push.norm().item(), 1e-9)
            seen[key + " push"] = direction.float() @ write_matrix(module).to(x.device).float()
            rows[row] += direction
            seen[key + " changed"] = rows.clone()
            return (rows.view(x.shape), *args[1:])

        return hook

    def written(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        seen["flattened"] = output.dim() == 2
        seen["written"] = output.detach().float().clone().view(4, N_TOKENS, -1)

    def residual(module: nn.Module, args: Any, *output: Any) -> None:
        x = args[0] if not output else output[0][0] if isinstance(output[0], tuple) else output[0]
        seen["residual"] = x.detach().float().clone()

    with contextlib.ExitStack() as hooks:
        hooks.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
        hooks.callback(attention_output.register_forward_pre_hook(perturb(2, "heads")).remove)
        hooks.callback(down.register_forward_pre_hook(perturb(1, "neurons")).remove)
        hooks.callback(down.register_forward_hook(written).remove)
        site = layer.register_forward_hook(residual) if final_norm is None else None
        site = site or final_norm.register_forward_pre_hook(residual)  # type: ignore[union-attr]
        hooks.callback(site.remove)
        logits = _run(hf, ids)
    expected = seen["neurons changed"].float() @ write_matrix(down).to(seen["written"].device).float()
    if (bias := down_bias(down)) is not None:
        expected = expected + bias.to(expected.device)
    return _Probe(
        neurons=seen["neurons"],
        written=seen["written"],
        expected=expected,
        residual=seen["residual"],
        push=seen["neurons push"],
        logits=logits.float(),
        flattened=seen["flattened"],
        tolerance=TOLERANCE.get(logits.dtype, 1e-2),
    )


def down_bias(down: nn.Module) -> torch.Tensor | None:
    """Bias [d_model] of a down projection in float32, or None."""
    with materialised(down):
        bias = getattr(down, "bias", None)
        return None if bias is None else bias.detach().float()


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative distance of two tensors: the largest difference over the largest magnitude."""
    b = b.to(a.device)
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-9)).item()


def _check_neurons(hf: nn.Module, probe: _Probe) -> None:
    """Refuse non-finite and non-causal models, and down projections that are no plain linear map."""
    if not torch.isfinite(probe.logits).all():
        raise HarnessError(f"{type(hf).__name__} gives logits that are not finite (NaN or infinity) for plain tokens.")
    if _distance(probe.logits[3, :-1], probe.logits[0, :-1]) > probe.tolerance:
        raise HarnessError(
            f"{type(hf).__name__} is not a causal language model: a token changes the predictions before it."
        )
    error = _distance(probe.written, probe.expected)
    if not error < probe.tolerance:
        raise HarnessError(
            f"{type(hf).__name__} is not supported: the MLP's output differs from neurons @ w_out + bias by "
            f"{error:.1e} (relative); adapters and quantised layers are not supported."
        )


def _write_multiplier(probe: _Probe, config: Any) -> float | None:
    """Factor with which the last MLP's output enters the final residual; None when it is not merely added."""
    change = probe.residual[1] - probe.residual[0]
    push = probe.push.to(change.device)
    factor = ((change @ push).mean() / (push @ push)).item()
    if not _distance(change, factor * push.expand_as(change)) < 3 * probe.tolerance:
        return None
    for known in (1.0, getattr(config, "residual_multiplier", None)):
        if isinstance(known, float) and abs(factor - known) < probe.tolerance * max(abs(known), 1e-3):
            return known
    return factor
