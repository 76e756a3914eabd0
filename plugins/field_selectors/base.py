"""What the selectors of the field share: which layers, how many, and a selection from scores of all neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from harness.plugin import (
    AnyLayers,
    HarnessError,
    Neuron,
    Selection,
    SelectionContext,
    Selector,
    agree,
    counted,
    layers_in,
)

if TYPE_CHECKING:
    from harness.plugin import End, Model


class FieldSelector(Selector):
    """Base: neurons of some layers, ranked by a score."""

    site = "neurons"
    top: int = Field(10, ge=1, description="number of neurons")
    layer: AnyLayers | None = Field(
        None, description="one layer, negative counts from the last, or several (8-12); default: all layers"
    )

    def check(self, model: Model) -> None:
        available = len(self.layers(model)) * model.anatomy.d_mlp
        if self.top > available:
            raise HarnessError(
                f"selector {self.name}: top={counted(self.top, 'neuron')} were asked for, but there are only "
                f"{available}."
            )

    def layers(self, model: Model) -> list[int]:
        """The layers that are looked at, ascending."""
        n = model.anatomy.n_layers
        return list(range(n)) if self.layer is None else layers_in(self.layer, n, f"selector {self.name}")

    def candidates(self, model: Model) -> tuple[Neuron, ...]:
        """All neurons of the layers: what rows of scores are of."""
        return tuple(Neuron(layer, i) for layer in self.layers(model) for i in range(model.anatomy.d_mlp))

    def chosen(
        self,
        model: Model,
        order: Sequence[np.ndarray],
        scores: Mapping[str, np.ndarray],
        rule: str,
        special: Mapping[str, End],
        details: Mapping[str, Any],
        among: np.ndarray | None = None,
    ) -> Selection:
        """The ``top`` first candidates.

        Args:
            order: columns [n] by which candidates are sorted, ascending; ties go to the next column, then to the
                earlier neuron.
            among: bool [n], candidates that may be chosen; default: all.

        Raises:
            HarnessError: none may be chosen.
        """
        units = self.candidates(model)
        rows = np.lexsort([np.arange(len(units)), *reversed(order)])
        rows = rows if among is None else rows[among[rows]]
        if len(rows) == 0:
            raise HarnessError(f"selector {self.name}: no neuron passes its thresholds: loosen them.")
        return Selection(
            units=tuple(units[int(row)] for row in rows[: self.top]),
            rule=f"{self.scope(model)}: {rule}",
            candidates=units,
            scores=scores,
            special=special,
            details=details,
        )

    def scope(self, model: Model) -> str:
        """The layers in words."""
        layers = self.layers(model)
        if len(layers) == 1:
            return f"layer {layers[0]}"
        if layers == list(range(layers[0], layers[-1] + 1)):
            return f"layers {layers[0]} to {layers[-1]}"
        return f"layers {', '.join(map(str, layers))}"


def drawn(context: SelectionContext, most: int, owner: str) -> tuple[list[Sequence[int]], str]:
    """Up to ``most`` of the prompts, drawn by the seed, in their order; and what they are, in words.

    Raises:
        HarnessError: the task has no prompts.
    """
    n = len(context.prompts)
    if n == 0:
        raise HarnessError(f"selector {owner}: the task has no prompts to look at.")
    rows = np.sort(np.random.default_rng(context.seed).permutation(n)[:most]).tolist()
    whose = (
        f"{counted(n, 'prompt')} that {agree(n, 'is', 'are')} held out for selectors"
        if context.held_out
        else f"the task's own {counted(n, 'prompt')}, on which the run is evaluated, too"
    )
    return [context.prompts[row] for row in rows], f"{len(rows)} of {whose}"
