"""Where things are in a decoder-only language model: neurons, heads, norms, unembedding.

Nothing is looked up by model type. A few tokens are run through the model with hooks; the *order* in which linear maps
and norms run says which is which, and a second pass with perturbed activations checks the answer numerically: what the
neurons write, whether it reaches the final residual unchanged, whether attention and MLP run in parallel, whether the
model is causal. A model that the search misunderstands is refused when it is loaded, instead of giving wrong numbers.
The only name that matters is that the attention's module, or its class, calls itself "attn" or "attention". Layers of a
hybrid may mix tokens in another way (a convolution, a state space, linear attention): they have neurons and no heads.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from harness.errors import HarnessError
from harness.files.wording import counted
from harness.model.modules import features, is_norm, linear_features, text_config
from harness.model.probes import check_causal, check_neurons, probe_last_layer, relative_error, run, write_multiplier


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The parts of a decoder-only transformer.

    Attributes:
        layers: the decoder layers, first to last.
        down_projections: one a layer; its *input* is the neurons' activations [batch, pos, d_mlp]
            ([batch * pos, d_mlp] when ``flattened``, as in OPT).
        attentions: the attention module of each layer; None where tokens are mixed in another way.
        attention_outputs: the output projection of each attention; its input is the heads' outputs, concatenated
            [batch, pos, n_heads * d_head]. None where there is no attention.
        mlp_inputs: of each layer the first linear map that reads what its MLP reads, [batch, pos, d_model].
        post_attention_norms: the norm between a layer's attention and the residual stream (Gemma 2 and 3, OLMo 2), or
            None.
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
    attentions: tuple[nn.Module | None, ...]
    attention_outputs: tuple[nn.Module | None, ...]
    mlp_inputs: tuple[nn.Module, ...]
    post_attention_norms: tuple[nn.Module | None, ...]
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

    @property
    def with_attention(self) -> tuple[int, ...]:
        """The layers that have an attention, ascending; all but in hybrids."""
        return tuple(layer for layer, output in enumerate(self.attention_outputs) if output is not None)


def locate(hf: Any) -> Anatomy:
    """Find and check the parts of a ``transformers`` causal language model in evaluation mode.

    Raises:
        HarnessError: no decoder layers, a mixture of experts, no attention or MLP where one is expected, MLPs of
            different widths, a model that is not causal or has an encoder, or a self-check that fails.
    """
    config = text_config(hf)
    if config.is_encoder_decoder:
        raise HarnessError(f"{type(hf).__name__} is not a causal language model: it has an encoder.")
    layers = _find_layers(hf, config)
    _refuse_experts(hf, layers)
    unembedding = hf.get_output_embeddings()
    if unembedding is None or features(unembedding) is None:
        raise _refusal(hf, "an unembedding (get_output_embeddings() gives no linear map)")
    d_model = config.hidden_size
    walk = _walk(hf, layers, unembedding)
    if walk.ran != len(layers):
        raise HarnessError(
            f"{type(hf).__name__} is not supported: of its {counted(len(layers), 'layer')} only {walk.ran} run on text "
            "alone."
        )
    check_causal(hf, walk.logits)
    attentions, outputs, attention_norm = _find_attentions(hf, layers, unembedding, walk, d_model)
    down = _find_down(hf, walk, d_model)
    post_norm = _find_post_norm(walk, down)
    final_norm, tail = _find_final_norm(hf, walk)
    downs = _same_in_all(hf, layers, down.path, "MLP down projection")
    d_mlp = _one_width(hf, downs)
    n_heads = config.num_attention_heads
    mixer = outputs[-1] or _find_mixer(hf, walk, down, d_model)
    probe = probe_last_layer(hf, layers[-1], downs[-1], mixer, final_norm)
    head_output = next(output for output in reversed(outputs) if output is not None)
    check_neurons(hf, probe)
    multiplier = None if post_norm is not None else write_multiplier(probe, config)
    return Anatomy(
        layers=layers,
        down_projections=downs,
        attentions=attentions,
        attention_outputs=outputs,
        mlp_inputs=_same_in_all(hf, layers, _find_mlp_input(hf, walk, down, d_model), "MLP's input"),
        post_attention_norms=tuple(
            None if output is None or attention_norm is None else _submodule(layer, attention_norm)
            for layer, output in zip(layers, outputs, strict=True)
        ),
        post_mlp_norms=(None,) * len(layers) if post_norm is None else _same_in_all(hf, layers, post_norm, "norm"),
        final_norm=final_norm,
        tail=tail,
        unembedding=unembedding,
        n_layers=len(layers),
        d_model=d_model,
        d_mlp=d_mlp,
        n_heads=n_heads,
        n_kv_heads=_kv_heads(next(x for x in reversed(attentions) if x is not None), config, n_heads),
        d_head=linear_features(head_output)[0] // n_heads,
        d_vocab=linear_features(unembedding)[1],
        parallel=relative_error(probe.neurons[1], probe.neurons[0]) < probe.tolerance,
        residual_multiplier=1.0 if multiplier is None else multiplier,
        direct_write=multiplier == 1.0,
        flattened=probe.flattened,
    )


# --- the structural search -----------------------------------------------------------------------------------------


def _refusal(hf: Any, missing: str) -> HarnessError:
    return HarnessError(
        f"{type(hf).__name__} is not supported: did not find {missing}; teach harness/model/anatomy.py where it is and "
        "add the family to harness/testing/tiny_models.py."
    )


def _find_layers(hf: Any, config: Any) -> tuple[nn.Module, ...]:
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
        raise _refusal(hf, f"a list of {counted(n, 'decoder layer')}")
    return tuple(min(lists, key=lambda x: x[0].count("."))[1])


def _refuse_experts(hf: Any, layers: tuple[nn.Module, ...]) -> None:
    family = re.sub(r"For[A-Z]\w*$", "", type(hf).__name__)  # GraniteMoeHybrid has dense models, too
    for i, layer in enumerate(layers):
        for path, module in layer.named_modules():
            kind = type(module).__name__
            if any(word in f"{path} {kind.removeprefix(family)}".lower() for word in ("expert", "moe")):
                raise HarnessError(
                    f"{type(hf).__name__} is a mixture of experts (layer {i} has a {kind}), which is not supported: "
                    "its neurons belong to experts that see different tokens."
                )


@dataclass
class _Call:
    """One module that ran: its path within the layer, what went in and what came out."""

    path: str
    module: nn.Module
    input: torch.Tensor
    output: torch.Tensor


@dataclass
class _Walk:
    """The linear maps and norms of a layer, and the modules between the last one and the unembedding, as they ran.

    ``attention``: path of the layer's outermost module that calls itself an attention, or None. ``ran``: how many of
    the model's layers did. ``logits`` are those of :func:`harness.model.probes.run` with two rows.
    """

    attention: str | None
    inside: list[_Call] = field(default_factory=list)
    between: list[nn.Module] = field(default_factory=list)
    ran: int = 0
    logits: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def in_attention(self, call: _Call) -> bool:
        return self.attention is not None and call.path.startswith(f"{self.attention}.")


def _walk(hf: Any, layers: tuple[nn.Module, ...], unembedding: nn.Module, at: int = -1) -> _Walk:
    walk, passed = _Walk(_attention_in(layers[at])), False
    in_layers = {id(part) for layer in layers for part in layer.modules()}

    def record(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            # Cloned: Falcon adds the attention's output to the MLP's in place.
            walk.inside.append(_Call(path, module, args[0].detach().clone(), output.detach().clone()))

        return hook

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
            if path and (features(part) is not None or is_norm(part)):
                hooks.callback(part.register_forward_hook(record(path)).remove)
        for layer in layers:
            hooks.callback(layer.register_forward_hook(count).remove)
        hooks.callback(layers[-1].register_forward_hook(leave).remove)
        for part in hf.modules():
            if id(part) not in in_layers and (not list(part.children()) or is_norm(part)):
                hooks.callback(part.register_forward_hook(after).remove)
        walk.logits = run(hf, rows=2, change_last=True)
    return walk


def _attention_in(layer: nn.Module) -> str | None:
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


def _find_attentions(
    hf: Any, layers: tuple[nn.Module, ...], unembedding: nn.Module, walk: _Walk, d_model: int
) -> tuple[tuple[nn.Module | None, ...], tuple[nn.Module | None, ...], str | None]:
    """The attention of each layer and its output projection, and the path of the norm behind it, found in the last
    layer that has one."""
    at = next((i for i in reversed(range(len(layers))) if _attention_in(layers[i]) is not None), -1)
    seen = walk if at in (-1, len(layers) - 1) else _walk(hf, layers, unembedding, at)
    calls = [x for x in seen.inside if seen.in_attention(x) and features(x.module) is not None]
    calls = [x for x in calls if linear_features(x.module)[1] == d_model]
    if seen.attention is None or not calls:
        raise _refusal(hf, 'an attention (a module named "attn" or "attention" whose last linear map gives d_model)')
    outputs = tuple(_submodule(layer, calls[-1].path) for layer in layers)
    found = (_submodule(layer, seen.attention) for layer in layers)
    attentions = tuple(x if output is not None else None for x, output in zip(found, outputs, strict=True))
    return attentions, outputs, _find_post_norm(seen, calls[-1])


def _find_down(hf: Any, walk: _Walk, d_model: int) -> _Call:
    """The linear map outside the attention that runs last: the MLP's down projection.

    A bottleneck behind it is passed over, as that through which Gemma 4 writes what it keeps of each token by layer.
    """
    calls = [call for call in walk.inside if not walk.in_attention(call) and features(call.module) is not None]
    if calls and (width := linear_features(calls[-1].module)[0]) < d_model:
        calls = [call for call in calls if width not in linear_features(call.module)] or calls
    if not calls or linear_features(calls[-1].module)[1] != d_model:
        raise _refusal(hf, "an MLP whose last linear map gives d_model")
    return calls[-1]


def _find_mlp_input(hf: Any, walk: _Walk, down: _Call, d_model: int) -> str:
    """Path of the first linear map of the MLP that reads the residual stream, which others may read with it."""
    mlp = down.path.rpartition(".")[0]
    for call in walk.inside[: walk.inside.index(down)]:
        inside = not walk.in_attention(call) and (not mlp or call.path.startswith(f"{mlp}."))
        if inside and (features(call.module) or (0,))[0] == d_model:
            return call.path
    raise _refusal(hf, "an MLP whose first linear map reads d_model")


def _find_mixer(hf: Any, walk: _Walk, down: _Call, d_model: int) -> nn.Module:
    """In a layer without attention, the linear map with which what mixes its tokens ends."""
    mlp = down.path.rpartition(".")[0]
    before = [call for call in walk.inside[: walk.inside.index(down)] if features(call.module) is not None]
    before = [call for call in before if not (mlp and call.path.startswith(f"{mlp}."))]
    if not before or linear_features(before[-1].module)[1] != d_model:
        raise _refusal(hf, "what mixes the tokens of the last layer (a linear map before the MLP that gives d_model)")
    return before[-1].module


def _find_post_norm(walk: _Walk, projection: _Call) -> str | None:
    """Path of a norm that is applied to the output of one projection alone."""
    later = walk.inside[walk.inside.index(projection) + 1 :]
    for call in later:
        alone = call.input.shape == projection.output.shape and torch.equal(call.input, projection.output)
        if is_norm(call.module) and not walk.in_attention(call) and alone:
            return call.path
    return None


def _find_final_norm(hf: Any, walk: _Walk) -> tuple[nn.Module | None, tuple[nn.Module, ...]]:
    """The final norm and the linear maps that follow it."""
    rest = [module for module in walk.between if not isinstance(module, nn.Dropout | nn.Identity)]
    norm = rest.pop(0) if rest and features(rest[0]) is None else None
    for module in rest:
        if features(module) is None or getattr(module, "bias", None) is not None:
            raise _refusal(hf, f"a meaning for {type(module).__name__} between the final norm and the unembedding")
    return norm, tuple(rest)


def _submodule(layer: nn.Module, path: str) -> nn.Module | None:
    try:
        return layer.get_submodule(path)
    except AttributeError:
        return None


def _same_in_all(hf: Any, layers: tuple[nn.Module, ...], path: str, what: str) -> tuple[nn.Module, ...]:
    found = []
    for i, layer in enumerate(layers):
        if (module := _submodule(layer, path)) is None:
            raise _refusal(hf, f'"{path}" ({what}) in layer {i}: layers of different kinds')
        found.append(module)
    return tuple(found)


def _one_width(hf: Any, downs: tuple[nn.Module, ...]) -> int:
    widths = [linear_features(down)[0] for down in downs]
    if len(set(widths)) > 1:
        raise HarnessError(
            f"{type(hf).__name__} has MLPs of different widths ({min(widths)} to {counted(max(widths), 'neuron')}), "
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
