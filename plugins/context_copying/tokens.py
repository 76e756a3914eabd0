"""Between words and tokens: where an answer begins, where it ends, what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.model import Model


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
    return model.tokenizer.batch_decode([[int(t) for t in row if t >= 0] for row in tokens], skip_special_tokens=True)


def chat(model: Model, message: str) -> str:
    """The text of a conversation in which the user has written ``message`` and the model is to answer.

    Raises:
        HarnessError: the tokeniser has no chat template, or it does not take a message of the user alone.
    """
    if getattr(model.tokenizer, "chat_template", None) is None:
        raise HarnessError(
            f"task knowledge_conflict: chat=true needs a chat template, and the tokeniser of {model.name} has none; "
            "leave chat out, or choose an instruction-tuned model."
        )
    try:
        text = model.tokenizer.apply_chat_template(
            [{"role": "user", "content": message}], add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # templates are programs: jinja2 raises what it likes
        raise HarnessError(
            f"task knowledge_conflict: the chat template of {model.name} does not take a message of the user ({error})."
        ) from error
    return str(text)
