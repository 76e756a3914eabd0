"""What the tasks over duplicated spans share: spans of natural text, and how long they may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from harness.plugin import Step, counted

from .plain_text import TextTask

if TYPE_CHECKING:
    from harness.plugin import Model


class RepeatTask(TextTask):
    """Base of tasks whose prompts are natural spans followed by a copy of themselves."""

    length: int = Field(100, ge=2, description="tokens of the span that is duplicated; at most half of the positions")

    def halves(self, model: Model, n: int, seed: int) -> tuple[list[tuple[int, ...]], tuple[Step, ...]]:
        """``n`` spans of tokens, without a BOS token, and the steps that led to them.

        They are shorter than ``length`` where two of them and the BOS token would not fit into the model's positions.
        """
        begin = len(model.prefix)
        most = self.length if model.n_positions is None else (model.n_positions - begin) // 2
        length = min(self.length, most)
        spans, step = self.spans(model, n, begin + length, seed)
        why = f"spans of {counted(length, 'token')}, each to be followed by a copy of itself"
        if length < self.length:
            why += f"; {self.length} were asked for, but {model.name} has {model.n_positions} positions"
        halves = [tuple(int(token) for token in span.tokens[begin:]) for span in spans]
        return halves, (step, Step("length", len(halves), 0, why))
