"""Attention patterns, from models that can be told to keep them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from harness.errors import HarnessError
from harness.files.wording import counted
from harness.model.model import Model
from harness.model.probes import relative_error, tolerance_between_passes


@contextlib.contextmanager
def eager(model: Model) -> Iterator[None]:
    """Within the block, attention is computed step by step where the model can be told so: fused kernels keep no
    patterns."""
    before = getattr(model.hf.config, "_attn_implementation", None)
    change = getattr(model.hf, "set_attn_implementation", None)
    if before in (None, "eager") or change is None:
        yield
        return
    change("eager")
    try:
        yield
    finally:
        change(before)


def patterns(model: Model, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Attention patterns of every layer [batch, n_heads, pos, pos] on sequences of equal length.

    Raises:
        HarnessError: the model returns none, or what it returns are not those of its own logits (Falcon with fused
            attention: the pass that returns patterns lets tokens attend to later ones).
    """
    batch = model.pad(sequences)
    anatomy, length = model.anatomy, batch.input_ids.shape[1]
    with torch.no_grad():
        plain = model.forward(batch, logits_to_keep=1).logits[:, -1]
        with eager(model):
            out = model.forward(batch, logits_to_keep=1, output_attentions=True)
    found = [x for x in (getattr(out, "attentions", None) or ()) if x is not None]
    shape = (len(sequences), anatomy.n_heads, length, length)
    if len(found) != anatomy.n_layers or any(tuple(x.shape) != shape for x in found):
        raise HarnessError(
            f"{model.name} does not return the attention patterns of its {anatomy.n_layers} x "
            f"{counted(anatomy.n_heads, 'head')}; "
            "load it with attn_implementation=eager."
        )
    ahead = max(float(x.triu(1).abs().max()) for x in found)
    if ahead > 1e-4 or relative_error(out.logits[:, -1], plain) > tolerance_between_passes(model, plain):
        raise HarnessError(
            f"the attention patterns that {model.name} returns are not those of its usual forward pass; "
            "load it with attn_implementation=eager."
        )
    return [x.float() for x in found]
