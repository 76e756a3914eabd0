"""What every attention head writes into the residual stream, and by how much that raises a token's log-probability."""

from __future__ import annotations

import numpy as np
import torch

from harness.errors import HarnessError
from harness.model import Model
from harness.modules import down_bias, write_matrix

from ..confidence_regulation.reading import attention_norm
from .increase import Lens, finite, write_increases
from .passed import Passed, mlp_writes

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest accepted difference between the residual stream and the sum of what was written to it, by the model's dtype,
relative to their size."""


@torch.no_grad()
def head_writes(model: Model, passed: Passed, layer: int) -> torch.Tensor:
    """What each head of a layer adds to the residual stream at the last position, float32 [P, n_heads, d_model].

    Where a norm follows the attention (Gemma 2 and 3, OLMo 2), its denominator is held and its gain folded in. Biases
    are nobody's.

    Raises:
        HarnessError: the layer's input, the heads, the biases and the MLP do not sum to the layer's output.
    """
    anatomy, heads = model.anatomy, passed.heads[layer]
    projection, norm = anatomy.attention_outputs[layer], attention_norm(model, layer)
    matrix = write_matrix(projection).to(heads).view(anatomy.n_heads, anatomy.d_head, -1)
    writes = torch.einsum("phe,hed->phd", heads, matrix)
    total, bias = writes.sum(1), down_bias(projection)
    total = total if bias is None else total + bias.to(heads)
    if norm.module is not None:
        if norm.kind == "layernorm":
            writes = writes - writes.mean(-1, keepdim=True)
        share = norm.gain.to(heads) / norm.denominator(total)[:, None]
        writes = writes * share[:, None]
        total = (total - total.mean(-1, keepdim=True) if norm.kind == "layernorm" else total) * share
        total = total if norm.bias is None else total + norm.bias.to(heads)
    factor = anatomy.residual_multiplier
    seen = mlp_writes(model, passed, layer).residual
    error = (passed.before[layer] + total * factor - seen).abs().max() / seen.abs().max()
    if not error <= TOLERANCE[model.dtype]:
        raise HarnessError(
            f"what the heads of layer {layer} of {model.name} write is not what its residual stream receives (relative "
            f"difference {float(error):.1e}), so that a head's own contribution is not defined."
        )
    return writes * factor


@torch.no_grad()
def head_increases(model: Model, passed: Passed, layer: int) -> np.ndarray:
    """Log-probability increase of the prompts' targets by every head of a layer, float32 [P, n_heads], in nats."""
    writes = head_writes(model, passed, layer)
    return write_increases(model, passed.before[layer], writes, passed.denominator, passed.target)


@torch.no_grad()
def head_inner_products(model: Model, passed: Passed, layer: int) -> np.ndarray:
    """What every head adds to the target's logit, float32 [P, n_heads] (before a soft cap)."""
    lens, writes = Lens(model), head_writes(model, passed, layer)
    pushed = torch.stack(
        [lens.along(rows, target[None])[:, 0] for rows, target in zip(writes, passed.target, strict=True)]
    )
    return finite((pushed * lens.scale(passed.denominator)[:, None]).cpu().numpy(), model)
