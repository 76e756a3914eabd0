"""What every attention head writes into the residual stream, and by how much that raises a token's log-probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from harness.model import Norm, attention_norm, down_bias, write_matrix
from harness.plugin import HarnessError, Model

from .last_position import LastPosition, mlp_writes
from .log_probability_increase import Lens, finite, write_increases

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest accepted difference between the residual stream and the sum of what was written to it, by the model's dtype,
relative to their size."""


@dataclass(frozen=True, eq=False)
class Output:
    """How the heads of a layer write: coordinate e of head h adds ``coefficient * share * directions[h, e]``, where
    its share is :meth:`share`.

    Attributes:
        directions: float32 [n_heads, d_head, d_model], rows of the output projection, with the gain of a norm after the
            attention (Gemma 2 and 3, OLMo 2), or Granite's multiplier.
        bias: of the projection, or None. norm: the one after the attention. factor: Granite's multiplier, else 1.
    """

    layer: int
    directions: torch.Tensor
    matrix: torch.Tensor
    bias: torch.Tensor | None
    norm: Norm
    factor: float

    @classmethod
    @torch.no_grad()
    def of(cls, model: Model, layer: int) -> Output:
        """Find a layer's."""
        anatomy, device = model.anatomy, model.readout.W_U.device
        (_, projection), norm = model.attention(layer), attention_norm(model, layer)
        matrix = write_matrix(projection, model.dtype).to(device).float().view(anatomy.n_heads, anatomy.d_head, -1)
        directions = matrix - matrix.mean(-1, keepdim=True) if norm.kind == "layernorm" else matrix
        directions = directions * norm.gain.to(matrix) * anatomy.residual_multiplier
        bias = down_bias(projection)
        bias = None if bias is None else bias.to(device)
        return cls(layer, directions, matrix, bias, norm, anatomy.residual_multiplier)

    @torch.no_grad()
    def share(self, model: Model, states: LastPosition) -> torch.Tensor:
        """1, or 1 / the denominator of the norm after the attention, which is held; float32 [P].

        Raises:
            HarnessError: the layer's input, the heads, the biases and the MLP do not sum to the layer's output.
        """
        heads, norm = states.heads[self.layer], self.norm
        total = torch.einsum("phe,hed->pd", heads, self.matrix)
        total = total if self.bias is None else total + self.bias
        share = 1 / norm.denominator(total)
        if norm.module is not None:
            total = total - total.mean(-1, keepdim=True) if norm.kind == "layernorm" else total
            total = total * share[:, None] * norm.gain.to(heads)
            total = total if norm.bias is None else total + norm.bias.to(heads)
        seen = mlp_writes(model, states, self.layer).residual
        error = (states.before[self.layer] + total * self.factor - seen).abs().max() / seen.abs().max()
        if not error <= TOLERANCE[model.dtype]:
            raise HarnessError(
                f"what the heads of layer {self.layer} of {model.name} write is not what its residual stream receives "
                f"(relative difference {float(error):.1e}), so that a head's own contribution is not defined."
            )
        return share


@torch.no_grad()
def head_writes(model: Model, states: LastPosition, layer: int) -> torch.Tensor:
    """What each head of a layer adds to the residual stream at the last position, float32 [P, n_heads, d_model].

    Biases are nobody's.

    Raises:
        HarnessError: as :meth:`Output.share`.
    """
    output = Output.of(model, layer)
    weighted = states.heads[layer] * output.share(model, states)[:, None, None]
    return torch.einsum("phe,hed->phd", weighted, output.directions)


@torch.no_grad()
def head_increases(model: Model, states: LastPosition, layer: int) -> np.ndarray:
    """Log-probability increase of the prompts' targets by every head of a layer, float32 [P, n_heads], in nats."""
    writes = head_writes(model, states, layer)
    return write_increases(model, states.before[layer], writes, states.denominator, states.target)


@torch.no_grad()
def head_inner_products(model: Model, states: LastPosition, layer: int) -> np.ndarray:
    """What every head adds to the target's logit, float32 [P, n_heads] (before a soft cap)."""
    lens, writes = Lens(model), head_writes(model, states, layer)
    pushed = torch.stack(
        [lens.along(rows, target[None])[:, 0] for rows, target in zip(writes, states.target, strict=True)]
    )
    return finite((pushed * lens.scale(states.denominator)[:, None]).cpu().numpy(), model)


@torch.no_grad()
def module_increases(model: Model, states: LastPosition, layer: int) -> np.ndarray:
    """Log-probability increases by the whole attention and the whole MLP of a layer, biases included, float32 [P, 2].

    The attention is added to the residual stream that enters the layer, the MLP to that with the attention's output
    (in parallel layers, too).
    """
    between = mlp_writes(model, states, layer).residual
    steps = ((states.before[layer], between), (between, states.after[layer]))
    parts = [
        write_increases(model, start, (end - start)[:, None], states.denominator, states.target) for start, end in steps
    ]
    return np.concatenate(parts, axis=1)
