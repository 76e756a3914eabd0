"""Direct feature attribution by its definition: loops over one sequence, its tokens and heads; parts by family."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from harness.model.model import Model

SEQUENCE = [5, 17, 80, 41, 17, 80, 3]


@dataclass(frozen=True)
class Names:
    """Where a family keeps what attribution needs; paths within a layer, "" where there is nothing."""

    layers: str
    out: str
    mlp: str
    read: str
    norm: str
    after_attention: str = ""
    after_mlp: str = ""
    rows: tuple[int, int] | None = None
    parallel: bool = False
    factor: float = 1.0
    one_plus: bool = False
    """The norms multiply by 1 + weight (Gemma)."""


GPT2 = Names("transformer.h", "attn.c_proj", "mlp", "mlp.c_fc", "ln_2")
LLAMA = Names("model.layers", "self_attn.o_proj", "mlp", "mlp.gate_proj", "post_attention_layernorm")
NEOX = Names("gpt_neox.layers", "attention.dense", "mlp", "mlp.dense_h_to_4h", "post_attention_layernorm")
NAMES = {
    "gpt2": GPT2,
    "gpt_neox": replace(NEOX, parallel=True),
    "gpt_neox_sequential": NEOX,
    "gptj": Names("transformer.h", "attn.out_proj", "mlp", "mlp.fc_in", "ln_1", parallel=True),
    "cohere": replace(LLAMA, norm="input_layernorm", parallel=True),
    "opt": Names("model.decoder.layers", "self_attn.out_proj", "fc2", "fc1", "final_layer_norm"),
    "llama": LLAMA,
    "llama_gqa_tied": LLAMA,
    "phi3": replace(LLAMA, read="mlp.gate_up_proj", rows=(0, 48)),
    "gemma2": replace(
        LLAMA,
        norm="pre_feedforward_layernorm",
        after_attention="post_attention_layernorm",
        after_mlp="post_feedforward_layernorm",
        one_plus=True,
    ),
    "olmo2": replace(
        LLAMA, norm="", after_attention="post_attention_layernorm", after_mlp="post_feedforward_layernorm"
    ),
    "granite": replace(LLAMA, factor=0.22),
}


def linear(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [d_out, d_in] and bias of a linear map, float64."""
    weight = module.weight.double()
    weight = weight.T if type(module).__name__ == "Conv1D" else weight
    bias = getattr(module, "bias", None)
    return weight, torch.zeros(len(weight)).double() if bias is None else bias.double()


def normed(norm: Any, x: torch.Tensor, part: torch.Tensor, bias: bool, one_plus: bool) -> torch.Tensor:
    """What ``part`` of the norm's input x [d_model] becomes, with the denominator of x."""
    if norm is None:
        return part
    gain = norm.weight.double() + (1 if one_plus else 0)
    eps = next(getattr(norm, name) for name in ("eps", "variance_epsilon") if hasattr(norm, name))
    if "RMS" in type(norm).__name__:
        out = gain * part / (x.square().mean() + eps).sqrt()
    else:
        out = gain * (part - part.mean()) / (x.var(unbiased=False) + eps).sqrt()
    return out + norm.bias.double() if bias and getattr(norm, "bias", None) is not None else out


@torch.no_grad()
def slowly(model: Model, names: Names, layer: int, neuron: int, ids: list[int]) -> list[dict[str, float]]:
    """For every position: each component's contribution, and the pre-activation that the model computed."""
    layers = model.hf.get_submodule(names.layers)
    seen: dict[str, torch.Tensor] = {}

    def at(module: torch.nn.Module, key: str, output: bool) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, out: Any) -> None:
            x = out if output else (args[0] if args else kwargs["hidden_states"])
            x = x[0] if isinstance(x, tuple) else x
            seen[key] = x.detach().double().reshape(len(ids), -1).clone()

        return module.register_forward_hook(hook, with_kwargs=True)

    handles = [at(layers[0], "embedding", output=False)]
    for i in range(layer + 1):
        get = layers[i].get_submodule
        handles.append(at(get(names.out), f"heads {i}", output=False))
        handles.append(at(get(names.out), f"attention {i}", output=True))
        handles.append(at(get(names.after_mlp or names.mlp), f"mlp {i}", output=True))
    read = layers[layer].get_submodule(names.read)
    norm = layers[layer].get_submodule(names.norm) if names.norm else None
    handles += [at(norm or read, "residual", output=False), at(read, "read", output=True)]
    model.hf(torch.tensor([ids]))
    for handle in handles:
        handle.remove()

    row = neuron + (names.rows or (0, 0))[0]
    w_in = linear(read)[0][row]
    found = []
    for t in range(len(ids)):
        x = seen["residual"][t]

        def contribution(part: torch.Tensor, x: torch.Tensor = x) -> float:
            return float(w_in @ normed(norm, x, part, False, names.one_plus))

        parts = {"embedding": contribution(seen["embedding"][t])}
        biases = 0.0
        for i in range(layer + (0 if names.parallel else 1)):
            weight, bias = linear(layers[i].get_submodule(names.out))
            after = layers[i].get_submodule(names.after_attention) if names.after_attention else None
            width = weight.shape[1] // model.anatomy.n_heads
            for head in range(model.anatomy.n_heads):
                alone = torch.zeros_like(seen[f"heads {i}"][t])
                alone[head * width : (head + 1) * width] = seen[f"heads {i}"][t, head * width : (head + 1) * width]
                wrote = normed(after, seen[f"attention {i}"][t], weight @ alone, False, names.one_plus)
                parts[f"L{i}H{head}"] = contribution(names.factor * wrote)
            biases += contribution(names.factor * normed(after, seen[f"attention {i}"][t], bias, False, names.one_plus))
        for i in range(layer):
            parts[f"MLP {i}"] = contribution(names.factor * seen[f"mlp {i}"][t])
        if biases:
            parts["attention biases"] = biases
        found.append({**parts, "pre-activation": float(seen["read"][t, row])})
    return found
