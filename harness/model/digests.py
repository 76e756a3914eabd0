"""What a model is: digests of its weights and its tokeniser, and the description that result records carry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import HarnessError
from harness.files.wording import agree, counted
from harness.model.greedy import not_applied
from harness.model.matrices import STORED
from harness.model.modules import read_parameter, text_config
from harness.model.precision import described
from harness.model.quantised import facts, plain, sizes

if TYPE_CHECKING:
    from harness.model.model import Model

CHUNK = 2**24
"""Elements that are copied to the CPU at a time."""


def weights_digest(hf: Any) -> str:
    """sha256 over names, dtypes, shapes and bytes of the state dict as loaded, sorted by name; needs no second copy."""
    digest = hashlib.sha256()
    for name, tensor in _stored(hf):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.reshape(-1)
        for start in range(0, flat.numel(), CHUNK):
            part = flat[start : start + CHUNK].cpu().contiguous()
            digest.update(part.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _stored(hf: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of the state dict, sorted by name: from where device_map has left them, of quantised weights what
    they are kept in."""
    state = hf.state_dict()
    for name in sorted(state):
        owner, _, own_name = name.rpartition(".")
        try:
            tensor = read_parameter(hf.get_submodule(owner), own_name)
        except AttributeError:  # bitsandbytes writes the scales of "weight" as "weight.absmax"
            tensor = state[name]
        if isinstance(tensor, torch.Tensor):
            yield from plain(name, tensor.detach())


def tokenizer_digest(tokenizer: Any, prefix: Sequence[int]) -> str:
    """sha256 of what decides token ids: the tokeniser without its padding and truncation, and what is put first."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        state.pop("padding", None)
        state.pop("truncation", None)
    else:
        state = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    state["special"] = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    state["prefix"] = list(prefix)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def check_finite(hf: Any, name: str) -> None:
    """Look once at every weight.

    Raises:
        HarnessError: names the first weight that holds NaN or infinity.
    """
    for path, _ in hf.named_parameters():
        owner, _, own_name = path.rpartition(".")
        weight = read_parameter(hf.get_submodule(owner), own_name)  # from where device_map has left it
        for _, tensor in () if weight is None else plain(path, weight):
            if tensor.is_meta or tensor.dtype not in STORED:
                continue
            # The sum is not finite if an element is not; the converse (overflow) is settled by the second look.
            total = tensor.detach().sum(dtype=torch.float32)
            if not torch.isfinite(total) and not torch.isfinite(tensor).all():
                bad = int((~torch.isfinite(tensor)).sum())
                raise HarnessError(
                    f'the weights of {name} are damaged: "{path}" holds {counted(bad, "value")} that '
                    f"{agree(bad, 'is', 'are')} NaN or infinite."
                )


def provenance(model: Model) -> dict[str, Any]:
    """What a result record says of a model, JSON values only; computes both digests."""
    config, anatomy, readout = text_config(model.hf), model.anatomy, model.readout
    parameters, quantised = sizes(model.hf), facts(model.hf, model.origin.get("quantised"))
    embedding, unembedding = model.hf.get_input_embeddings().weight, getattr(readout.unembedding, "weight", None)
    tied = unembedding is embedding
    if unembedding is not None and unembedding.is_meta and config.tie_word_embeddings and not tied:
        tied = True  # offloaded, the two look like two
        del parameters[id(unembedding)]
    first = [model.tokenizer.convert_ids_to_tokens(i) for i in model.prefix]
    return {
        "id": model.name,
        "revision": model.revision,
        "commit": model.commit,
        "weights_sha256": model.weights_digest,
        "tokenizer_sha256": model.tokenizer_digest,
        "architecture": type(model.hf).__name__,
        "model_type": config.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "precision": described(model),
        "device": str(model.device),
        "attn_implementation": getattr(config, "_attn_implementation", None),
        "n_layers": anatomy.n_layers,
        "d_model": anatomy.d_model,
        "d_mlp": anatomy.d_mlp,
        "n_heads": anatomy.n_heads,
        "n_kv_heads": anatomy.n_kv_heads,
        "n_vocab": anatomy.d_vocab,
        **_experts(model),
        "parallel": anatomy.parallel,
        "norm": readout.norm,
        "norm_eps": readout.eps,
        "logit_scale": readout.scale,
        "logit_cap": readout.cap,
        "tied_embeddings": tied,
        "parameters": sum(parameters.values()),
        "adds_bos": model.adds_bos,
        "first_tokens": first,
        "first_token_policy": f"every prompt begins with {' '.join(first)}" if first else "no token is put first",
        "pad_id": model.pad_id,
        "generation_not_applied": not_applied(model.hf),
        "unused_tensors": list(model.unused),
        "end_tokens": list(model.end_tokens),
        **model.origin,
        **({} if quantised is None else {"quantised": quantised}),
    }


def _experts(model: Model) -> dict[str, Any]:
    """What a result record says of a model's routed experts; nothing of a dense model."""
    if not model.expert_layers:
        return {}
    experts = model.experts(model.expert_layers[-1])
    return {
        "experts": {
            "n_experts": experts.n_experts,
            "d_expert": experts.d_expert,
            "top_k": experts.top_k,
            "layers": list(model.expert_layers),
            "implementation": getattr(text_config(model.hf), "_experts_implementation", None),
        }
    }
