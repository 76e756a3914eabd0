"""Circuits: several interventions in one condition, each on a selection of its own.

::

    --selector   'circuit:steps=["entropy:top=3", "heads:heads=L2H1+L2H2"]'
    --intervention 'circuit:steps=[mean, "bos:positions=last"]'

Step i of the intervention edits what step i of the selector chooses, at its own positions. A control set has for each
step a control of that step's units: as many, drawn from the same layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, PrivateAttr

from harness.conditions.conditions import Selection
from harness.conditions.units import Unit
from harness.errors import HarnessError
from harness.files.wording import counted
from harness.plugin.components import Intervention, SelectionContext, Selector
from harness.plugin.parameters import AnyIntervention, AnySelector

if TYPE_CHECKING:
    from harness.conditions.conditions import Edit
    from harness.model.model import Model
    from harness.plugin.records import Figure, Frame, Prompt


class CircuitSelector(Selector):
    """What several selectors choose, one for each step of the intervention circuit; no unit twice."""

    name = "circuit"
    steps: tuple[AnySelector, ...] = Field(min_length=2, max_length=20, description="a selector for each step")

    def reads_prompts(self) -> bool:
        return any(step.reads_prompts() for step in self.steps)

    def has_seen(self, prompt: Prompt) -> bool:
        return any(step.has_seen(prompt) for step in self.steps)

    def check(self, model: Model) -> None:
        for step in self.steps:
            step.check(model)

    def select(self, context: SelectionContext) -> Selection:
        from harness.plugin import border
        from harness.statistics import derive_seed

        seeds = [derive_seed(context.seed, f"step {number}") for number in range(1, len(self.steps) + 1)]
        parts = tuple(
            border.select(step, replace(context, seed=seed)) for step, seed in zip(self.steps, seeds, strict=True)
        )
        taken: dict[Unit, int] = {}
        for number, part in enumerate(parts, 1):
            for unit in part.units:
                if unit in taken:
                    raise HarnessError(
                        f"selector circuit: step {number} ({self.steps[number - 1].name}) chooses {unit.word} {unit}, "
                        f"which step {taken[unit]} chooses, too: a unit is edited once in a condition."
                    )
                taken[unit] = number
        rules = [f"step {number}: {part.rule.rstrip('.')}" for number, part in enumerate(parts, 1)]
        return Selection(units=tuple(taken), rule="; ".join(rules), parts=parts)

    def figures(self, selection: Selection) -> tuple[Figure | Frame, ...]:
        """Those of the steps, under names of their own."""
        return tuple(
            _renamed(item, number)
            for number, (step, part) in enumerate(zip(self.steps, selection.parts, strict=True), 1)
            for item in step.figures(part)
        )


def _renamed(item: Figure | Frame, number: int) -> Figure | Frame:
    return replace(item, name=f"step{number}_{item.name}", title=f"Step {number}: {item.title}")


class CircuitIntervention(Intervention):
    """Several interventions in one condition: step i edits what step i of the selector circuit chooses, at its own
    positions."""

    name = "circuit"
    steps: tuple[AnyIntervention, ...] = Field(min_length=2, max_length=20, description="an intervention for each step")
    _sizes: tuple[int, ...] = PrivateAttr(default=())

    @classmethod
    def acts_on(cls, kind: type[Unit]) -> bool:
        return True  # each step says so of its own units

    def parts(self) -> tuple[Intervention, ...]:
        return tuple(self.steps)

    def title(self) -> str:
        return " and ".join(step.title() for step in self.steps)

    def check(self, model: Model) -> None:
        if self.positions != "all":
            raise HarnessError("intervention circuit: say at which tokens each step acts: positions is theirs.")
        for step in self.steps:
            step.check(model)
            if step.freeze(model) is not None:
                raise HarnessError(
                    f"intervention circuit: {step.name} freezes a part of the model, which is for one intervention of "
                    "the last layer alone: leave frozen out."
                )

    def prepare(self, selection: Selection) -> Self:
        """The steps, each for its own selection.

        Raises:
            HarnessError: the selector has not as many steps, or a step cannot edit what its selector chose.
        """
        if len(selection.parts) != len(self.steps):
            raise HarnessError(
                f"intervention circuit: it has {counted(len(self.steps), 'step')}, and the selector "
                f"{counted(len(selection.parts), 'step') if selection.parts else 'none'}: take the selector circuit "
                "with a selector for each step."
            )
        for number, (step, part) in enumerate(zip(self.steps, selection.parts, strict=True), 1):
            kind = type(part.units[0])
            if not step.acts_on(kind):
                raise HarnessError(
                    f"intervention circuit: step {number}, {step.name}, edits {step.site}, but its selector chose "
                    f"{kind.site}."
                )
        ready = [step.prepare(part) for step, part in zip(self.steps, selection.parts, strict=True)]
        prepared = self.model_copy(update={"steps": tuple(ready)})
        prepared._sizes = tuple(len(part.units) for part in selection.parts)
        return prepared

    def edits(self, units: Sequence[Unit], statistics: Sequence[Any] | None) -> tuple[Edit, ...]:
        """The steps' edits; ``units`` are those of the steps, one step after the other."""
        from harness.conditions.placed import Placed
        from harness.conditions.positions import Positions

        ends = np.cumsum([0, *self._sizes]).tolist()
        of = statistics or [None] * len(self.steps)
        return tuple(
            Placed(edit, Positions(step.positions))
            for step, known, (start, stop) in zip(self.steps, of, pairwise(ends), strict=True)
            for edit in step.edits(units[start:stop], known)
        )
