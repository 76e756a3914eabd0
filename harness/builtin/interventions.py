"""Interventions that belong to no paper: neurons, or other units whose activation is one number, are held at a
constant, scaled, exchanged, made noisy; none at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from harness.conditions.conditions import Frozen, Selection, SetNeurons
from harness.conditions.neuron_edits import ExchangeNeurons, ScaleNeurons, exchange
from harness.conditions.units import Site, Unit
from harness.plugin.components import Intervention, StatisticsT
from harness.plugin.parameters import AnyCorpus, CountsPath

if TYPE_CHECKING:
    from harness.conditions.conditions import Edit
    from harness.engine.activation_summaries import ActivationStatistics
    from harness.model.model import Model
    from harness.plugin.records import Figure


class Nothing(Intervention[Unit, None]):
    """Edits nothing; what tasks that only look at neurons run under."""

    name = "none"
    needs_statistics = False

    def edits(self, units: Sequence[Unit], statistics: None) -> tuple[Edit, ...]:
        return ()


Place = tuple[int, tuple[int, ...], Site]
"""Of the units of one layer and site: layer, indices, site."""


def each_layer(units: Sequence[Unit], edit: Callable[[Place, list[Unit]], Edit]) -> tuple[Edit, ...]:
    """``edit((layer, indices, site), the units there)`` for every layer, ascending."""
    made = []
    for layer in sorted({unit.layer for unit in units}):
        some = [unit for unit in units if unit.layer == layer]
        made.append(edit((layer, tuple(unit.index for unit in some), some[0].where), some))
    return tuple(made)


def held(place: Place, values: Sequence[float]) -> Edit:
    """Units of one layer at their values."""
    layer, indices, where = place
    return SetNeurons(layer, indices, tuple(values), where)


class NeuronIntervention(Intervention[Unit, StatisticsT]):
    """Base of the interventions on neurons and other units of one number: any of them may leave the final norm, or the
    component of the logits along the token frequencies, as in the untouched model (direct effects, Stolfo et al. 2024,
    eq. 6 and 8)."""

    one_number = True

    unigram: CountsPath = Field(None, description="frozen=unigram: file of token counts (.npy, or harness unigrams)")
    corpus: AnyCorpus | None = Field(None, description="frozen=unigram without a file: count the tokens of this corpus")
    frozen: Literal["final_norm", "unigram"] | None = Field(
        None,
        description="what keeps the untouched model's value (direct effects; last layer only): the final norm's "
        "denominator, or the logits' component along log p_freq",
    )

    @field_validator("frozen")
    @classmethod
    def _needs_counts(cls, frozen: str | None, info: ValidationInfo) -> str | None:
        given = info.data.get("unigram") is not None or info.data.get("corpus") is not None
        if frozen == "unigram" and not given:
            raise ValueError(
                "unigram needs token counts: give unigram=FILE, or a corpus to count, corpus=text:path=FILE"
            )
        if frozen != "unigram" and given:
            raise ValueError("token counts (unigram, corpus) are given, which only frozen=unigram uses")
        return frozen

    def check(self, model: Model) -> None:
        if self.unigram is not None:
            from harness.data import load_unigrams

            load_unigrams(self.unigram, model)

    def freeze(self, model: Model) -> Frozen | None:
        """DE_LN: logits of W_U LN(x) with the untouched denominator; DE_freq: l + ((l0 - l) . v) v / ||v||^2."""
        if self.frozen is None:
            return None
        if self.frozen == "final_norm":
            return Frozen("final_norm")
        from harness.data import load_unigrams, unigrams

        if self.unigram is not None:
            return Frozen("unigram", load_unigrams(self.unigram, model).probabilities)
        assert self.corpus is not None
        return Frozen("unigram", unigrams(model, None, self.corpus).probabilities)


class _Constant(NeuronIntervention["ActivationStatistics"]):
    """Sets every unit to one statistic of its own activations, at every position."""

    statistic: ClassVar[str]

    def title(self) -> str:
        return f"{self.name} ablation"

    def values(self, units: Sequence[Unit], statistics: ActivationStatistics) -> list[float]:
        return statistics.value(self.statistic, units)

    def edits(self, units: Sequence[Unit], statistics: ActivationStatistics) -> tuple[Edit, ...]:
        return each_layer(units, lambda place, some: held(place, self.values(some, statistics)))

    def figures(self, selection: Selection, statistics: ActivationStatistics) -> tuple[Figure, ...]:
        """The selected units' activations, with the value of every constant ablation marked."""
        from harness.builtin.activation_figures import activation_values

        units = selection.units
        samples = np.stack([statistics.sample[unit.layer][:, unit.index] for unit in units])
        kinds: tuple[type[_Constant], ...] = (Mean, Median, Mode, MeanMinusSigma, MeanPlusSigma)
        others = [cls.model_validate({}) for cls in kinds]
        values = {x.name: (self if x.name == self.name else x).values(units, statistics) for x in others}
        return (activation_values([str(unit) for unit in units], samples, values, self.name),)


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

    def values(self, units: Sequence[Unit], statistics: ActivationStatistics) -> list[float]:
        columns = [statistics.value(name, units) for name in ("mean", "std", "minimum", "maximum")]
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


