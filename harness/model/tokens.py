"""Between words and tokens: where an answer begins, where it ends, what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.model.model import Model

SHOWN = 8
"""Tokens of a prompt that a record shows."""


def put_first(prefix: Sequence[int], ids: list[int]) -> list[int]:
    """A text's token ids with the prefix before them, which is never put there twice (chat templates write it)."""
    return ids if ids[: len(prefix)] == list(prefix) else [*prefix, *ids]


def prefix_of(tokenizer: Any, add_bos: bool | None) -> tuple[int, ...]:
    """The ids that go before a text: by default those that the tokeniser itself puts there."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a")["input_ids"])
    own = next((full[:i] for i in range(len(full)) if full[i : i + len(plain)] == plain), [])
    if add_bos is None:
        return tuple(own)
    if not add_bos:
        return ()
    if not own and tokenizer.bos_token_id is None:
        raise HarnessError("add_bos: the tokeniser has no BOS token.")
    return tuple(own) if own else (int(tokenizer.bos_token_id),)


def first_token(model: Model, context: str, word: str, space: str = " ") -> int:
    """The token with which ``word`` begins when it continues ``context``.

    Found where the encodings of ``context`` and ``context word`` part, so that every tokeniser's treatment of spaces is
    its own business.
    """
    before, after = model.encode([context, f"{context}{space}{word}"])
    same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
    return after[same]


def token_spans(
    model: Model, text: str, parts: Mapping[str, tuple[int, int]], owner: str
) -> dict[str, tuple[int, int]]:
    """The tokens (start, stop) of :meth:`Model.encode`, BOS counted, that hold characters (start, stop) of the text, by
    the parts' names; a token that holds characters of two parts belongs to both.

    Raises:
        HarnessError: names ``owner`` and the part: its tokens do not say what it says.
    """
    ids, ends = _with_ends(model, text)
    before = len(model.encode([text])[0]) - len(ids)
    begins, found = [0, *ends[:-1]], {}
    for name, (start, stop) in parts.items():
        # A token that ends with no character of its own is the rest of one: bytes of a letter, in several tokens.
        inside = [
            i for i, (a, b) in enumerate(zip(begins, ends, strict=True)) if b > start and (a < stop or a == b == stop)
        ]
        first, last = (inside[0], inside[-1] + 1) if inside else (0, 0)
        wanted, said = (_plain(x) for x in (text[start:stop], model.tokenizer.decode(ids[first:last])))
        if not wanted or wanted not in said:
            raise HarnessError(
                f'{owner}: the tokens of "{text}" cannot be told apart where the {name} ("{text[start:stop]}") stands: '
                f'those found there read "{said}".'
            )
        found[name] = (before + first, before + last)
    return found


def _with_ends(model: Model, text: str) -> tuple[list[int], list[int]]:
    """Tokens of the text, without special ones, and how many of its characters end with each."""
    if model.tokenizer.is_fast:
        coded = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ends = np.maximum.accumulate([stop for _, stop in coded["offset_mapping"]])
        return list(coded["input_ids"]), [int(end) for end in ends]
    ids = list(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    return ids, [len(model.tokenizer.decode(ids[: i + 1])) for i in range(len(ids))]


def _plain(text: str) -> str:
    """Text without what tokenizers may add or normalise away: spaces and case."""
    return "".join(text.split()).casefold()


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
