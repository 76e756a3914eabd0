"""Where things are in a decoder-only language model: neurons, heads, norms, unembedding.

Nothing is looked up by model type. A few tokens are run through the model with hooks; the *order* in which linear maps
and norms run says which is which, and a second pass with perturbed activations checks the answer numerically: what the
neurons write, whether it reaches the final residual unchanged, whether attention and MLP run in parallel, whether the
model is causal. A model that the search misunderstands is refused when it is loaded, instead of giving wrong numbers.
The only name that matters is that the attention's module, or its class, calls itself "attn" or "attention". Layers of a
hybrid may mix tokens in another way (a convolution, a state space, linear attention): they have neurons and no heads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from harness.errors import HarnessError
from harness.files.wording import counted
from harness.model.expert_search import find_experts
from harness.model.experts import Experts
from harness.model.mlps import MLPs, find_mixer, find_mlps
from harness.model.modules import features, linear_features, text_config
from harness.model.probes import (
    check_causal,
    check_neurons,
    probe_experts,
    probe_last_layer,
    relative_error,
    write_multiplier,
)
from harness.model.walks import Walk, attention_in, find_post_norm, refusal, submodule, walk_layer


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The parts of a decoder-only transformer.

    Attributes:
        layers: the decoder layers, first to last.
        down_projections: one a layer; its *input* is the neurons' activations [batch, pos, d_mlp]
            ([batch * pos, d_mlp] when ``flattened``, as in OPT). None where the MLP is routed experts alone; where
            experts are shared, their down projection.
        attentions: the attention module of each layer; None where tokens are mixed in another way.
        attention_outputs: the output projection of each attention; its input is the heads' outputs, concatenated
            [batch, pos, n_heads * d_head]. None where there is no attention.
        mlp_inputs: of each layer the first linear map that reads what its MLP reads, [batch, pos, d_model], or its
            experts; None where these are called in another way.
        mlp_outputs: of each layer the module that returns what its MLP writes, before a norm after it; None where
            routed and dense parts are added up outside of any.
        post_attention_norms: the norm between a layer's attention and the residual stream (Gemma 2 and 3, OLMo 2), or
            None.
        post_mlp_norms: the norm between a layer's down projection and the residual stream (Gemma 2 and 3, OLMo 2), or
            None.
        final_norm: the norm between the last layer and the unembedding, or None.
        tail: linear maps between the final norm and the unembedding (``project_out`` of OPT-350m); mostly empty.
        unembedding: the module that maps to logits (``lm_head``).
        n_layers, d_model, d_mlp, n_heads, n_kv_heads, d_head: counts and widths; d_mlp is that of the last layer with
            dense neurons, 0 without any.
        d_mlps: dense neurons of each layer; equal but in mixtures of experts.
        d_vocab: rows of the unembedding matrix (may exceed the tokeniser's vocabulary).
        parallel: attention and MLP of a layer both read the layer's input (GPT-J, Pythia, Phi, Cohere).
        residual_multiplier: factor on the MLP's output where it is added to the residual stream (Granite), else 1.
        direct_write: the last MLP's output is added to the final residual unchanged, so that an edit of the last
            layer's neurons moves the final residual by ``delta @ w_out`` exactly.
        flattened: the down projection sees [batch * pos, d_mlp].
        experts: the routed experts of each layer; None where there are none.
        neurons_enter, experts_enter: what the last layer's dense neurons (its experts) write is added to the final
            residual with no factor but ``residual_multiplier``, or goes alone through the norm after the MLP. The first
            is False where a shared expert has a gate of its own (Qwen2-MoE).
    """

    layers: tuple[nn.Module, ...]
    down_projections: tuple[nn.Module | None, ...]
    attentions: tuple[nn.Module | None, ...]
    attention_outputs: tuple[nn.Module | None, ...]
    mlp_inputs: tuple[nn.Module | None, ...]
    mlp_outputs: tuple[nn.Module | None, ...]
    post_attention_norms: tuple[nn.Module | None, ...]
    post_mlp_norms: tuple[nn.Module | None, ...]
    final_norm: nn.Module | None
    tail: tuple[nn.Module, ...]
    unembedding: nn.Module
    n_layers: int
    d_model: int
    d_mlp: int
    d_mlps: tuple[int, ...]
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_vocab: int
    parallel: bool
    residual_multiplier: float
    direct_write: bool
    flattened: bool
    experts: tuple[Experts | None, ...]
    neurons_enter: bool
    experts_enter: bool

    @property
    def with_attention(self) -> tuple[int, ...]:
        """The layers that have an attention, ascending; all but in hybrids."""
        return tuple(layer for layer, output in enumerate(self.attention_outputs) if output is not None)


