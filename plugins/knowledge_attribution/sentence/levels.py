"""Log-probability increases of one target by layer, head, FFN neuron, attention neuron and source position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from harness.plugin import Head, Model

from ..analysis.attention_neurons import AttentionNeuron, source_increases, top_attention_neurons
from ..analysis.head_outputs import head_increases, head_writes, module_increases
from ..analysis.last_position import mlp_writes
from ..analysis.log_probability_increase import neuron_increases, write_increases
from ..analysis.promoted_tokens import top_tokens
from ..analysis.top_k_by_bound import best_neurons, largest
from .names import AttentionPlace
from .reading import Sentence

TOKENS = 10
"""Promoted and suppressed tokens of each component."""


def by_layer(sentence: Sentence) -> pd.DataFrame:
    """``layer``, increase by its whole ``attention`` and its whole ``mlp``, nats."""
    found = np.concatenate([module_increases(sentence.model, sentence.states, layer) for layer in sentence.layers])
    return pd.DataFrame({"layer": list(sentence.layers), "attention": found[:, 0], "mlp": found[:, 1]})


def by_head(sentence: Sentence) -> pd.DataFrame:
    """Increase by every head, nats: a row a layer, a column a head."""
    found = np.concatenate([head_increases(sentence.model, sentence.states, layer) for layer in sentence.layers])
    return pd.DataFrame(found, pd.RangeIndex(len(found), name="layer"), pd.RangeIndex(found.shape[1], name="head"))


def by_source(sentence: Sentence) -> pd.DataFrame:
    """Increase by what the attention of every layer brings from each source position, nats: a row a layer, a column a
    position."""
    found = source_increases(sentence.model, sentence.outputs, sentence.group, sentence.layers, 0)
    return pd.DataFrame(found, pd.RangeIndex(len(found), name="layer"), pd.RangeIndex(found.shape[1], name="position"))


def pattern(sentence: Sentence, head: Head) -> np.ndarray:
    """What the last position attends to in a head, float32 [T]."""
    found: np.ndarray = sentence.group.patterns[head.layer][0, head.index].cpu().numpy()
    return found


def top_heads(sentence: Sentence, increases: pd.DataFrame, top: int) -> pd.DataFrame:
    """The heads with the largest ``increase``, where they ``attend`` most, and the tokens that they write."""
    values = increases.to_numpy()
    places = [divmod(row, values.shape[1]) for row in largest(values.ravel(), min(top, values.size))]
    heads = [Head(layer, index) for layer, index in places]
    attended = [int(pattern(sentence, head).argmax()) for head in heads]
    writes = [head_writes(sentence.model, sentence.states, head.layer)[0, head.index] for head in heads]
    return pd.DataFrame(
        {
            "head": [str(head) for head in heads],
            "increase": [float(values[place]) for place in places],
            "attends": attended,
            "token": [_text(sentence, position) for position in attended],
            "weight": [float(pattern(sentence, head).max()) for head in heads],
        }
    ).join(pushed(sentence.model, writes))


@dataclass(frozen=True)
class Firsts:
    """The value neurons with the largest increases, largest first.

    Attributes:
        neurons: (layer, index, increase) of FFN neurons. attention: attention neurons.
    """

    neurons: list[tuple[int, int, float]]
    attention: list[AttentionNeuron]

    @classmethod
    def of(cls, sentence: Sentence, n: int) -> Firsts:
        """The first ``n`` of each kind."""
        model, layers, d_mlp = sentence.model, list(sentence.layers), sentence.model.anatomy.d_mlp
        found = best_neurons(model, sentence.states, layers, n).increase
        neurons = [(*divmod(row, d_mlp), float(found[row])) for row in largest(found, n)]
        return cls(neurons, top_attention_neurons(model, list(sentence.outputs), sentence.group, layers, n)[0])


def neuron_table(sentence: Sentence, neurons: Sequence[tuple[int, int, float]]) -> pd.DataFrame:
    """FFN neurons with ``activation`` and ``increase``, the tokens that they write, and those that their keys ``read``:
    the tokens along whose rows of the unembedding the input weights point."""
    writes, keys, activations = [], [], []
    for layer, index, _ in neurons:
        found = mlp_writes(sentence.model, sentence.states, layer)
        writes.append(found.activations[0, index] * found.directions[index])
        activations.append(float(sentence.states.neurons[layer][0, index]))
        reading, _ = sentence.ffn_input(layer)
        keys.append(reading.norm.fold(reading.w_in[index]).to(writes[-1]))
    return pd.DataFrame(
        {
            "neuron": [f"{layer}.{index}" for layer, index, _ in neurons],
            "increase": [increase for *_, increase in neurons],
            "activation": activations,
        }
    ).join(pushed(sentence.model, writes, keys))


def attention_neuron_table(sentence: Sentence, neurons: Sequence[AttentionNeuron]) -> pd.DataFrame:
    """Attention neurons with the ``position`` and ``token`` that they read, ``increase``, and tokens as in
    :func:`neuron_table`; ``coefficient``: what their row of the output projection is multiplied with."""
    writes = [x.coefficient * sentence.outputs[x.layer].directions[x.head, x.coordinate] for x in neurons]
    keys = [
        sentence.keys.norms[x.layer].fold(sentence.keys.rows[x.layer][x.head, x.coordinate]).to(write)
        for x, write in zip(neurons, writes, strict=True)
    ]
    return pd.DataFrame(
        {
            "neuron": [x.name for x in neurons],
            "position": [x.position for x in neurons],
            "token": [_text(sentence, x.position) for x in neurons],
            "increase": [x.increase for x in neurons],
            "coefficient": [x.coefficient for x in neurons],
        }
    ).join(pushed(sentence.model, writes, keys))


def neuron_increase(sentence: Sentence, layer: int, index: int) -> float:
    """Increase by one FFN neuron, nats."""
    return float(neuron_increases(sentence.model, sentence.states, layer, [index])[0, 0])


def attention_neuron(sentence: Sentence, place: AttentionPlace) -> AttentionNeuron:
    """One attention neuron, where no position is given at that of its largest increase."""
    group, states, layer = sentence.group, sentence.states, place.layer
    coefficients = group.coefficients[layer][0, :, place.head, place.coordinate]
    writes = coefficients[:, None] * sentence.outputs[layer].directions[place.head, place.coordinate]
    given = (states.before[layer], writes[None], states.denominator, states.target)
    increases = write_increases(sentence.model, *given)[0]
    position = int(increases.argmax()) if place.position is None else place.position
    return AttentionNeuron(
        layer,
        place.head,
        place.coordinate,
        position,
        float(increases[position]),
        float(coefficients[position]),
        float(group.values[layer][0, position, place.head, place.coordinate]),
    )


def pushed(model: Model, writes: Sequence[torch.Tensor], keys: Sequence[torch.Tensor] | None = None) -> pd.DataFrame:
    """``promoted`` and ``suppressed``: lists of tokens of writes [d_model]; with keys [d_model], also ``reads``."""
    if not writes:
        return pd.DataFrame({name: [] for name in ("promoted", "suppressed", *(["reads"] if keys is not None else []))})
    found = pd.DataFrame(top_tokens(model, torch.stack(list(writes)), TOKENS))
    if keys is None:
        return found
    return found.assign(reads=[row["promoted"] for row in top_tokens(model, torch.stack(list(keys)), TOKENS)])


def _text(sentence: Sentence, position: int) -> str:
    return sentence.model.token_texts[sentence.tokens[position]]
