"""What the units that conditions are about do in the untouched model, where it predicts the first new token."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from harness.conditions.units import Unit

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.model.model import Model


@dataclass(frozen=True)
class Watched:
    """Activations of some units, one number of each at each prompt's last token.

    Attributes:
        units: which. values: float32 [n_prompts, len(units)].
    """

    units: tuple[Unit, ...]
    values: Float32[np.ndarray, "n_prompts n_units"]

    def by_condition(self, conditions: Sequence[Condition]) -> Float32[np.ndarray, "n_conditions n_prompts k"]:
        """The activations of each condition's own units, in its order; NaN where it has fewer than another."""
        place = {unit: column for column, unit in enumerate(self.units)}
        k = max((len(condition.units) for condition in conditions), default=0)
        found = np.full((len(conditions), len(self.values), k), np.nan, np.float32)
        for row, condition in enumerate(conditions):
            own = [place[unit] for unit in condition.units]
            found[row, :, : len(own)] = self.values[:, own]
        return found


def watched_units(conditions: Sequence[Condition]) -> tuple[Unit, ...]:
    """The units that the conditions are about; none where some are of another kind, or have more than one number."""
    units = {unit for condition in conditions for unit in condition.units}
    alike = len({unit.where for unit in units}) == 1 and all(unit.one_number for unit in units)
    return tuple(sorted(units, key=lambda x: (x.layer, x.index))) if alike else ()


@contextlib.contextmanager
def watching(model: Model, units: tuple[Unit, ...], n: int) -> Iterator[Callable[[], Watched | None]]:
    """Within the block runs a pass of the untouched model whose first n rows are the prompts; then the function that is
    given has their activations, None where no units are to be watched."""
    layers = sorted({unit.layer for unit in units})
    if not layers:
        yield lambda: None
        return
    with units[0].where.capture(model, layers) as seen:

        def values() -> Watched:
            last = {layer: seen[layer][:n, -1].float().cpu().numpy() for layer in layers}
            return Watched(units, np.stack([last[x.layer][:, x.index] for x in units], axis=-1))

        yield values
