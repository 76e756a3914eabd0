"""Heads by their attention neurons: what the largest of each prediction add up to, where they read, what they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from harness.plugin import Model

from .attention_neurons import AttentionNeuron, source_increases, sources, top_attention_neurons
from .head_outputs import Output
from .last_position import run_prompts
from .promoted_tokens import top_tokens

LISTED = 10
"""Attention neurons that are recorded: of all predictions together, and of the first one."""

TOKENS = 5
"""Promoted and suppressed tokens of each."""


@dataclass
class _Tally:
    """What one coordinate of a head adds up to over predictions and source positions."""

    increase: float = 0.0
    coefficient: float = 0.0
    prompts: set[int] = field(default_factory=set)
    read: Counter[str] = field(default_factory=Counter)


@torch.no_grad()
def attention_levels(
    model: Model, prompts: Sequence[Sequence[int]], layers: Sequence[int], top: int, size: int
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[int, torch.Tensor]]:
    """Scores of the heads of some layers from the ``top`` attention neurons of each prompt.

    Returns:
        ``increase`` and ``neurons`` (how many of them, mean over prompts), float64 [len(layers) * n_heads]; what is
        recorded beside; and by layer the heads' mean writes [n_heads, d_model].
    """
    anatomy, texts, n = model.anatomy, model.token_texts, len(prompts)
    outputs = [Output.of(model, layer) for layer in range(anatomy.n_layers)]
    increase, count = (np.zeros((anatomy.n_layers, anatomy.n_heads)) for _ in range(2))
    writes = {layer: torch.zeros_like(outputs[layer].directions[:, 0]) for layer in layers}
    tallies: dict[tuple[int, int, int], _Tally] = {}
    example: dict[str, Any] = {}
    for group in sources(model, outputs, prompts, size):
        for layer in layers:
            total = group.coefficients[layer].sum((0, 1))
            writes[layer] += torch.einsum("he,hed->hd", total, outputs[layer].directions) / n
        for p, (row, found) in enumerate(
            zip(group.rows, top_attention_neurons(model, outputs, group, layers, top), strict=True)
        ):
            for neuron in found:
                increase[neuron.layer, neuron.head] += neuron.increase / n
                count[neuron.layer, neuron.head] += 1 / n
                tally = tallies.setdefault((neuron.layer, neuron.head, neuron.coordinate), _Tally())
                tally.increase += neuron.increase
                tally.coefficient += neuron.coefficient
                tally.prompts.add(row)
                tally.read[texts[prompts[row][neuron.position]]] += 1
            if row == 0:
                example = {
                    "tokens": [texts[token] for token in prompts[0]],
                    "target": texts[int(group.seen.states.target[p])],
                    "layers": list(layers),
                    "increases": source_increases(model, outputs, group, layers, p).tolist(),
                    "neurons": _example_rows(model, outputs, found[:LISTED], prompts[0]),
                }
    details = {
        "attention_neurons": _tally_rows(model, outputs, tallies, n),
        "example": example,
        "modules": _of_modules(model, prompts, size),
    }
    scores = {name: values[list(layers)].ravel() for name, values in (("increase", increase), ("neurons", count))}
    return scores, details, writes


def _of_modules(model: Model, prompts: Sequence[Sequence[int]], size: int) -> dict[str, list[float]]:
    from ..selectors.base import by_module

    return by_module(model, run_prompts(model, prompts, batch_size=size))


def _tally_rows(
    model: Model, outputs: Sequence[Output], tallies: dict[tuple[int, int, int], _Tally], n: int
) -> list[dict[str, Any]]:
    """Coordinates of heads, those with the largest mean increase first."""
    ranked = sorted(tallies, key=lambda key: (-tallies[key].increase, key))[:LISTED]
    said = _tokens(model, outputs, [(*key, tallies[key].coefficient) for key in ranked])
    return [
        {
            "neuron": f"L{layer}H{head}.{coordinate}",
            "increase": (tally := tallies[layer, head, coordinate]).increase / n,
            "share_of_prompts": len(tally.prompts) / n,
            "reads": [text for text, _ in sorted(tally.read.items(), key=lambda item: (-item[1], item[0]))[:3]],
            **tokens,
        }
        for (layer, head, coordinate), tokens in zip(ranked, said, strict=True)
    ]


def _example_rows(
    model: Model, outputs: Sequence[Output], neurons: Sequence[AttentionNeuron], prompt: Sequence[int]
) -> list[dict[str, Any]]:
    """The attention neurons of one prediction."""
    said = _tokens(model, outputs, [(x.layer, x.head, x.coordinate, x.coefficient) for x in neurons])
    return [
        {
            "neuron": neuron.name,
            "position": neuron.position,
            "token": model.token_texts[prompt[neuron.position]],
            "increase": neuron.increase,
            **tokens,
        }
        for neuron, tokens in zip(neurons, said, strict=True)
    ]


def _tokens(
    model: Model, outputs: Sequence[Output], neurons: Sequence[tuple[int, int, int, float]]
) -> list[dict[str, list[str]]]:
    """What (layer, head, coordinate, coefficient) promote and suppress: the opposite where the coefficient is
    negative."""
    writes = [outputs[layer].directions[head, j] * (-1.0 if m < 0 else 1.0) for layer, head, j, m in neurons]
    return top_tokens(model, torch.stack(writes), TOKENS)
