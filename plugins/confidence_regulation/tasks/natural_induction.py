"""Induction in natural text: sequences in which some n-gram occurs twice (Stolfo et al. 2024, section H.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from harness.plugin import HarnessError, Prepared, Prompt, Step, counted

from .induction import InductionTask
from .plain_text import prompt_of

if TYPE_CHECKING:
    from harness.plugin import Engine


class InductionNatural(InductionTask):
    """Natural text in which some n-gram occurs twice: does the selection regulate confidence in its second occurrence?

    Kept are sequences with an n-gram (n = 6) that occurs exactly twice, without a token twice inside it and with at
    least one token between its occurrences. Curves show the predictions made at A0 to A5 and the token after them (B),
    and the same of the second occurrence (X); what counts are the predictions made at the second A0 to A5.
    """

    name = "induction_natural"
    default_metrics = ("induction", "temperature")
    candidates: int = Field(1000, ge=1, description="sequences that are searched")
    length: int = Field(256, ge=16, description="tokens of a searched sequence, at most the model's positions")
    ngram: int = Field(6, ge=2, description="n")

    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        from .plain_text import fit

        model = engine.model
        begin = len(model.prefix)
        wanted = self.sequences if limit is None else min(limit, self.sequences)
        spans, step = self.spans(model, self.candidates, fit(model, self.length), seed)
        steps, found = [step], []
        repeats = [repeated_ngrams(span.tokens[begin:], self.ngram) for span in spans]
        for name, why in REPEAT_FILTERS.items():
            left = sum(bool(x[name]) for x in repeats)
            steps.append(Step(name, left, steps[-1].kept - left, why.format(n=self.ngram)))
        for span, kinds in zip(spans, repeats, strict=True):
            if kinds[name]:
                first, second = (begin + place for place in kinds[name][0])
                found.append((span.tokens[: second + self.ngram + 2], first, second))
        if not found:
            raise HarnessError(
                f"task {self.name}: none of {counted(len(spans), 'sequence')} repeats "
                f"{counted(self.ngram, 'token')} like this; raise "
                "candidates or lower ngram."
            )
        kept = found[:wanted]
        steps.append(Step("wanted", len(kept), len(found) - len(kept), "the first of them"))
        prompts = [
            prompt_of(model, i, tokens, begin=begin, split=second, first=first)
            for i, (tokens, first, second) in enumerate(kept)
        ]
        return Prepared(tuple(prompts), tuple(steps), {"ngram": self.ngram})

    def shown(self, prompt: Prompt) -> np.ndarray:
        after = 1 + np.arange(self.ngram + 1)
        return np.concatenate([prompt.fields["first"] + after, prompt.fields["split"] + after])

    def counted(self, prompt: Prompt) -> np.ndarray:
        found: np.ndarray = prompt.fields["split"] + 1 + np.arange(self.ngram)
        return found


REPEAT_FILTERS = {
    "repeat": "in which {n} tokens in a row occur exactly twice, the second time followed by another two",
    "distinct": "and are all different",
    "apart": "and have at least one token between their two occurrences",
}


def repeated_ngrams(tokens: Sequence[int], n: int) -> dict[str, list[tuple[int, int]]]:
    """Where n-grams occur exactly twice, (first, second), after each of the successive ``REPEAT_FILTERS``."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    counts = Counter(grams)
    places: dict[tuple[int, ...], list[int]] = {}
    for i, gram in enumerate(grams):
        if counts[gram] == 2:
            places.setdefault(gram, []).append(i)
    repeat = [(a, b) for a, b in places.values() if b + n + 2 <= len(tokens)]
    distinct = [(a, b) for a, b in repeat if len(set(grams[a])) == n]
    return {"repeat": repeat, "distinct": distinct, "apart": [(a, b) for a, b in distinct if b > a + n]}
