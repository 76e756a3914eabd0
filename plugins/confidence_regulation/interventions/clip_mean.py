"""Interventions on neurons (Stolfo et al. 2024, section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PrivateAttr

from harness.builtin.interventions import NeuronIntervention, Place, each_layer
from harness.conditions import ClampNeurons
from harness.plugin import HarnessError, Selection, Unit

if TYPE_CHECKING:
    from harness.plugin import ActivationStatistics, Edit


class ClipMean(NeuronIntervention["ActivationStatistics"]):
    """Clipped mean ablation: each activation is set to the neuron's mean where it exceeds it, or where it falls below.

    Stolfo et al. 2024, section 5: a neuron whose activation rises under induction is clipped from above, one whose
    activation falls from below. The mean is that of the task's reference positions (of induction tasks: the first
    copy). side=shift takes each neuron's direction from the selector's column "shift" (activation_shift measures it).
    to=minimum is the other value of the authors' code: from above, the neuron is held down at its least reference
    activation; from below, it is kept from falling under that.
    """

    name = "clip_mean"
    later: ClassVar[frozenset[str]] = frozenset({"to"})
    side: Literal["above", "below", "shift"] = Field(
        "above", description="which activations are set to the mean; shift: above where the neuron's shift is positive"
    )
    to: Literal["mean", "minimum"] = Field("mean", description="what they are set to")
    _shifts: Mapping[Unit, float] = PrivateAttr(default_factory=dict)

    def prepare(self, selection: Selection) -> Self:
        """Take in the shifts that the selector measured.

        Raises:
            HarnessError: side=shift, and it measured none.
        """
        if self.side != "shift":
            return self
        if "shift" not in selection.scores:
            raise HarnessError(
                "clip_mean: side=shift needs a selector that measures shifts (activation_shift, or activation_shift:"
                "keep=... for another selector's choice); this one does not: use side=above or side=below."
            )
        prepared = self.model_copy()
        shifts = np.asarray(selection.scores["shift"], dtype=float).tolist()
        prepared._shifts = dict(zip(selection.candidates, shifts, strict=True))
        return prepared

    def _above(self, unit: Unit) -> bool:
        if self.side != "shift":
            return self.side == "above"
        if unit not in self._shifts:
            raise HarnessError(
                f"clip_mean: the selector measured no shift of {unit.word} {unit}; use side=above or below."
            )
        return self._shifts[unit] > 0

    def edits(self, units: Sequence[Unit], statistics: ActivationStatistics) -> tuple[Edit, ...]:
        def clamp(place: Place, some: list[Unit]) -> Edit:
            layer, indices, where = place
            values = statistics.value(self.to, some)
            above = [self._above(unit) for unit in some]
            low = tuple(-np.inf if up else value for up, value in zip(above, values, strict=True))
            high = tuple(value if up else np.inf for up, value in zip(above, values, strict=True))
            return ClampNeurons(layer, indices, low, high, where)

        return each_layer(units, clamp)