def locate(hf: Any) -> Anatomy:
    """Find and check the parts of a ``transformers`` causal language model in evaluation mode.

    Raises:
        HarnessError: no decoder layers, experts that are not understood, no attention or MLP where one is expected,
            MLPs of different widths, a model that is not causal or has an encoder, or a self-check that fails.
    """
    config = text_config(hf)
    if config.is_encoder_decoder:
        raise HarnessError(f"{type(hf).__name__} is not a causal language model: it has an encoder.")
    layers = _find_layers(hf, config)
    unembedding = hf.get_output_embeddings()
    if unembedding is None or features(unembedding) is None:
        raise refusal(hf, "an unembedding (get_output_embeddings() gives no linear map)")
    d_model = config.hidden_size
    experts = find_experts(hf, layers, [attention_in(layer) for layer in layers])
    _refuse_experts(hf, layers, experts)
    walk = walk_layer(hf, layers, unembedding, experts)
    if walk.ran != len(layers):
        raise HarnessError(
            f"{type(hf).__name__} is not supported: of its {counted(len(layers), 'layer')} only {walk.ran} run on text "
            "alone."
        )
    check_causal(hf, walk.logits)
    attentions, outputs, attention_norm = _find_attentions(hf, layers, unembedding, experts, walk, d_model)
    mlps = find_mlps(hf, layers, unembedding, experts, walk, d_model)
    final_norm, tail = _find_final_norm(hf, walk)
    mixer = outputs[-1] or find_mixer(hf, walk, d_model)
    entry = _enter(hf, layers[-1], mlps, mixer, experts[-1], final_norm, config)
    n_heads = config.num_attention_heads
    head_output = next(output for output in reversed(outputs) if output is not None)
    return Anatomy(
        layers=layers,
        down_projections=mlps.downs,
        attentions=attentions,
        attention_outputs=outputs,
        mlp_inputs=mlps.inputs,
        mlp_outputs=mlps.outputs,
        post_attention_norms=tuple(
            None if output is None or attention_norm is None else submodule(layer, attention_norm)
            for layer, output in zip(layers, outputs, strict=True)
        ),
        post_mlp_norms=mlps.norms,
        final_norm=final_norm,
        tail=tail,
        unembedding=unembedding,
        n_layers=len(layers),
        d_model=d_model,
        d_mlp=next((width for width in reversed(mlps.widths) if width), 0),
        d_mlps=mlps.widths,
        n_heads=n_heads,
        n_kv_heads=_kv_heads(next(x for x in reversed(attentions) if x is not None), config, n_heads),
        d_head=linear_features(head_output)[0] // n_heads,
        d_vocab=linear_features(unembedding)[1],
        experts=experts,
        **vars(entry),
    )


@dataclass(frozen=True)
class _Entry:
    """How the last layer's MLP reads and writes the residual stream; attributes as of :class:`Anatomy`."""

    parallel: bool
    residual_multiplier: float
    direct_write: bool
    flattened: bool
    neurons_enter: bool
    experts_enter: bool


def _enter(
    hf: Any,
    layer: nn.Module,
    mlps: MLPs,
    mixer: nn.Module,
    experts: Experts | None,
    final_norm: nn.Module | None,
    config: Any,
) -> _Entry:
    """Perturb the last layer's neurons, and its experts, and see what comes of it."""
    down, post_norm, factors = mlps.downs[-1], mlps.norms[-1], list[float | None]()
    parallel, flattened, neurons_enter, experts_enter = False, False, down is not None, False
    if down is not None:
        probe = probe_last_layer(hf, layer, down, mixer, final_norm)
        check_neurons(hf, probe)
        parallel = relative_error(probe.neurons[1], probe.neurons[0]) < probe.tolerance
        flattened = probe.flattened
        change = probe.residual[2] - probe.residual[0]
        factors.append(write_multiplier(change, probe.push, probe.tolerance, config))
    if experts is not None:
        found = probe_experts(hf, layer, experts, mixer, post_norm, final_norm)
        parallel = relative_error(found.entering[1], found.entering[0]) < found.tolerance
        change = found.residual[2] - found.residual[0]
        factors.append(write_multiplier(change, found.push, found.tolerance, config))
        if found.normed is None:
            experts_enter = factors[-1] is not None
            neurons_enter = experts_enter and len(set(factors)) == 1 and down is not None
        else:
            normed = found.normed[2] - found.normed[0]
            experts_enter = down is None and relative_error(change, normed) < 3 * found.tolerance
            neurons_enter = False
    multiplier = factors[-1] if post_norm is None else None
    return _Entry(
        parallel=parallel,
        residual_multiplier=1.0 if multiplier is None else multiplier,
        direct_write=multiplier == 1.0,
        flattened=flattened,
        neurons_enter=neurons_enter,
        experts_enter=experts_enter,
    )


