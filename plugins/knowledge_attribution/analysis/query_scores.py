"""Query neurons: the earlier neurons that activate value neurons (Yu & Ananiadou 2024).

A value neuron j is active because of what it reads: with x the residual stream where it is read, d the denominator of
the norm on the way (held), and k its key with that norm's gain folded in (centred before a LayerNorm),

    pre-activation z_j = k . x / d + constant          FFN neuron: k from its input weights (of the gate), at the last
                                                       position; attention neuron: k from its row of the value
                                                       projection, at its source position, z_j its value

An earlier FFN neuron i that adds c_i to x, at the position where x is read, makes the share (k . c_i / d) / z_j of the
pre-activation. Its score is that share of the value neuron's log-probability increase, summed over the value neurons of
a prediction:

    query score_i = sum_j increase_j * (k_j . c_i / d_j) / z_j

The whole pre-activation, the normalisation, is with its constant (biases): the shares of all that writes into x, and of
the constant, sum to 1. Without biases (Llama) that is the authors' code, where d cancels. And as a value neuron's write
vanishes with its pre-activation, so does its increase: a score does not explode where z_j is near 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from harness.model import InputWeights, Norm, input_norm, read_in
from harness.plugin import HarnessError, Model

from .all_positions import Positions, of_equal_length, run_positions, value_vectors
from .attention_neurons import AttentionNeuron, Sources, sources, top_attention_neurons
from .head_outputs import TOLERANCE, Output
from .last_position import neuron_writes
from .log_probability_increase import finite, neuron_increases
from .top_k_by_bound import best_first, largest, neuron_bounds


@dataclass(frozen=True, eq=False)
class Value:
    """A value neuron of one prediction.

    Attributes:
        name: "3.17" or "L3H1.5". layer: where it reads. position: of what it reads. increase: in nats.
        pull: float32 [d_model] on the CPU, increase * k / (d z): its dot product with a write is the query score.
    """

    name: str
    layer: int
    position: int
    increase: float
    pull: torch.Tensor


@dataclass(frozen=True, eq=False)
class Queries:
    """Scores of one prediction: float32 [n_layers, d_mlp], and the value neurons that they are for."""

    row: int
    scores: np.ndarray
    values: list[Value]


@torch.no_grad()
def attention_queries(model: Model, prompts: Sequence[Sequence[int]], values: int, size: int) -> Iterator[Queries]:
    """Query scores for the ``values`` top attention neurons of each prediction, prompts of equal length together.

    Raises:
        HarnessError: the attention patterns or value vectors are not to be had, or are no linear function of the norm's
            output.
    """
    layers = range(model.anatomy.n_layers)
    outputs = [Output.of(model, layer) for layer in layers]
    keys = ValueKeys(model)
    for group in sources(model, outputs, prompts, size, keys.reads):
        tops = top_attention_neurons(model, outputs, group, layers, values)
        for p, (row, top) in enumerate(zip(group.rows, tops, strict=True)):
            pulls = [keys.value(group, p, neuron) for neuron in top if neuron.increase > 0]
            yield Queries(row, scores_of(model, group.seen, p, pulls), pulls)


@torch.no_grad()
def neuron_queries(model: Model, prompts: Sequence[Sequence[int]], values: int, size: int) -> Iterator[Queries]:
    """Query scores for the ``values`` top FFN value neurons of each prediction.

    Raises:
        HarnessError: a layer's input weights are not found.
    """
    layers, d_mlp = range(model.anatomy.n_layers), model.anatomy.d_mlp
    readings = [read_in(model, layer) for layer in layers]
    reads = [reading.norm.module or reading.projection for reading in readings]
    for rows in of_equal_length(prompts, size):
        seen = run_positions(model, [prompts[row] for row in rows], reads)
        bound = np.concatenate([neuron_bounds(model, seen.states, layer) for layer in layers], axis=1)
        for p, row in enumerate(rows):
            states = seen.states.of(p)

            def evaluate(some: np.ndarray, states=states) -> np.ndarray:  # type: ignore[no-untyped-def]
                found = np.empty(len(some))
                for layer in np.unique(some // d_mlp).tolist():
                    here = some // d_mlp == layer
                    found[here] = neuron_increases(model, states, layer, (some[here] % d_mlp).tolist())[0]
                return found

            increases = best_first(bound[p], values, evaluate)
            pulls = [
                neuron_value(readings[i // d_mlp], seen.inputs[reads[i // d_mlp]][p, -1], i % d_mlp, increases[i])
                for i in largest(increases, values)
                if increases[i] > 0
            ]
            yield Queries(row, scores_of(model, seen, p, pulls), pulls)


def neuron_value(reading: InputWeights, x: torch.Tensor, index: int, increase: float) -> Value:
    """An FFN value neuron whose MLP reads ``x`` [d_model] behind the norm."""
    pull, z = _pull(reading.norm, reading.w_in[index], float(reading.b_in[index]), x.cpu())
    return Value(f"{reading.layer}.{index}", reading.layer, -1, float(increase), _weighted(pull, increase, z))


class ValueKeys:
    """Rows of the value projections of all layers, and the norms before them.

    Attributes:
        reads: the modules whose inputs the keys are dotted with.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        n, d_model = model.anatomy.n_layers, model.anatomy.d_model
        self.norms = [input_norm(model, layer) for layer in range(n)]
        self.reads = [norm.module or model.attention(layer)[0] for layer, norm in enumerate(self.norms)]
        units = torch.cat([torch.zeros(1, d_model), torch.eye(d_model)])
        found = value_vectors(model, dict.fromkeys(range(n), units))
        self.bias = [found[layer][0].double().cpu() for layer in range(n)]
        self.rows = [(found[layer][1:].double().cpu() - self.bias[layer]).permute(1, 2, 0) for layer in range(n)]

    def value(self, group: Sources, p: int, neuron: AttentionNeuron) -> Value:
        """An attention neuron of prompt ``p`` of the group as a value neuron.

        Raises:
            HarnessError: its value is no linear function of what the norm puts out.
        """
        layer, at = neuron.layer, (neuron.head, neuron.coordinate)
        x = group.seen.inputs[self.reads[layer]][p, neuron.position].cpu()
        pull, z = _pull(self.norms[layer], self.rows[layer][at], float(self.bias[layer][at]), x)
        size = float(group.values[layer][p, neuron.position, neuron.head].abs().max())
        if not abs(z - neuron.value) <= TOLERANCE[self.model.dtype] * size:
            raise HarnessError(
                f"the values of layer {layer} of {self.model.name} are no linear function of what the norm before the "
                f"attention puts out ({neuron.name}: {neuron.value:.4g}, expected {z:.4g})."
            )
        return Value(neuron.name, layer, neuron.position, neuron.increase, _weighted(pull, neuron.increase, z))


