"""Which tokens a write into the residual stream promotes and suppresses: the extremes of W_U c."""

from __future__ import annotations

import numpy as np
import torch

from harness.plugin import Model

from .log_probability_increase import Lens


@torch.no_grad()
def top_tokens(model: Model, writes: torch.Tensor, k: int) -> list[dict[str, list[str]]]:
    """For every write [n, d_model] the texts of the ``k`` tokens whose logits it raises, and lowers, most.

    The final norm's gain is in, its scale (the same for all tokens) is not. Rows of the unembedding that no token of
    the tokeniser has are states over.
    """
    texts = model.token_texts
    used = np.arange(min(len(model.tokenizer), len(texts)))
    found, lens = [], Lens(model)
    for write in writes:
        pushed = lens.project(write[None])[0, used].double().cpu().numpy()
        order = np.argsort(-pushed, kind="stable")
        found.append(
            {
                "promoted": [texts[i] for i in order[:k].tolist()],
                "suppressed": [texts[i] for i in order[::-1][:k].tolist()],
            }
        )
    return found
