"""Ablations that hold neurons at a constant (PAPERS A and B): which constant, from which statistic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from harness.components import Intervention
from harness.conditions import SetNeurons

if TYPE_CHECKING:
    from harness.activations import ActivationStatistics
    from harness.conditions import Edit, Neuron


class _Constant(Intervention):
    """Sets every neuron to one statistic of its own activations, at every position."""

    statistic: ClassVar[str]

    def values(self, neurons: Sequence[Neuron], statistics: ActivationStatistics) -> list[float]:
        return statistics.value(self.statistic, neurons)

    def edits(self, neurons: Sequence[Neuron], statistics: ActivationStatistics | None) -> tuple[Edit, ...]:
        assert statistics is not None
        layers = sorted({neuron.layer for neuron in neurons})
        members = {layer: [neuron for neuron in neurons if neuron.layer == layer] for layer in layers}
        return tuple(
            SetNeurons(layer, tuple(x.index for x in chosen), tuple(self.values(chosen, statistics)))
            for layer, chosen in members.items()
        )


class Mean(_Constant):
    """Mean ablation: each neuron is held at its mean activation."""

    name = "mean"
    statistic = "mean"


class Median(_Constant):
    """Median ablation: each neuron is held at its median activation."""

    name = "median"
    statistic = "median"


class Mode(_Constant):
    """Mode ablation: each neuron is held at its most frequent activation (half-sample mode)."""

    name = "mode"
    statistic = "mode"


class _Sigma(_Constant):
    """A number of standard deviations from the mean, clamped to the range that was observed."""

    direction: ClassVar[int]
    sigmas: float = Field(3.0, gt=0, le=100, description="how many standard deviations")

    def values(self, neurons: Sequence[Neuron], statistics: ActivationStatistics) -> list[float]:
        columns = [statistics.value(name, neurons) for name in ("mean", "sd", "minimum", "maximum")]
        return [
            min(max(mean + self.direction * self.sigmas * sd, low), high)
            for mean, sd, low, high in zip(*columns, strict=True)
        ]


class MeanMinusSigma(_Sigma):
    """Each neuron is held at its mean - 3 sigma, but not below its observed minimum."""

    name = "mean_minus_sigma"
    direction = -1


class MeanPlusSigma(_Sigma):
    """Each neuron is held at its mean + 3 sigma, but not above its observed maximum."""

    name = "mean_plus_sigma"
    direction = 1


class Zero(_Constant):
    """Zero ablation: each neuron is held at 0."""

    name = "zero"
    needs_statistics = False

    def edits(self, neurons: Sequence[Neuron], statistics: ActivationStatistics | None) -> tuple[Edit, ...]:
        layers = sorted({neuron.layer for neuron in neurons})
        chosen = {layer: tuple(x.index for x in neurons if x.layer == layer) for layer in layers}
        return tuple(SetNeurons(layer, indices, (0.0,) * len(indices)) for layer, indices in chosen.items())
