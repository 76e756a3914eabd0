"""Paths through one head: what earlier writes become behind its value and output projections (its OV matrix).

A write c into the residual stream at position t, which a head of a later layer reads, reaches the last position as

    pattern[t] * share * sum_e (k_e . c / d_t) W_O[e]         k_e: row e of the value projection, norm's gain folded in

with the norm's denominator d_t and the attention pattern held. Paths of all that the head reads, and what the constants
(biases) give, sum to what the head writes.
"""

from __future__ import annotations

import pandas as pd
import torch

from harness.plugin import HarnessError, Head, Neuron

from ..analysis.log_probability_increase import write_increases
from .levels import pattern, pushed
from .reading import Sentence


@torch.no_grad()
def through_head(sentence: Sentence, head: Head, writes: torch.Tensor) -> torch.Tensor:
    """What writes [T, d_model] at each position become at the last one, through the head alone, float32, likewise."""
    layer, group, norm = head.layer, sentence.group, sentence.keys.norms[head.layer]
    read = group.seen.inputs[sentence.keys.reads[layer]][0]
    keys = norm.fold(sentence.keys.rows[layer][head.index]).to(writes)
    values = (writes @ keys.T) / norm.denominator(read)[:, None]
    share = sentence.outputs[layer].share(sentence.model, sentence.states)
    weighted = values * group.patterns[layer][0, head.index, :, None] * share
    return weighted @ sentence.outputs[layer].directions[head.index]


@torch.no_grad()
def path_of(sentence: Sentence, neuron: Neuron, head: Head) -> pd.DataFrame:
    """A neuron's path through a head, by source position.

    Returns:
        ``position`` and its ``token``, the neuron's ``activation`` there, the head's ``attention`` to it, the
        ``increase`` by what arrives (nats, beside the residual stream that enters the head's layer), and the tokens
        that this promotes and suppresses.

    Raises:
        HarnessError: the head is not in a later layer.
    """
    if head.layer <= neuron.layer:
        raise HarnessError(f"path: {head} reads nothing of {neuron}; expected a head of a later layer.")
    directions, activations, _ = sentence.neurons(neuron.layer)
    arriving = through_head(sentence, head, activations[:, [neuron.index]] * directions[neuron.index])
    states = sentence.states
    given = (states.before[head.layer], arriving[None], states.denominator, states.target)
    texts = sentence.model.token_texts
    return pd.DataFrame(
        {
            "position": range(len(sentence.tokens)),
            "token": [texts[token] for token in sentence.tokens],
            "activation": sentence.group.seen.neurons[neuron.layer][0, :, neuron.index].cpu().numpy(),
            "attention": pattern(sentence, head),
            "increase": write_increases(sentence.model, *given)[0],
        }
    ).join(pushed(sentence.model, list(arriving)))
