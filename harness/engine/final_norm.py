"""By what the final norm divides under conditions: its denominator at every token of some prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32

from harness.conditions.frozen import check_conditions
from harness.conditions.positions import Layout
from harness.engine.engine import batches
from harness.engine.final_layer import FinalLayer, fits
from harness.engine.hooks import acting, mask_of, under
from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.conditions.positions import Span
    from harness.model.model import Batch, Model


@torch.no_grad()
def denominators(
    model: Model,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    batch_size: int = 64,
    spans: Sequence[Mapping[str, Span]] | None = None,
) -> Float32[np.ndarray, "n_conditions n_prompts longest"]:
    """sqrt(mean((x - c)^2) + eps) of the final residual x (c its mean for a LayerNorm, else 0); 1 without a norm.

    Stolfo et al. 2024, section 3.2: what entropy neurons change. Where every condition edits neurons of the last layer,
    the model runs once and each condition's residual follows from what its neurons write; elsewhere there is a hooked
    pass for each condition. A condition that freezes the final norm has the untouched model's denominator. ``spans``:
    for every prompt, the parts that conditions' positions may name.

    Returns:
        float32 [n_conditions, n_prompts, longest]; the last axis is the token's place in its prompt (BOS included), NaN
        from the prompt's end on.

    Raises:
        HarnessError: a residual that is not finite.
    """
    check_conditions(model, conditions)
    layout = Layout.of([len(tokens) for tokens in prompts], spans)
    longest = max(layout.lengths, default=0)
    found = np.full((len(conditions), len(prompts), longest), np.nan, np.float32)
    final = FinalLayer(model, conditions) if fits(model, conditions) else None
    for rows in batches(prompts, batch_size):
        batch = model.pad([list(prompts[row]) for row in rows])
        here = layout.only(rows)
        shared = None if final is None else _LastLayer(final, batch, here)
        for c, condition in enumerate(conditions):
            values = _hooked(model, condition, batch, here) if shared is None else shared.under(condition)
            for i, row in enumerate(rows):
                n = len(prompts[row])
                found[c, row, :n] = _finite(values[i, -n:].cpu().numpy(), condition)
    return found


def _hooked(model: Model, condition: Condition, batch: Batch, layout: Layout) -> torch.Tensor:
    """Denominators [batch, pos] of one hooked pass."""
    holds = condition.frozen is not None and condition.frozen.what == "final_norm"
    with model.capture_residual() as seen:
        if holds:
            model.forward(batch)
        else:
            with under(model, condition, layout):
                model.forward(batch)
    return model.readout.denominator(seen.residual)[..., 0]


class _LastLayer:
    """What one pass of the untouched model has left at [batch, pos]: the residual without the last MLP's output
    (``rest``, [..., d_model]), the activations of the last layer's units (``neurons``, [..., n]), and what they write
    into (``own``)."""

    def __init__(self, final: FinalLayer, batch: Batch, layout: Layout) -> None:
        seen, _ = final.run(batch)
        own = seen.neurons.double() @ final.w_out.double() if final.units is None else seen.own.double()
        self.final, self.layout, self.tokens = final, layout, batch.position_ids
        self.rest, self.neurons = seen.rest.double(), seen.neurons
        self.own = own if final.bias is None else own + final.bias.to(own)

    def under(self, condition: Condition) -> torch.Tensor:
        """Denominators [batch, pos] under a condition."""
        final, own = self.final, self.own
        if condition.frozen is None or condition.frozen.what != "final_norm":
            for edit in condition.edits:
                mask = mask_of(edit, condition, self.layout)
                some = final.places(edit.indices)
                now = self.neurons[..., some]
                change = edit.apply(now).double() - now.double()
                if mask is not None:
                    change = torch.where(acting(mask, self.tokens.to(change.device))[..., None], change, 0.0)
                own = own + change @ final.w_out[some].double()
        write = own
        if final.post_norm is not None:
            eps, gain = final.post_norm
            write = own * (own.square().mean(-1, keepdim=True) + eps).rsqrt() * gain.double()
        residual = self.rest + final.multiplier * write
        return final.model.readout.denominator(residual)[..., 0]


def _finite(values: np.ndarray, condition: Condition) -> np.ndarray:
    if not np.isfinite(values).all():
        raise HarnessError(f'the final residual is not finite under condition "{condition.name}" (NaN or infinity).')
    return values
