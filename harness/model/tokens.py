"""Between words and tokens: where an answer begins, where it ends, what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from harness.model.model import Model

SHOWN = 8
"""Tokens of a prompt that a record shows."""


def first_token(model: Model, context: str, word: str, space: str = " ") -> int:
    """The token with which ``word`` begins when it continues ``context``.

    Found where the encodings of ``context`` and ``context word`` part, so that every tokeniser's treatment of spaces is
    its own business.
    """
    before, after = model.encode([context, f"{context}{space}{word}"])
    same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
    return after[same]


def stop_tokens(model: Model, until: Sequence[str]) -> frozenset[int]:
    """Tokens after which an answer is over: end-of-text, and those whose text holds a stop string."""
    texts = model.token_texts
    ends = {i for i, text in enumerate(texts) if any(stop in text for stop in until)}
    return frozenset(ends | set(model.end_tokens))


def decode(model: Model, tokens: np.ndarray) -> list[str]:
    """Texts of rows of new tokens [n, length], where -1 marks what comes after the end."""
    found: list[str] = model.tokenizer.batch_decode(
        [[int(t) for t in row if t >= 0] for row in tokens], skip_special_tokens=True
    )
    return found


def first_tokens(model: Model, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What a run feeds the model first, for its record.

    Returns:
        ``first``: texts of the first ``SHOWN`` tokens of the first prompt (token ids [n] in ``prompts``);
        ``prefix``: texts of what the model's ``add_bos`` puts first; ``with_prefix``: of how many prompts it is the
        beginning (one that is cut from the left to fit has lost it).
    """
    words = model.tokenizer.convert_ids_to_tokens
    n = len(model.prefix)
    begin = sum(tuple(row[:n]) == model.prefix for row in prompts) if n else 0
    first = [int(token) for token in prompts[0][:SHOWN]] if len(prompts) else []
    return {"first": words(first), "prefix": words(list(model.prefix)), "with_prefix": begin}
