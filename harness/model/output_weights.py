"""What neurons write: their output weights as the residual stream sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.model.readout import probe_norm

if TYPE_CHECKING:
    import torch

    from harness.model.model import Model


def write_directions(model: Model, layer: int, written: torch.Tensor | None = None) -> np.ndarray:
    """Output weights of a layer's neurons as the residual stream sees them, float64 [d_mlp, d_model].

    Where a norm follows the MLP (Gemma 2 and 3, OLMo 2) its gain is folded in; before a LayerNorm the rows are centred.

    Args:
        written: [n, d_model], what other units than dense neurons write into the MLP's output.
    """
    w_out = (model.w_out(layer) if written is None else written).double()
    post_norm = model.anatomy.post_mlp_norms[layer]
    if post_norm is not None:
        w_out = w_out * probe_norm(post_norm, model.anatomy.d_model)[2].to(w_out)
    if model.readout.centre_writes:
        w_out = w_out - w_out.mean(1, keepdim=True)
    return w_out.cpu().numpy()
