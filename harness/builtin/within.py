"""An intervention that acts only where a unit's activation lies in a range: neurons may say one thing when they fire
hard and another, or nothing, when they hardly do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, field_validator

from harness.conditions.conditions import Selection
from harness.conditions.neuron_edits import RangedNeurons
from harness.conditions.units import Unit
from harness.errors import HarnessError
from harness.plugin.components import Intervention
from harness.plugin.parameters import AnyIntervention

if TYPE_CHECKING:
    from harness.conditions.conditions import Edit, Frozen
    from harness.engine.activation_summaries import ActivationStatistics
    from harness.model.model import Model

_BOUND = r"(?:q\d{1,2}(?:\.\d+)?|mean(?:[+-]\d+(?:\.\d+)?sd)?|-?\d+(?:\.\d+)?)"
_RANGE = re.compile(rf"(?:(?P<first>{_BOUND})(?P<up><))?activation(?:(?P<side>[<>])(?P<second>{_BOUND}))?")


class Within(Intervention[Unit, "ActivationStatistics"]):
    """Another intervention, where a unit's activation lies in a range, and nowhere else.

    Written within:of=zero,where=activation>q99. Bounds are numbers, quantiles of the unit's own activations over the
    reference positions (q99: of 99 percent), or distances from its mean (mean+2sd). Elsewhere the activation stays. At
    a bound the edit jumps: engines that round differently may disagree about an activation that lies on it to the last
    bit.
    """

    name = "within"
    one_number = True
    of: AnyIntervention = Field(description="the intervention, one on units of one number")
    where: str = Field(description="activation>q99, activation<0, q5<activation<q95, activation>mean+2sd ...")

    @field_validator("where")
    @classmethod
    def _is_a_range(cls, text: str) -> str:
        text = text.replace(" ", "")
        ends = _ends(text)
        if ends is None:
            raise ValueError(
                "expected a range such as activation>q99, activation<0 or q5<activation<q95; bounds are numbers, "
                "quantiles (q99), mean, mean+2sd"
            )
        low, high = ends
        if low and high:
            (form, first), (other, last) = _place(low), _place(high)
            if form == other and first >= last:
                raise ValueError(f"expected a lower bound below the upper one, got {low} and {high}")
        return text

    def title(self) -> str:
        return f"{self.of.title()} where {self.where}"

    def check(self, model: Model) -> None:
        if not self.of.one_number or self.of.positions != "all":
            why = f"{self.of.name} edits {self.of.site}"
            why = "positions are for within itself to say" if self.of.one_number else why
            raise HarnessError(f"intervention within: of must be an intervention on units of one number; {why}.")
        self.of.check(model)

    def freeze(self, model: Model) -> Frozen | None:
        return self.of.freeze(model)

    def prepare(self, selection: Selection) -> Self:
        return self.model_copy(update={"of": self.of.prepare(selection)})

    def edits(self, units: Sequence[Unit], statistics: ActivationStatistics) -> tuple[Edit, ...]:
        ranges = {unit: self._range(unit, statistics) for unit in units}
        return tuple(_ranged(edit, ranges) for edit in self.of.edits(units, self._statistics(statistics)))

    def _statistics(self, statistics: ActivationStatistics) -> Any:
        return statistics if self.of.needs_statistics else None

    def _range(self, unit: Unit, statistics: ActivationStatistics) -> tuple[float, float]:
        ends = _ends(self.where)
        assert ends is not None  # the validator saw to it
        low, high = (None if end is None else _bound(end, unit, statistics) for end in ends)
        return -np.inf if low is None else low, np.inf if high is None else high


def _ends(text: str) -> tuple[str | None, str | None] | None:
    """The lower and the upper bound of a range, as they are written; None of what is no range."""
    found = _RANGE.fullmatch(text)
    if found is None or not (found["first"] or found["second"]) or (found["first"] and found["side"] == ">"):
        return None
    if found["side"] == ">":
        return found["second"], None
    return found["first"], found["second"]


def _place(text: str) -> tuple[str, float]:
    """A bound among those of its form: of quantiles, numbers or deviations, which have an order of their own."""
    if text.startswith("q"):
        return "q", float(text[1:])
    if text.startswith("mean"):
        return "mean", float(text.removeprefix("mean").removesuffix("sd") or 0)
    return "", float(text)


def _bound(text: str, unit: Unit, statistics: ActivationStatistics) -> float:
    """The value of a bound of one unit."""
    form, number = _place(text)
    if form == "q":
        sample = statistics.sample[unit.layer][:, unit.index].astype(np.float64)
        return float(np.quantile(sample, number / 100))
    if form == "mean":
        mean, sd = (statistics.value(name, [unit])[0] for name in ("mean", "std"))
        return mean + number * sd
    return number


def _ranged(edit: Edit, ranges: dict[Unit, tuple[float, float]]) -> Edit:
    of = {(unit.layer, unit.index): ends for unit, ends in ranges.items()}
    low, high = zip(*(of[edit.layer, index] for index in edit.indices), strict=True)
    return RangedNeurons(edit, low, high)
