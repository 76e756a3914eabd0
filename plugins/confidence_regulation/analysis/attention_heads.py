"""What heads do on repeated random tokens: prefix matching, attention to the first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.model import patterns
from harness.plugin import HarnessError, Model

PATTERN_BYTES = 2**28
"""Memory for the patterns of one pass."""


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
