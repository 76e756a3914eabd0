"""What the tasks over plain text share: sequences of a corpus as prompts, and sums over their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from harness.plugin import ModelCorpus, Prompt, Series, Step, Task, border, counted, per_prompt

if TYPE_CHECKING:
    from harness.data import Sequence as Span
    from harness.engine import Tempered
    from harness.plugin import Model


class TextTask(Task):
    """Base of tasks whose prompts are sequences of a corpus."""

    corpus: ModelCorpus = Field(
        description="texts; half of the documents is used, selectors have the other; only the bundled models have a "
        "default, world",
    )
    sequences: int = Field(100, ge=1, description="how many sequences")
    across_documents: bool = Field(True, description="join short documents, else a sequence is a part of one document")

    def acts_at(self) -> frozenset[str]:
        return frozenset()  # texts are scored whole

    def data_digest(self) -> str:
        return border.data_digest(self.corpus)

    def spans(self, model: Model, n: int, length: int, seed: int) -> tuple[list[Span], Step]:
        """``n`` sequences of ``length`` tokens from documents that no selector has seen, and the step that says so."""
        from harness.data import sequences

        found = sequences(model, self.corpus, n, length, seed, part="evaluate", across_documents=self.across_documents)
        joined = "documents joined" if self.across_documents else "each a part of one document"
        why = (
            f"of {counted(length, 'token')} from the corpus {self.corpus.name}, evaluation half of its "
            f"documents, {joined}"
        )
        return found, Step("sequences", len(found), n - len(found), why)


def fit(model: Model, length: int) -> int:
    """``length`` tokens, or as many as the model has positions."""
    return length if model.n_positions is None else min(length, model.n_positions)


def prompt_of(model: Model, i: int, tokens: Sequence[int], **fields: object) -> Prompt:
    """A prompt of given tokens."""
    return Prompt(
        id=f"{i:05d}",
        text=model.tokenizer.decode(list(tokens)),
        tokens=tuple(int(token) for token in tokens),
        cluster=f"{i:05d}",
        fields=fields,
    )


def tempered_sums(
    tempered: Tempered,
    prompt: np.ndarray,
    n: int,
    entropy: tuple[np.ndarray, np.ndarray],
    loss: np.ndarray,
    top: np.ndarray,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the untouched model says of the tokens at the temperatures at which it is as uncertain as the conditions
    are: sums over the tokens of each prompt [C, n], and log-probabilities of the most likely tokens [C, T].

    Args:
        tempered: of T tokens. prompt: [T]. entropy: of the conditions [C, T], and untouched [T]. loss, top: of the
            untouched model [T].
    """
    equal = tempered.at_entropy(*entropy)
    values = {
        "tempered_loss": -equal.log_p(-loss),
        "log_temperature": equal.log_temperature,
        "no_temperature": equal.outside,
    }
    return {name: per_prompt(x, prompt, n) for name, x in values.items()}, np.minimum(equal.log_p(top), 0.0)


def by_token(rows: dict[str, np.ndarray], prompt: np.ndarray, position: np.ndarray, lengths: Sequence[int]) -> Series:
    """Rows [T] of values by token as a series [rows, n_prompts, longest]; ``position``: the token's place."""
    values = np.full((len(rows), len(lengths), max(lengths)), np.nan, np.float32)
    for row, array in enumerate(rows.values()):
        values[row, prompt, position] = array
    return Series(tuple(rows), values)