class Zero(NeuronIntervention[None]):
    """Zero ablation: each neuron is held at 0."""

    name = "zero"
    needs_statistics = False

    def title(self) -> str:
        return "zero ablation"

    def edits(self, units: Sequence[Unit], statistics: None) -> tuple[Edit, ...]:
        return each_layer(units, lambda place, some: held(place, [0.0] * len(some)))


class Scale(NeuronIntervention[None]):
    """Each activation is multiplied by a factor: 0 ablates, 1 changes nothing, more amplifies, less than 0 reverses.

    A list of interventions in a registry's run is a sweep: intervention: [{name: scale, factor: 0}, ...].
    """

    name = "scale"
    needs_statistics = False
    factor: float = Field(allow_inf_nan=False, description="what activations are multiplied by")

    def edits(self, units: Sequence[Unit], statistics: None) -> tuple[Edit, ...]:
        def scaled(place: Place, some: list[Unit]) -> Edit:
            layer, indices, where = place
            return ScaleNeurons(layer, indices, self.factor, where)

        return each_layer(units, scaled)


class Resample(NeuronIntervention["ActivationStatistics"]):
    """Resampling ablation: each activation is replaced by another one of the neuron's own distribution.

    Which one is a fixed function of the activation: 64 intervals of equal probability are exchanged in a random order,
    drawn with the seed for each neuron. The neuron keeps its distribution (mean, variance, range, sparsity), but no
    longer says of a token what it said. Unlike a constant, this cannot move the model to activations it never sees.
    """

    name = "resample"
    seed: int = Field(0, ge=0, description="of the random orders")

    def edits(self, units: Sequence[Unit], statistics: ActivationStatistics) -> tuple[Edit, ...]:
        def table(unit: Unit) -> tuple[np.ndarray, np.ndarray]:
            rng = np.random.default_rng([self.seed, unit.layer, unit.index])
            return exchange(statistics.sample[unit.layer][:, unit.index], rng)

        def exchanged(place: Place, some: list[Unit]) -> Edit:
            layer, indices, where = place
            return ExchangeNeurons.of(layer, indices, [table(unit) for unit in some], where)

        return each_layer(units, exchanged)


class Noise(Intervention[Unit, "ActivationStatistics"]):
    """Noise: a normal random number is added to each activation, in units of the neuron's own standard deviation.

    The number follows from the seed, the neuron and the activation (a hash), not from a generator: the same run gives
    the same numbers in every engine, batch and repetition, as edits have to. Equal activations of a neuron so get equal
    noise, within a run and between runs of one seed; activations that lie 1/64 of a standard deviation apart, or
    more, get independent noise. Repeat with other seeds to see what one draw is worth.
    """

    name = "noise"
    one_number = True
    sigma: float = Field(1.0, gt=0, le=100, description="size, in standard deviations of the neuron's activation")
    seed: int = Field(0, ge=0, lt=2**63, description="of the noise")

    def edits(self, units: Sequence[Unit], statistics: ActivationStatistics) -> tuple[Edit, ...]:
        from harness.conditions.noise import CELLS, AddNoise

        def noisy(place: Place, some: list[Unit]) -> Edit:
            layer, indices, where = place
            sd = statistics.value("std", some)
            size = tuple(self.sigma * x for x in sd)
            cell = tuple(x / CELLS if x > 0 else 1.0 for x in sd)  # a constant unit stays as it is
            return AddNoise(layer, indices, size, cell, self.seed, where)

        return each_layer(units, noisy)
