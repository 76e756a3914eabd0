"""Half precision: what is computed in which, and the prompts at which its rounding decides what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from harness.engine.engine import Progress
    from harness.model.model import Model


def described(model: Model) -> dict[str, str]:
    """What is computed in which precision; edits are all that engines differ in."""
    own = str(model.dtype).removeprefix("torch.")
    after = "float64" if own == "float64" else "float32"
    return {
        "weights": own,
        "passes": f"{own}, up to the last residual vector",
        "logits": f"{after}, from the last residual vector on",
        "activations": f"{own}, their statistics float64",
        "edits": own if own == after else f"{after} in closed form, rounded to {own} with hooks",
    }


def is_half(model: Model) -> bool:
    """Whether passes round so much that what comes next may hang on it."""
    from harness.model.readout import HALF

    return model.readout.W_U.dtype in HALF


def near_ties(
    model: Model, prompts: Sequence[Sequence[int]], batch_size: int, progress: Progress | None = None
) -> np.ndarray:
    """Prompts (token ids) after which the two most likely tokens lie closer than the rounding, bool [n].

    One rounding of the last residual vector x to the passes' precision changes each x_i by up to u |x_i| (u = 2^-8 in
    bfloat16, 2^-11 in float16), hence the difference of two logits by up to u sum |w_i x_i| / denominator(x), where w
    is the gain times the difference of their rows of W_U. Layers before round as well; on SmolLM2-135M in bfloat16 the
    difference was off by less than this bound in 190 of 192 places. Where the tokens lie closer, an answer may change
    with the batch, the engine or the machine, and a change under a condition may be none.
    """
    import torch

    found = np.zeros(len(prompts), bool)
    for start in range(0, len(prompts), batch_size):
        rows = slice(start, start + batch_size)
        with torch.no_grad(), model.capture_residual() as captured:
            logits = model.forward(model.pad(prompts[rows])).logits[:, -1]
        found[rows] = _within_rounding(model, captured.residual[:, -1], logits).cpu().numpy()
        if progress:
            progress(len(found[rows]))
    return found


def _within_rounding(model: Model, residual: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """bool [n] for last residual vectors [n, d_model] and their logits [n, d_vocab]."""
    import torch

    readout = model.readout
    first, second = logits.topk(2).indices.T
    w = readout.W_U[first].float() - readout.W_U[second].float()
    lead = (w * readout.normalised(residual)).sum(-1)  # before scale and soft cap, which keep the order
    if readout.b_U is not None:
        lead = lead + readout.b_U[first] - readout.b_U[second]
    x = residual.to(w) / readout.denominator(residual)
    rounding = torch.finfo(model.dtype).eps / 2 * (w * readout.gain * x).abs().sum(-1)
    return lead <= rounding


def to_record(near: np.ndarray | None, ids: Sequence[str]) -> dict[str, Any] | None:
    """Near-ties as a record keeps them: how many, and the prompts' ids; None where nobody looked."""
    if near is None:
        return None
    return {"n": int(near.sum()), "prompts": [name for name, close in zip(ids, near, strict=True) if close]}
