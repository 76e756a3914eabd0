"""Conditions from the names of neurons: held at zero, at their mean, at any value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.conditions.conditions import Condition, SetNeurons
from harness.conditions.units import Neuron, by_layer
from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.engine.activation_summaries import ActivationStatistics

Neurons = str | Neuron | Sequence[str | Neuron]
"""One or several, as objects or by name: ``"11.2378"``."""


def zero(neurons: Neurons) -> Condition:
    """The condition in which these neurons are zero at every position.

    Raises:
        HarnessError: a text is not the name of a neuron, or none is given.
    """
    chosen = named(neurons)
    return _held("zero {}", chosen, [0.0] * len(chosen))


def mean(neurons: Neurons, statistics: ActivationStatistics) -> Condition:
    """The condition in which each of these neurons has its mean activation at every position.

    Args:
        statistics: over texts of one's choice, of the neurons' layers: ``model.statistics(texts, layer)``.

    Raises:
        HarnessError: as of :func:`zero`; or there are no statistics of a layer.
    """
    chosen = named(neurons)
    return _held("mean {}", chosen, statistics.value("mean", chosen))


def hold(neurons: Neurons, value: float) -> Condition:
    """The condition in which these neurons have this value at every position.

    Raises:
        HarnessError: as of :func:`zero`.
    """
    chosen = named(neurons)
    return _held(f"{{}} = {value:g}", chosen, [value] * len(chosen))


def named(neurons: Neurons) -> list[Neuron]:
    """The neurons that are given, in their order.

    Raises:
        HarnessError: a text is not the name of one, or there are none.
    """
    several = [neurons] if isinstance(neurons, str | Neuron) else neurons
    if not several:
        raise HarnessError("no neuron is named: give one or more, for example 11.2378.")
    return [unit if isinstance(unit, Neuron) else Neuron.parse(unit) for unit in several]


def _held(name: str, neurons: Sequence[Neuron], values: Sequence[float]) -> Condition:
    """Neurons at their values, an edit for each layer; ``name`` has {} where the neurons' names go."""
    value = dict(zip(neurons, values, strict=True))
    edits = tuple(
        SetNeurons(layer, tuple(indices), tuple(value[Neuron(layer, index)] for index in indices))
        for layer, indices in by_layer(neurons).items()
    )
    return Condition(name.format(", ".join(map(str, neurons))), edits, units=tuple(neurons))
