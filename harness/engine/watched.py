"""What the neurons that conditions are about do in the untouched model, where it predicts the first new token."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from harness.conditions.conditions import Neuron

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.model.model import Model


@dataclass(frozen=True)
class Watched:
    """Activations of some neurons, one of each at each prompt's last token.

    Attributes:
        neurons: which. values: float32 [n_prompts, len(neurons)].
    """

    neurons: tuple[Neuron, ...]
    values: Float32[np.ndarray, "n_prompts n_neurons"]

    def by_condition(self, conditions: Sequence[Condition]) -> Float32[np.ndarray, "n_conditions n_prompts k"]:
        """The activations of each condition's own neurons, in its order; NaN where it has fewer than another."""
        place = {neuron: column for column, neuron in enumerate(self.neurons)}
        k = max((len(condition.units) for condition in conditions), default=0)
        found = np.full((len(conditions), len(self.values), k), np.nan, np.float32)
        for row, condition in enumerate(conditions):
            own = [place[unit] for unit in condition.units if isinstance(unit, Neuron)]
            found[row, :, : len(own)] = self.values[:, own]
        return found


def neurons_of(conditions: Sequence[Condition]) -> tuple[Neuron, ...]:
    """The neurons that the conditions are about; none where some are about something else."""
    units = {unit for condition in conditions for unit in condition.units}
    neurons = [unit for unit in units if isinstance(unit, Neuron)]
    return tuple(sorted(neurons, key=lambda x: (x.layer, x.index))) if len(neurons) == len(units) else ()


@contextlib.contextmanager
def watching(model: Model, neurons: tuple[Neuron, ...], n: int) -> Iterator[Callable[[], Watched | None]]:
    """Within the block runs a pass of the untouched model whose first n rows are the prompts; then the function that is
    given has their activations, None where no neurons are to be watched."""
    layers = sorted({neuron.layer for neuron in neurons})
    if not layers:
        yield lambda: None
        return
    with model.capture_neurons(layers) as seen:

        def values() -> Watched:
            last = {layer: seen[layer][:n, -1].float().cpu().numpy() for layer in layers}
            return Watched(neurons, np.stack([last[x.layer][:, x.index] for x in neurons], axis=-1))

        yield values