def _pull(norm: Norm, key: torch.Tensor, bias: float, x: torch.Tensor) -> tuple[torch.Tensor, float]:
    """k / d [d_model], and the whole pre-activation, of a key that reads norm(x); float64 and x on the CPU."""
    folded = norm.fold(key) / norm.denominator(x).double()
    return folded, float(folded @ x.double() + norm.constant(key) + bias)


def _weighted(pull: torch.Tensor, increase: float, z: float) -> torch.Tensor:
    """increase / z * k / d; a value neuron that is exactly 0 raises nothing and has no query neurons."""
    return (pull * (increase / z if z else 0.0)).float()


def scores_of(model: Model, seen: Positions, p: int, values: Sequence[Value]) -> np.ndarray:
    """Sums of writes times pulls over the value neurons, of every neuron of the layers before them."""
    n_layers, d_mlp = model.anatomy.n_layers, model.anatomy.d_mlp
    scores = np.zeros((n_layers, d_mlp), np.float32)
    for layer in range(n_layers):
        later = [value for value in values if value.layer > layer]
        if later:
            neurons = seen.neurons[layer][p, [value.position for value in later]]
            directions, activations, _ = neuron_writes(model, layer, neurons)
            pulls = torch.stack([value.pull for value in later]).to(directions) @ directions.T
            scores[layer] = (pulls * activations).sum(0).cpu().numpy()
    return finite(scores, model)