# --- the structural search -----------------------------------------------------------------------------------------


def _find_layers(hf: Any, config: Any) -> tuple[nn.Module, ...]:
    n = getattr(config, "num_hidden_layers", None)
    if not isinstance(n, int) or not isinstance(getattr(config, "hidden_size", None), int):
        raise refusal(hf, "num_hidden_layers and hidden_size in its configuration")
    lists = [
        (name, module)
        for name, module in hf.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == n
        and all(sum(features(part) is not None for part in layer.modules()) >= 2 for layer in module)
    ]
    lists = [x for x in lists if not any(word in x[0] for word in ("vision", "visual", "audio"))] or lists
    if not lists:
        raise refusal(hf, f"a list of {counted(n, 'decoder layer')}")
    return tuple(min(lists, key=lambda x: x[0].count("."))[1])


def _refuse_experts(hf: Any, layers: tuple[nn.Module, ...], experts: tuple[Experts | None, ...]) -> None:
    """Refuse a model that calls a part of a layer experts in which none were found."""
    family = re.sub(r"For[A-Z]\w*$", "", type(hf).__name__)  # GraniteMoeHybrid has dense models, too
    for i, layer in enumerate(layers):
        for path, module in layer.named_modules() if experts[i] is None else ():
            kind = type(module).__name__
            if any(word in f"{path} {kind.removeprefix(family)}".lower() for word in ("expert", "moe")):
                raise HarnessError(
                    f"{type(hf).__name__} is a mixture of experts that was not understood (layer {i} has a {kind}): no "
                    "module was found whose output is what the neurons of its experts write, weighted by a router "
                    "(harness/model/expert_search.py)."
                )


def _find_attentions(
    hf: Any,
    layers: tuple[nn.Module, ...],
    unembedding: nn.Module,
    experts: tuple[Experts | None, ...],
    walk: Walk,
    d_model: int,
) -> tuple[tuple[nn.Module | None, ...], tuple[nn.Module | None, ...], str | None]:
    """The attention of each layer and its output projection, and the path of the norm behind it, found in the last
    layer that has one."""
    at = next((i for i in reversed(range(len(layers))) if attention_in(layers[i]) is not None), -1)
    seen = walk if at in (-1, len(layers) - 1) else walk_layer(hf, layers, unembedding, experts, at)
    calls = [x for x in seen.inside if seen.in_attention(x) and features(x.module) is not None]
    calls = [x for x in calls if linear_features(x.module)[1] == d_model]
    if seen.attention is None or not calls:
        raise refusal(hf, 'an attention (a module named "attn" or "attention" whose last linear map gives d_model)')
    outputs = tuple(submodule(layer, calls[-1].path) for layer in layers)
    found = (submodule(layer, seen.attention) for layer in layers)
    attentions = tuple(x if output is not None else None for x, output in zip(found, outputs, strict=True))
    return attentions, outputs, find_post_norm(seen, [calls[-1]])


def _find_final_norm(hf: Any, walk: Walk) -> tuple[nn.Module | None, tuple[nn.Module, ...]]:
    """The final norm and the linear maps that follow it."""
    rest = [module for module in walk.between if not isinstance(module, nn.Dropout | nn.Identity)]
    norm = rest.pop(0) if rest and features(rest[0]) is None else None
    for module in rest:
        if features(module) is None or getattr(module, "bias", None) is not None:
            raise refusal(hf, f"a meaning for {type(module).__name__} between the final norm and the unembedding")
    return norm, tuple(rest)


def _kv_heads(attention: nn.Module, config: Any, n_heads: int) -> int:
    """Key-value heads; Falcon's attention knows better than its configuration."""
    for owner in (attention, config):
        for name in ("num_kv_heads", "num_key_value_heads"):
            if isinstance(found := getattr(owner, name, None), int):
                return found
    return n_heads
