"""Attention patterns, and what heads do on repeated random tokens: prefix matching, attention to the first token."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from harness.errors import HarnessError
from harness.model import Model
from harness.selfcheck import relative_error, tolerance_of

PATTERN_BYTES = 2**28
"""Memory for the patterns of one pass."""


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
            f"{model.name} does not return the attention patterns of its {anatomy.n_layers} x {anatomy.n_heads} heads; "
            "load it with attn_implementation=eager."
        )
    ahead = max(float(x.triu(1).abs().max()) for x in found)
    if ahead > 1e-4 or relative_error(out.logits[:, -1], plain) > tolerance_of(plain):
        raise HarnessError(
            f"the attention patterns that {model.name} returns are not those of its usual forward pass; "
            "load it with attn_implementation=eager."
        )
    return [x.float() for x in found]


@dataclass(frozen=True)
class HeadScores:
    """What heads attend to, float64 [n_layers, n_heads] each, in 0 to 1.

    Attributes:
        prefix_matching: mean attention from a token of the second copy to the token after its first occurrence.
        first_token: mean attention to the sequence's first token, from all positions but the first.
    """

    prefix_matching: np.ndarray
    first_token: np.ndarray


def random_repeats(model: Model, n: int, length: int, seed: int) -> list[list[int]]:
    """``n`` sequences: the model's prefix and ``length`` random tokens, twice.

    The tokens are drawn uniformly among those that have a text and are not special, different ones while there are
    enough of them, so that "the token after the first occurrence" is one token.
    """
    special = {*model.tokenizer.all_special_ids, *model.end_tokens, *model.prefix}
    known = min(len(model.tokenizer), model.anatomy.d_vocab)
    usable = np.array([i for i in range(known) if i not in special])
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(usable, length, replace=length > len(usable)).tolist() for _ in range(n)]
    return [[*model.prefix, *span, *span] for span in drawn]


def head_scores(model: Model, sequences: Sequence[Sequence[int]], length: int) -> HeadScores:
    """Scores of every head on the sequences of :func:`random_repeats`.

    Args:
        length: tokens of one copy.
    """
    anatomy, total = model.anatomy, len(sequences[0])
    second = np.arange(total - length, total)  # positions of the second copy
    after = second - length + 1
    each = 4 * anatomy.n_layers * anatomy.n_heads * total**2
    step = max(1, PATTERN_BYTES // each)
    matching = np.zeros((anatomy.n_layers, anatomy.n_heads))
    first = np.zeros_like(matching)
    for start in range(0, len(sequences), step):
        for layer, pattern in enumerate(patterns(model, sequences[start : start + step])):
            matching[layer] += pattern[:, :, second, after].double().mean(-1).sum(0).cpu().numpy()
            first[layer] += pattern[:, :, 1:, 0].double().mean(-1).sum(0).cpu().numpy()
    if not np.isfinite(matching + first).all():
        raise HarnessError(f"the attention patterns of {model.name} are not finite (NaN or infinity in the model).")
    return HeadScores(matching / len(sequences), first / len(sequences))
