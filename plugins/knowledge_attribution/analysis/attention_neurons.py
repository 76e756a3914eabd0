"""Attention neurons: coordinate e of head h at source position t, times its row of the output projection.

    head h at the last position writes  sum_t sum_e  pattern[h, t] value[t, h, e] W_O[h, e]

Each summand is an attention neuron (Yu & Ananiadou 2024), with the same log-probability increase as any other write,
beside the residual stream that enters the layer. There are T * n_heads * d_head of them in a layer, T the number of
positions, so that the largest are found by their bounds (:mod:`.bounds`); those that are evaluated are evaluated
exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from harness.plugin import Model

from .all_positions import Positions, check_values, last_patterns, of_equal_length, run_positions, value_vectors
from .head_outputs import Output
from .log_probability_increase import Lens, finite, write_increases
from .top_k_by_bound import best_first, largest, tangents


class AttentionNeuron(NamedTuple):
    """Coordinate of a head at a source position, with its log-probability increase in nats.

    ``coefficient``: what its row of the output projection is multiplied with; ``value``: the same without the weight of
    the attention pattern.
    """

    layer: int
    head: int
    coordinate: int
    position: int
    increase: float
    coefficient: float
    value: float

    @property
    def name(self) -> str:
        """``"L3H1.5"``: layer 3, head 1, coordinate 5."""
        return f"L{self.layer}H{self.head}.{self.coordinate}"


@dataclass(frozen=True, eq=False)
class Sources:
    """What the heads write from every source position, of P prompts of equal length T; float32, by layer.

    Attributes:
        rows: numbers of the prompts.
        seen: what the pass has left.
        values: value vectors [P, T, n_heads, d_head].
        patterns: what the last position attends to [P, n_heads, T].
        coefficients: the same times the attention pattern of the last position, and times the share that a norm after
            the attention leaves (:class:`.heads.Output`).
    """

    rows: list[int]
    seen: Positions
    values: list[torch.Tensor]
    patterns: list[torch.Tensor]
    coefficients: list[torch.Tensor]


def sources(
    model: Model,
    outputs: Sequence[Output],
    prompts: Sequence[Sequence[int]],
    size: int,
    modules: Sequence[torch.nn.Module] = (),
) -> Iterator[Sources]:
    """Value vectors and patterns of all prompts, in groups of equal length.

    Args:
        modules: whose inputs at every position are wanted, too.

    Raises:
        HarnessError: the model returns no attention patterns, or they and the values are not the heads' outputs.
    """
    n = model.anatomy.n_layers
    attentions = [model.attention(layer)[0] for layer in range(n)]
    for rows in of_equal_length(prompts, size):
        group = [prompts[row] for row in rows]
        seen = run_positions(model, group, [*attentions, *modules])
        read = {layer: seen.inputs[attentions[layer]].flatten(0, 1) for layer in range(n)}
        found = value_vectors(model, read)
        values = [found[layer].unflatten(0, (len(group), -1)) for layer in range(n)]
        coefficients, attended = [], last_patterns(model, group)
        for layer, pattern in enumerate(attended):
            weighted = values[layer] * pattern.transpose(1, 2)[..., None]
            check_values(model, layer, weighted, seen.states.heads[layer])
            share = outputs[layer].share(model, seen.states)
            coefficients.append(weighted * share[:, None, None, None])
        yield Sources(rows, seen, values, attended, coefficients)


def top_attention_neurons(
    model: Model, outputs: Sequence[Output], group: Sources, layers: Sequence[int], top: int
) -> list[list[AttentionNeuron]]:
    """For each prompt the ``top`` attention neurons of some layers, largest log-probability increase first."""
    lens, states = Lens(model), group.seen.states
    bounds = []
    for layer in layers:
        rows = outputs[layer].directions.flatten(0, 1)
        amounts = group.coefficients[layer].flatten(2)
        line = tangents(lens, states.before[layer], states.denominator, states.target, rows)
        bounds.append(finite(line.bound(amounts).cpu().numpy(), model))
    shape = (len(layers), *group.coefficients[0].shape[1:])  # layer, position, head, coordinate
    stacked = np.stack(bounds, axis=1).reshape(len(group.rows), -1)
    found = []
    for p, bound in enumerate(stacked):

        def evaluate(some: np.ndarray, p: int = p) -> np.ndarray:
            place, position, head, coordinate = np.unravel_index(some, shape)
            values = np.empty(len(some))
            for i in np.unique(place):
                here, layer = place == i, layers[i]
                where = (position[here], head[here], coordinate[here])
                writes = group.coefficients[layer][p][where][:, None] * outputs[layer].directions[where[1:]]
                given = (states.before[layer][p, None], writes[None], states.denominator[p, None])
                values[here] = write_increases(model, *given, states.target[p, None])[0]
            return values

        values = best_first(bound, top, evaluate)
        found.append([_neuron(group, layers, p, shape, row, values[row]) for row in largest(values, top)])
    return found


def _neuron(
    group: Sources, layers: Sequence[int], p: int, shape: tuple[int, ...], row: int, increase: float
) -> AttentionNeuron:
    place, position, head, coordinate = (int(i) for i in np.unravel_index(row, shape))
    layer, at = layers[place], (p, position, head, coordinate)
    coefficient, value = float(group.coefficients[layer][at]), float(group.values[layer][at])
    return AttentionNeuron(layer, head, coordinate, position, float(increase), coefficient, value)


def source_increases(
    model: Model, outputs: Sequence[Output], group: Sources, layers: Sequence[int], p: int
) -> np.ndarray:
    """Log-probability increase by what all heads of a layer write from each source position together, for prompt ``p``
    of the group; float32 [len(layers), T]."""
    states = group.seen.states
    found = []
    for layer in layers:
        writes = torch.einsum("the,hed->td", group.coefficients[layer][p], outputs[layer].directions)
        given = (states.before[layer][p, None], writes[None], states.denominator[p, None], states.target[p, None])
        found.append(write_increases(model, *given)[0])
    return np.stack(found)
