"""What a model is made of, as far as it matters for neurons: parts, how they were verified, tokens, spectrum, neurons.

What ``harness inspect`` shows. Nothing is read from the model's type: modules are those that :mod:`.anatomy` has found,
and the two errors are measured anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn

from harness.files.wording import counted, noun_for
from harness.model.model import Model
from harness.model.output_weights import write_directions
from harness.model.quantised import plain
from harness.model.weight_scores import neuron_scores, null_kind, suggest_null_dims, unembedding_geometry

PROMPT = "The capital of France is"
GIB = 2**30


@dataclass(frozen=True)
class Errors:
    """How far off the model taken apart is from the model itself, as shares of the largest value.

    Attributes:
        readout: logits by the norm's formula and the unembedding, against the model's own.
        write: what an edit of the last layer's neurons does to the final residual, against ``w_out``; None where the
            last MLP's output does not reach it unchanged.
    """

    readout: float
    write: float | None


@dataclass(frozen=True)
class Inspection:
    """What there is to know of a model before a run; every value is one of JSON's.

    Attributes:
        model: as results describe it (:meth:`Model.provenance`).
        parts: where things are: module's name, by part.
        errors: see :class:`Errors`.
        engine: how runs that edit the last layer's neurons will be made: ``closed_form`` or ``batched``.
        memory: GiB by what takes it: weights, the largest of them, logits of a batch of 64 prompts.
        special_tokens: text, by role. prompts: what is fed for a sentence, as text, by token.
        spectrum: singular values of the processed unembedding: the first, the median, the last ones.
        null_dims, null_dims_reason: the suggested null space.
        null_kind, null_kind_reason: why W_U does not read its last direction (:func:`harness.model.null_kind`).
        layer: whose neurons were scored. neurons: those that look most like entropy neurons, by the lowest LogitVar,
            with their rho and norm.
    """

    model: dict[str, Any]
    parts: dict[str, str]
    errors: Errors
    engine: str
    memory: dict[str, float]
    special_tokens: dict[str, str | None]
    prompts: dict[str, list[str]]
    spectrum: dict[str, Any]
    null_dims: int
    null_dims_reason: str
    null_kind: str
    null_kind_reason: str
    layer: int
    neurons: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect(model: Model, layer: int = -1, top: int = 10, prompt: str = PROMPT) -> Inspection:
    """Look at a model; a few passes and one eigendecomposition [d_model, d_model].

    Args:
        layer: whose neurons are scored. top: how many of them are told of. prompt: shown as it is fed.

    Raises:
        HarnessError: there is no such layer, or the prompt is empty.
    """
    layer = layer % model.anatomy.n_layers if -model.anatomy.n_layers <= layer < 0 else layer
    written = None if model.anatomy.experts[layer % model.anatomy.n_layers] is None else model.expert_out(layer)
    w_out = write_directions(model, layer, written)
    geometry = unembedding_geometry(model)
    k, why = suggest_null_dims(geometry.singular_values, geometry.trivial)
    scores = neuron_scores(geometry, w_out, k)
    values = geometry.singular_values
    kind, because = null_kind(model, geometry)
    return Inspection(
        model=model.provenance(),
        parts=_parts(model),
        errors=_errors(model, prompt),
        engine="closed_form" if model.anatomy.direct_write else "batched",
        memory=_memory(model),
        special_tokens=_special_tokens(model),
        prompts=_prompts(model, prompt),
        spectrum={
            "largest": float(values[0]),
            "median": float(np.median(values)),
            "smallest": [float(x) for x in values[-min(len(values), max(2 * k, 10)) :]],
            "processing": geometry.processing,
        },
        null_dims=k,
        null_dims_reason=why,
        null_kind=kind,
        null_kind_reason=because,
        layer=layer,
        neurons=lowest_logit_var(layer, scores, top, None if written is None else model.experts(layer).d_expert),
    )


def lowest_logit_var(
    layer: int, scores: dict[str, np.ndarray], top: int, d_expert: int | None = None
) -> list[dict[str, Any]]:
    """The neurons that tell least between tokens, LogitVar (Stolfo et al. 2024, eq. 3), with their rho and norm; in a
    layer of experts of ``d_expert`` neurons they are theirs."""
    norm, logit_var = scores["norm"], scores["logit_var"]
    chosen = [int(i) for i in np.argsort(logit_var, kind="stable")[:top] if norm[i] > 0]  # NaN comes last
    of_norm = 100 * rankdata(norm) / len(norm)
    return [
        {
            "neuron": f"{layer}.{i}" if d_expert is None else f"E{layer}.{i // d_expert}.{i % d_expert}",
            "logit_var": float(logit_var[i]),
            "logit_var_of_median": float(logit_var[i] / np.nanmedian(logit_var)),
            "rho": float(scores["rho"][i]),
            "norm": float(norm[i]),
            "norm_percentile": float(of_norm[i]),
        }
        for i in chosen
    ]


def _parts(model: Model) -> dict[str, str]:
    names = {module: name for name, module in model.hf.named_modules()}
    anatomy, has = model.anatomy, model.anatomy.with_attention
    found = {
        "layers": names[anatomy.layers[0]].rpartition(".")[0],
        **_neurons(model, names),
        "heads": f"what enters {names[model.attention(has[-1])[1]]}{_in(has, anatomy.n_layers)}",
        "final norm": "none" if anatomy.final_norm is None else f"{names[anatomy.final_norm]} ({model.readout.norm})",
        "unembedding": names[anatomy.unembedding],
    }
    if anatomy.tail:
        found["between norm and unembedding"] = ", ".join(names[x] for x in anatomy.tail)
    if (post := anatomy.post_mlp_norms[-1]) is not None:
        found["norm after the MLP"] = names[post]
    return found


def _neurons(model: Model, names: Mapping[nn.Module, str]) -> dict[str, str]:
    """Where dense neurons are in the last layer that has some, and routed experts."""
    anatomy, found = model.anatomy, dict[str, str]()
    dense = [i for i, width in enumerate(anatomy.d_mlps) if width]
    if dense:
        found["neurons"] = f"what enters {names[model.down_projection(dense[-1])]}{_in(dense, anatomy.n_layers)}"
    if model.expert_layers:
        experts = model.experts(model.expert_layers[-1])
        found["experts"] = (
            f"{names[experts.site]}: {experts.n_experts} of {counted(experts.d_expert, 'neuron')}, {experts.top_k} of "
            f"them for each token{_in(model.expert_layers, anatomy.n_layers)}"
        )
        found["router"] = "its weights alone" if experts.router is None else names[experts.router.module]
    return found


def _in(has: Sequence[int], n_layers: int) -> str:
    """In which layers something is, where that is not all."""
    return "" if len(has) == n_layers else f", in {noun_for(len(has), 'layer')} {', '.join(map(str, has))}"


@torch.no_grad()
def _errors(model: Model, prompt: str) -> Errors:
    batch = model.pad(model.encode([prompt]))
    with model.capture_residual() as captured:
        own = model.forward(batch, logits_to_keep=0).logits.float()
    plain = captured.residual
    ours = model.readout.logits(plain, model.readout.denominator(plain))
    readout = float((ours - own).abs().max() / own.abs().max())
    anatomy, last = model.anatomy, model.anatomy.n_layers - 1
    if not (anatomy.direct_write and anatomy.neurons_enter and anatomy.d_mlps[last]):
        return Errors(readout, None)
    by = torch.linspace(-1, 1, model.anatomy.d_mlp)
    with (
        model.capture_residual() as edited,
        model.edit_neurons(last, lambda activations: activations + by.to(activations)),
    ):
        model.forward(batch)
    expected = (by.to(model.w_out(last)) @ model.w_out(last)).to(plain)
    moved = edited.residual - plain
    return Errors(readout, float((moved - expected).abs().max() / expected.abs().max()))


def _memory(model: Model) -> dict[str, float]:
    kept = {id(x): x for whole in (*model.hf.parameters(), *model.hf.buffers()) for _, x in plain("", whole)}
    W_U = model.readout.W_U
    return {
        "weights": sum(x.numel() * x.element_size() for x in kept.values()) / GIB,
        "unembedding": W_U.numel() * W_U.element_size() / GIB,
        "logits of 64 prompts": 64 * model.anatomy.d_vocab * 4 / GIB,
    }


def _special_tokens(model: Model) -> dict[str, str | None]:
    words = model.tokenizer
    return {
        "put first": " ".join(words.convert_ids_to_tokens(list(model.prefix))) or None,
        "begins a text": words.bos_token,
        "ends a text": ", ".join(map(str, words.convert_ids_to_tokens(list(model.end_tokens)))) or None,
        "pads": words.convert_ids_to_tokens(model.pad_id),
    }


def _prompts(model: Model, prompt: str) -> dict[str, list[str]]:
    """A sentence as it is fed, and through the chat template where there is one."""
    fed = {"as it is": model.encode([prompt])[0]}
    if getattr(model.tokenizer, "chat_template", None):
        chat = [{"role": "user", "content": prompt}]
        text = model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        fed["as a chat"] = model.encode([text], add_bos=False)[0]
    return {how: _texts(model, ids) for how, ids in fed.items()}


def _texts(model: Model, ids: Sequence[int]) -> list[str]:
    return [model.tokenizer.decode([i]) for i in ids]
