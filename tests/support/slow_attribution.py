"""Knowledge attribution by its definition (Yu & Ananiadou 2024): one prompt at a time, in float64, with whole logits
for every component, and with parts of the model that are named by family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from harness.model.model import Model


@dataclass(frozen=True)
class Names:
    """Where a family keeps its parts: paths within a layer, "" where there is nothing."""

    layers: str = "model.layers"
    norm: str = "input_layernorm"
    attention: str = "self_attn"
    value: str = "self_attn.v_proj"
    out: str = "self_attn.o_proj"
    after_attention: str = ""
    mlp_norm: str = "post_attention_layernorm"
    mlp_in: str = "mlp.gate_proj"
    down: str = "mlp.down_proj"
    after_mlp: str = ""
    factor: float = 1.0
    one_plus: bool = False
    """The norms multiply by 1 + weight (Gemma)."""
    value_rows: str = "grouped"
    """How the value projection is laid out: "grouped" (its own map), "last third" or "by head" (of a fused map)."""


_LLAMA = Names()
_GPT2 = Names("transformer.h", "ln_1", "attn", "attn.c_attn", "attn.c_proj", "", "ln_2", "mlp.c_fc", "mlp.c_proj")
_NORMED = {"after_attention": "post_attention_layernorm", "after_mlp": "post_feedforward_layernorm"}
NAMES = {
    "gpt2": replace(_GPT2, value_rows="last third"),
    "gptj": replace(_GPT2, value="attn.v_proj", out="attn.out_proj", mlp_norm="ln_1", mlp_in="mlp.fc_in",
                    down="mlp.fc_out"),
    "gpt_neox": Names("gpt_neox.layers", "input_layernorm", "attention", "attention.query_key_value",
                      "attention.dense", "", "post_attention_layernorm", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h",
                      value_rows="by head"),
    "llama": _LLAMA,
    "llama_gqa_tied": _LLAMA,
    "granite": replace(_LLAMA, factor=0.22),
    "gemma2": replace(_LLAMA, mlp_norm="pre_feedforward_layernorm", one_plus=True, **_NORMED),  # type: ignore[arg-type]
    "olmo2": replace(_LLAMA, norm="", mlp_norm="", **_NORMED),  # type: ignore[arg-type]
}  # fmt: skip


def read(family: str) -> Names:
    """Where the family keeps its parts."""
    return NAMES[family]


@dataclass
class Seen:
    """What one pass over T tokens has left, float64: by layer what enters it and leaves it, the heads' outputs, the
    neurons, the attention pattern of the last position [n_heads, T]."""

    target: int = 0
    denominator: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    into: dict[int, torch.Tensor] = field(default_factory=dict)
    out: dict[int, torch.Tensor] = field(default_factory=dict)
    heads: dict[int, torch.Tensor] = field(default_factory=dict)
    neurons: dict[int, torch.Tensor] = field(default_factory=dict)
    mlp_reads: dict[int, torch.Tensor] = field(default_factory=dict)
    patterns: list[torch.Tensor] = field(default_factory=list)


class Slow:
    """The definition for one model."""

    def __init__(self, model: Model, names: Names) -> None:
        self.model, self.names, self.anatomy = model, names, model.anatomy
        self.layers = list(model.anatomy.layers)

    def _part(self, layer: int, path: str) -> Any:
        return self.layers[layer].get_submodule(path) if path else None

    def _linear(self, layer: int, path: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight [d_out, d_in] and bias."""
        module = self._part(layer, path)
        weight = module.weight.double()
        weight = weight.T if type(module).__name__ == "Conv1D" else weight
        bias = getattr(module, "bias", None)
        return weight, torch.zeros(len(weight)).double() if bias is None else bias.double()

    def _normed(self, layer: int, path: str, x: torch.Tensor, part: torch.Tensor, bias: bool) -> torch.Tensor:
        """What ``part`` of a norm's input x becomes, with the denominator of x."""
        norm = self._part(layer, path)
        if norm is None:
            return part
        gain = norm.weight.double() + (1 if self.names.one_plus else 0)
        eps = next(getattr(norm, name) for name in ("eps", "variance_epsilon") if hasattr(norm, name))
        if "RMS" in type(norm).__name__:
            out = gain * part / (x.square().mean(-1, keepdim=True) + eps).sqrt()
        else:
            part = part - part.mean(-1, keepdim=True)
            out = gain * part / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
        return out + norm.bias.double() if bias and getattr(norm, "bias", None) is not None else out

    @torch.no_grad()
    def run(self, tokens: list[int]) -> Seen:
        """One pass, with attention computed step by step."""
        seen, hooks, hf = Seen(), [], self.model.hf

        def keep(store: dict[int, torch.Tensor], layer: int, output: bool = False) -> Callable[..., None]:
            def hook(module: Any, args: Any, kwargs: Any, out: Any) -> None:
                x = out if output else (args[0] if args else kwargs["hidden_states"])
                x = x[0] if isinstance(x, tuple) else x
                store[layer] = x.detach().double().reshape(len(tokens), -1).clone()

            return hook

        for i, layer in enumerate(self.layers):
            before = self._part(i, self.names.norm) or layer
            mlp_norm = self._part(i, self.names.mlp_norm) or self._part(i, self.names.mlp_in)
            for module, hook in (
                (before, keep(seen.into, i)),
                (layer, keep(seen.out, i, output=True)),
                (self._part(i, self.names.out), keep(seen.heads, i)),
                (self._part(i, self.names.down), keep(seen.neurons, i)),
                (mlp_norm, keep(seen.mlp_reads, i)),
            ):
                hooks.append(module.register_forward_hook(hook, with_kwargs=True))
        before_run = hf.config._attn_implementation
        hf.set_attn_implementation("eager")
        with self.model.capture_residual() as final:
            out = hf(torch.tensor([tokens]), output_attentions=True)
        hf.set_attn_implementation(before_run)
        for handle in hooks:
            handle.remove()
        seen.target = int(out.logits[0, -1].argmax())
        x = final.residual[0, -1].double()
        x = x - x.mean() if self.model.readout.norm == "layernorm" else x
        seen.denominator = (x.square().mean() + self.model.readout.eps).sqrt()
        seen.patterns = [pattern[0, :, -1].double() for pattern in out.attentions]
        return seen

    def log_p(self, v: torch.Tensor, denominator: torch.Tensor, target: int) -> torch.Tensor:
        """log F_w of residuals [..., d_model]."""
        readout = self.model.readout
        v = v - v.mean(-1, keepdim=True) if readout.norm == "layernorm" else v
        v = v / denominator * readout.gain.double()
        v = v if readout.bias is None else v + readout.bias.double()
        logits = v @ readout.W_U.double().T + (0 if readout.b_U is None else readout.b_U.double())
        logits = logits * readout.scale
        logits = logits if readout.cap is None else torch.tanh(logits / readout.cap) * readout.cap
        return logits.log_softmax(-1)[..., target]

    def _increase(self, seen: Seen, r: torch.Tensor, writes: torch.Tensor) -> np.ndarray:
        """Of writes [..., d_model] beside r [d_model]."""
        after, before = (self.log_p(x, seen.denominator, seen.target) for x in (r + writes, r))
        return (after - before).numpy()

    # -- attention neurons --------------------------------------------------------------------------------------------

    def value_rows(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows [n_heads, d_head, d_model] and biases [n_heads, d_head] of the value projection, for query heads."""
        weight, bias = self._linear(layer, self.names.value)
        n, d = self.anatomy.n_heads, self.anatomy.d_head
        if self.names.value_rows == "by head":
            return weight.view(n, 3, d, -1)[:, 2], bias.view(n, 3, d)[:, 2]
        if self.names.value_rows == "last third":
            return weight[2 * n * d :].view(n, d, -1), bias[2 * n * d :].view(n, d)
        groups = n * d // len(weight)
        weight, bias = weight.view(-1, d, weight.shape[1]), bias.view(-1, d)
        return weight.repeat_interleave(groups, 0), bias.repeat_interleave(groups, 0)

    def values(self, seen: Seen, layer: int) -> torch.Tensor:
        """[T, n_heads, d_head]."""
        rows, bias = self.value_rows(layer)
        x = seen.into[layer]
        return torch.einsum("td,hed->the", self._normed(layer, self.names.norm, x, x, True), rows) + bias

    def head_writes(self, seen: Seen, layer: int) -> torch.Tensor:
        """What each attention neuron writes, [T, n_heads, d_head, d_model]."""
        weight, bias = self._linear(layer, self.names.out)
        rows = weight.T.reshape(self.anatomy.n_heads, self.anatomy.d_head, -1)
        coefficients = self.values(seen, layer) * seen.patterns[layer].T[..., None]
        total = seen.heads[layer][-1] @ weight.T + bias
        writes = coefficients[..., None] * rows
        return self._normed(layer, self.names.after_attention, total, writes, False) * self.names.factor

    def attention_neurons(self, seen: Seen) -> list[np.ndarray]:
        """Increases by layer, [T, n_heads, d_head]."""
        return [
            self._increase(seen, seen.into[layer][-1], self.head_writes(seen, layer))
            for layer in range(len(self.layers))
        ]

    def by_source(self, seen: Seen) -> np.ndarray:
        """Increases by what all heads of a layer write from a source position, [n_layers, T]."""
        return np.stack([
            self._increase(seen, seen.into[layer][-1], self.head_writes(seen, layer).sum((1, 2)))
            for layer in range(len(self.layers))
        ])  # fmt: skip

    # -- FFN neurons --------------------------------------------------------------------------------------------------

    def neuron_writes(self, seen: Seen, layer: int, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What each neuron writes at a position [d_mlp, d_model], and the whole MLP [d_model]."""
        weight, bias = self._linear(layer, self.names.down)
        n = seen.neurons[layer][position]
        total = weight @ n + bias
        each = n[:, None] * weight.T
        path = self.names.after_mlp
        wrote = self._normed(layer, path, total, total, True)
        return self._normed(layer, path, total, each, False) * self.names.factor, wrote * self.names.factor

    def neurons(self, seen: Seen) -> np.ndarray:
        """Increases [n_layers, d_mlp]."""
        found = []
        for layer in range(len(self.layers)):
            each, wrote = self.neuron_writes(seen, layer, -1)
            found.append(self._increase(seen, seen.out[layer][-1] - wrote, each))
        return np.stack(found)

    # -- query neurons ------------------------------------------------------------------------------------------------

    def attention_queries(self, seen: Seen, top: int) -> np.ndarray:
        """Query scores [n_layers, d_mlp] for the top attention neurons."""
        increases = np.stack(self.attention_neurons(seen))
        scores = np.zeros((len(self.layers), self.anatomy.d_mlp))
        for place in np.argsort(-increases, axis=None, kind="stable")[:top]:
            layer, t, head, coordinate = (int(i) for i in np.unravel_index(place, increases.shape))
            increase, key = increases[layer, t, head, coordinate], self.value_rows(layer)[0][head, coordinate]
            whole = float(self.values(seen, layer)[t, head, coordinate])
            for earlier in range(layer if increase > 0 else 0):
                each = self.neuron_writes(seen, earlier, t)[0]
                reads = self._normed(layer, self.names.norm, seen.into[layer][t], each, False)
                scores[earlier] += increase * (reads @ key).numpy() / whole
        return scores

    def neuron_queries(self, seen: Seen, top: int) -> np.ndarray:
        """Query scores [n_layers, d_mlp] for the top FFN neurons."""
        increases = self.neurons(seen)
        scores = np.zeros_like(increases)
        for place in np.argsort(-increases, axis=None, kind="stable")[:top]:
            layer, index = (int(i) for i in np.unravel_index(place, increases.shape))
            weight, bias = self._linear(layer, self.names.mlp_in)
            x = seen.mlp_reads[layer][-1]
            whole = float(weight[index] @ self._normed(layer, self.names.mlp_norm, x, x, True) + bias[index])
            for earlier in range(layer if increases[layer, index] > 0 else 0):
                each = self.neuron_writes(seen, earlier, -1)[0]
                reads = self._normed(layer, self.names.mlp_norm, x, each, False)
                scores[earlier] += increases[layer, index] * (reads @ weight[index]).numpy() / whole
        return scores

    # -- shares of what is read, and paths ----------------------------------------------------------------------------

    def attention_wrote(self, seen: Seen, layer: int, position: int) -> torch.Tensor:
        """What the whole attention writes at a position, [d_model]."""
        weight, bias = self._linear(layer, self.names.out)
        total = seen.heads[layer][position] @ weight.T + bias
        return self._normed(layer, self.names.after_attention, total, total, True) * self.names.factor

    def attention_shares(self, seen: Seen, layer: int, head: int, coordinate: int, position: int) -> dict[str, Any]:
        """Shares in an attention neuron's value: of the embedding, and of the attentions and MLPs before it."""
        key = self.value_rows(layer)[0][head, coordinate]
        whole = float(self.values(seen, layer)[position, head, coordinate])

        def share(part: torch.Tensor) -> float:
            return float(self._normed(layer, self.names.norm, seen.into[layer][position], part, False) @ key) / whole

        return self._shares(seen, layer, position, share)

    def neuron_shares(self, seen: Seen, layer: int, index: int, parallel: bool) -> dict[str, Any]:
        """Shares in an FFN neuron's pre-activation, with the attention of its own layer unless that is ``parallel``."""
        weight, bias = self._linear(layer, self.names.mlp_in)
        x, path = seen.mlp_reads[layer][-1], self.names.mlp_norm
        whole = float(weight[index] @ self._normed(layer, path, x, x, True) + bias[index])

        def share(part: torch.Tensor) -> float:
            return float(self._normed(layer, path, x, part, False) @ weight[index]) / whole

        found = self._shares(seen, layer, -1, share)
        own = 0.0 if parallel else share(self.attention_wrote(seen, layer, -1))
        return {**found, "attention": [*found["attention"], own]}

    def _shares(self, seen: Seen, layer: int, position: int, share: Callable[[torch.Tensor], float]) -> dict[str, Any]:
        return {
            "embedding": share(seen.into[0][position]),
            "attention": [share(self.attention_wrote(seen, earlier, position)) for earlier in range(layer)],
            "mlp": [share(self.neuron_writes(seen, earlier, position)[1]) for earlier in range(layer)],
        }

    def through_head(self, seen: Seen, neuron: tuple[int, int], layer: int, head: int) -> torch.Tensor:
        """What an FFN neuron writes at each position, as the head brings it to the last one, [T, d_model]."""
        weight, bias = self._linear(layer, self.names.out)
        rows = weight.T.reshape(self.anatomy.n_heads, self.anatomy.d_head, -1)[head]
        total = seen.heads[layer][-1] @ weight.T + bias
        found = []
        for t, x in enumerate(seen.into[layer]):
            wrote = self.neuron_writes(seen, neuron[0], t)[0][neuron[1]]
            value = self.value_rows(layer)[0][head] @ self._normed(layer, self.names.norm, x, wrote, False)
            write = seen.patterns[layer][head, t] * (value @ rows)
            found.append(self._normed(layer, self.names.after_attention, total, write, False) * self.names.factor)
        return torch.stack(found)
