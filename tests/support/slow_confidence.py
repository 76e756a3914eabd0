"""Stolfo et al. 2024 once more: plain PyTorch hooks, one pass for every condition, float64, nothing of ours.

Knows the module names of GPT-2, GPT-NeoX and Llama, and their two norms. It is slow, and short enough to be read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Change = Callable[[torch.Tensor], torch.Tensor]
"""Takes the activations [pos, d_mlp] of one layer, returns new ones."""


@dataclass(frozen=True)
class Pass:
    """One pass over one sequence: final residual [pos, d], logits [pos, V], activations of every layer [pos, d_mlp]."""

    residual: np.ndarray
    logits: np.ndarray
    neurons: list[np.ndarray]


class Slow:
    """A float64 copy of a GPT-2, GPT-NeoX or Llama."""

    def __init__(self, hf: Any) -> None:
        self.hf = copy.deepcopy(hf).double().eval()
        name = next(x for x in ("transformer", "gpt_neox", "model") if hasattr(self.hf, x))
        body, self.centred = getattr(self.hf, name), name != "model"
        layers = body.h if name == "transformer" else body.layers
        down = {"transformer": "c_proj", "gpt_neox": "dense_4h_to_h", "model": "down_proj"}[name]
        self.down = [getattr(layer.mlp, down) for layer in layers]
        self.norm = getattr(body, {"transformer": "ln_f", "gpt_neox": "final_layer_norm", "model": "norm"}[name])
        self.gain = self.norm.weight.detach().numpy()
        self.bias = self.norm.bias.detach().numpy() if self.centred else np.zeros(len(self.gain))
        self.eps = self.norm.eps if self.centred else self.norm.variance_epsilon
        self.W_U = self.hf.get_output_embeddings().weight.detach().numpy()

    def run(self, tokens: Sequence[int], changes: dict[int, Change] | None = None) -> Pass:
        """A pass with the activations of some layers changed."""
        neurons: list[Any] = [None] * len(self.down)
        residual: list[torch.Tensor] = []

        def hook(layer: int) -> Callable[..., Any]:
            def before(_module: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
                new = args[0][0]
                if changes and layer in changes:
                    new = changes[layer](new.clone())
                neurons[layer] = new.numpy()
                return (new[None],)

            return before

        handles = [module.register_forward_pre_hook(hook(i)) for i, module in enumerate(self.down)]
        handles.append(self.norm.register_forward_pre_hook(lambda _module, args: residual.append(args[0][0])))
        with torch.no_grad():
            self.hf(torch.tensor([list(tokens)]))
        for handle in handles:
            handle.remove()
        x = residual[0].numpy()
        return Pass(x, self.logits(x), neurons)

    def denominator(self, x: np.ndarray) -> np.ndarray:
        z = x - x.mean(-1, keepdims=True) if self.centred else x
        return np.asarray(np.sqrt((z**2).mean(-1, keepdims=True) + self.eps))

    def logits(self, x: np.ndarray, denominator: np.ndarray | None = None) -> np.ndarray:
        z = x - x.mean(-1, keepdims=True) if self.centred else x
        return (
            (z / (self.denominator(x) if denominator is None else denominator)) * self.gain + self.bias
        ) @ self.W_U.T

    def means(
        self, sequences: Sequence[Sequence[int]], layer: int, spans: Sequence[tuple[int, int]] | None = None
    ) -> np.ndarray:
        """Mean activations [d_mlp] over the positions start to stop of each sequence."""
        seen = [self.run(tokens).neurons[layer] for tokens in sequences]
        spans = spans or [(0, len(tokens)) for tokens in sequences]
        parts = [rows[start:stop] for rows, (start, stop) in zip(seen, spans, strict=True)]
        return np.asarray(np.concatenate(parts).mean(0))


def held(neurons: Sequence[int], values: np.ndarray) -> Change:
    """Neurons held at values [len(neurons)]."""

    def change(activations: torch.Tensor) -> torch.Tensor:
        for neuron, value in zip(neurons, values, strict=True):
            activations[:, neuron] = float(value)
        return activations

    return change


def clipped(neurons: Sequence[int], values: np.ndarray, start: int) -> Change:
    """Neurons clipped from above to values [len(neurons)], from position ``start`` on."""

    def change(activations: torch.Tensor) -> torch.Tensor:
        for neuron, value in zip(neurons, values, strict=True):
            for position in range(start, len(activations)):
                activations[position, neuron] = min(float(activations[position, neuron]), float(value))
        return activations

    return change


def log_softmax(logits: np.ndarray) -> np.ndarray:
    top = logits.max(-1, keepdims=True)
    return np.asarray(logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True)))


def entropy(log_p: np.ndarray) -> np.ndarray:
    return np.asarray(-(np.exp(log_p) * log_p).sum(-1))


def kept(tokens: Sequence[int], dropped: set[int]) -> list[int]:
    """Positions whose predictions count: not 0, 1, 2 or the last; not at, nor just before, a token of ``dropped``."""
    return [p for p in range(3, len(tokens) - 1) if tokens[p] not in dropped and tokens[p + 1] not in dropped]


@dataclass(frozen=True)
class Effects:
    """Of one condition, by counted token [T]: losses and log-probabilities before and after, and with parts frozen."""

    loss: np.ndarray
    loss_after: np.ndarray
    loss_norm: np.ndarray
    loss_frequency: np.ndarray
    before: np.ndarray
    after: np.ndarray
    target: np.ndarray

    @property
    def total(self) -> float:
        return float(np.abs(self.loss_after - self.loss).mean())

    @property
    def direct_norm(self) -> float:
        return float(np.abs(self.loss_norm - self.loss).mean())

    @property
    def direct_frequency(self) -> float:
        return float(np.abs(self.loss_frequency - self.loss).mean())

    @property
    def entropy_change(self) -> float:
        return float((entropy(self.after) - entropy(self.before)).mean())

    @property
    def changed(self) -> float:
        return float((self.before.argmax(-1) != self.after.argmax(-1)).mean())

    def reciprocal_rank(self, log_p: np.ndarray) -> float:
        """1 / how many tokens are at least as likely as the right one."""
        return float(np.mean([1 / (row >= row[t]).sum() for row, t in zip(log_p, self.target, strict=True)]))

    def kl_unigram(self, log_p: np.ndarray, p_freq: np.ndarray) -> np.ndarray:
        """KL(P_freq || P_model) [T]."""
        return np.asarray((p_freq * (np.log(p_freq) - log_p)).sum(-1))


def effects(
    slow: Slow, sequences: Sequence[Sequence[int]], dropped: set[int], changes: dict[int, Change], v: np.ndarray
) -> Effects:
    """What ``changes`` of the last layer do to every counted prediction."""
    rows: list[list[np.ndarray]] = [[] for _ in range(7)]
    for tokens in sequences:
        here = kept(tokens, dropped)
        target = np.array([tokens[p + 1] for p in here], dtype=int)
        before, after = slow.run(tokens), slow.run(tokens, changes)
        norm = slow.logits(after.residual, slow.denominator(before.residual))
        back = ((before.logits - after.logits) @ v / (v @ v))[:, None] * v
        found = [log_softmax(x[here]) for x in (before.logits, after.logits, norm, after.logits + back)]
        losses = [-x[np.arange(len(here)), target] for x in found]
        for row, array in zip(rows, (*losses, found[0], found[1], target), strict=True):
            row.append(array)
    return Effects(*(np.concatenate(row) for row in rows))


# -- calibration -------------------------------------------------------------------------------------------------------


def calibration_error(confidence: Sequence[float], right: Sequence[bool], bins: int) -> float:
    """Expected calibration error: share of a bin times its |accuracy - mean confidence|, over equal bins."""
    total = 0.0
    for b in range(bins):
        inside = [i for i, c in enumerate(confidence) if b / bins <= c < (b + 1) / bins or (b == bins - 1 and c >= 1)]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - sum(confidence[i] for i in inside) / len(inside))
    return total


def area(confidence: Sequence[float], right: Sequence[bool], bins: int | None = None) -> float:
    """AUROC: among all pairs of a right and a wrong prediction, those where the right one is more confident (half of
    those that are equal, or in one bin)."""
    level = [c if bins is None else min(int(c * bins), bins - 1) for c in confidence]
    won, pairs = 0.0, 0
    for i, a in enumerate(right):
        for j, b in enumerate(right):
            if a and not b:
                pairs += 1
                won += 1.0 if level[i] > level[j] else 0.5 if level[i] == level[j] else 0.0
    return won / pairs


# -- repeats -----------------------------------------------------------------------------------------------------------


def repeated(tokens: Sequence[int], n: int) -> dict[str, list[tuple[int, int]]]:
    """Places of the n-grams that occur exactly twice (by comparing all places), by the successive filters."""
    found: dict[str, list[tuple[int, int]]] = {"repeat": [], "distinct": [], "apart": []}
    last = len(tokens) - n
    for a in range(last + 1):
        gram = list(tokens[a : a + n])
        places = [b for b in range(last + 1) if list(tokens[b : b + n]) == gram]
        if len(places) != 2 or places[0] != a or places[1] + n + 1 >= len(tokens):
            continue
        pair = (a, places[1])
        found["repeat"].append(pair)
        if all(gram.count(token) == 1 for token in gram):
            found["distinct"].append(pair)
            if places[1] - (a + n) >= 1:
                found["apart"].append(pair)
    return found
