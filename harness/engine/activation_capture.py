"""What neurons, or other units of one number, do under conditions: their activations at every token of some prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32

from harness.conditions.frozen import check_conditions
from harness.conditions.positions import Layout
from harness.conditions.units import Unit, check_units
from harness.engine.engine import batches
from harness.engine.hooks import under
from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.conditions.positions import Span
    from harness.model.model import Model


@torch.no_grad()
def activations(
    model: Model,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    units: Sequence[Unit],
    batch_size: int = 64,
    spans: Sequence[Mapping[str, Span]] | None = None,
) -> Float32[np.ndarray, "n_conditions n_units n_prompts longest"]:
    """Activations of some units of one site, one hooked pass over the prompts for every condition.

    Watched is what the layer goes on with: an edited unit shows the value that it was given, and a unit behind the
    edits its response to them. What a condition freezes lies behind all units and changes none. ``spans``: for every
    prompt, the parts that conditions' positions may name.

    Returns:
        float32 [n_conditions, len(units), n_prompts, longest]; the last axis is the token's place in its prompt (BOS
        included), NaN from the prompt's end on.

    Raises:
        HarnessError: a unit that the model does not have, or whose activation is more than one number, or an activation
            that is not finite.
    """
    _check(model, units)
    check_conditions(model, conditions)
    layout = Layout.of([len(tokens) for tokens in prompts], spans)
    longest = max(layout.lengths, default=0)
    found = np.full((len(conditions), len(units), len(prompts), longest), np.nan, np.float32)
    layers = sorted({unit.layer for unit in units})
    members = {layer: [n for n, unit in enumerate(units) if unit.layer == layer] for layer in layers}
    if not layers:
        return found
    for c, condition in enumerate(conditions):
        for rows in batches(prompts, batch_size):
            batch = model.pad([list(prompts[row]) for row in rows])
            # The innermost hooks see what the edits have left.
            with under(model, condition, layout.only(rows)), units[0].where.capture(model, layers) as seen:
                model.forward(batch)
            for layer, watched in members.items():
                values = seen[layer][..., [units[n].index for n in watched]].float().cpu().numpy()
                for i, row in enumerate(rows):
                    n = len(prompts[row])
                    found[c, watched, row, :n] = _finite(values[i, -n:], condition).T
    return found


def _check(model: Model, units: Sequence[Unit]) -> None:
    for unit in units:
        if not (isinstance(unit, Unit) and unit.one_number):
            raise HarnessError(
                f'activations: "{unit}" is not a neuron, or another unit of one number; expected layer.index, for '
                "example 11.2378."
            )
    check_units(tuple(dict.fromkeys(units)), model, "activations:")


def _finite(values: np.ndarray, condition: Condition) -> np.ndarray:
    if not np.isfinite(values).all():
        raise HarnessError(f'activations are not finite under condition "{condition.name}" (NaN or infinity).')
    return values
