"""Score and generate the same prompts under many conditions.

Both verbs go through the prompts a batch at a time, and hand each batch to whoever runs the conditions: one hooked pass
for each (:mod:`harness.engine.hooks`), many in a pass (:mod:`harness.engine.batched`), or all of them from one pass of
the untouched model (:mod:`harness.engine.closed_form`). The result is the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import torch

from harness.conditions.frozen import check_conditions
from harness.conditions.positions import Layout
from harness.engine.generations import GenerationRequest, Generations
from harness.engine.scores import ScoreRequest, Scores, TokenScores
from harness.engine.watched import watched_units

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.conditions.positions import Span
    from harness.model.model import Model

Progress = Callable[[int], None]
"""Called with a number of newly finished (condition, prompt) pairs."""


class Runner(Protocol):
    """Runs its conditions over one batch after another; gives the numbers of some of them, with what came of these."""

    def score(self, reading: ScoreRequest) -> Iterator[tuple[Sequence[int], TokenScores]]: ...

    def generate(self, request: GenerationRequest) -> Iterator[tuple[Sequence[int], Generations]]: ...


class Engine(ABC):
    """Runs the same prompts under many conditions; every engine equals :class:`harness.engine.hooks.HookEngine`."""

    name: ClassVar[str]

    def __init__(self, model: Model, batch_size: int = 64) -> None:
        self.model = model
        self.batch_size = batch_size

    def path(self, conditions: Sequence[Condition]) -> str:
        """Which implementation runs these conditions; a report says so."""
        return self.name

    @abstractmethod
    def runners(self, conditions: Sequence[Condition]) -> Iterable[tuple[Sequence[int], Runner]]:
        """Who runs which of the conditions, by their numbers."""

    @torch.no_grad()
    def score(
        self,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
        first: Sequence[int] | None = None,
        tempered: bool = False,
        spans: Sequence[Mapping[str, Span]] | None = None,
    ) -> Scores:
        """Loss, entropy, rank and confidence of tokens under every condition.

        Args:
            first: for every prompt, the first token that is scored; by default its second, which is the first that is
                predicted. Of a long context with a short continuation, little but the latter is worth the work. For
                positions at which conditions act, what is scored then counts as generated, and what precedes it as the
                prompt; by default all of it is the prompt.
            tempered: also the untouched model at every temperature (:mod:`harness.engine.tempering`); one of the
                conditions must be untouched.
            spans: for every prompt, the parts that conditions' positions may name.

        Raises:
            HarnessError: a condition does not fit the model, it acts at a span that a prompt does not have, or logits
                are not finite under it.
        """
        check_conditions(self.model, conditions)
        _check_untouched(conditions, "tempered" if tempered else None)
        scores = Scores.empty(prompts, conditions, first, tempered)
        runners = list(self.runners(conditions))
        for rows in batches(prompts, self.batch_size):
            named = None if spans is None else [spans[row] for row in rows]
            reading = ScoreRequest.of(self.model, prompts, rows, first, tempered, named)
            columns = scores.columns(rows)
            for members, runner in runners:
                for some, said in runner.score(reading):
                    scores.put([members[i] for i in some], columns, said)
                    if progress:
                        progress(len(rows) * len(some))
        return scores

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        max_new_tokens: int,
        stop: frozenset[int] = frozenset(),
        choices: Sequence[Sequence[int]] | None = None,
        progress: Progress | None = None,
        tempered: bool = False,
        watched: bool = False,
        spans: Sequence[Mapping[str, Span]] | None = None,
    ) -> Generations:
        """Greedy continuations of up to ``max_new_tokens`` tokens, ties to the smaller token id.

        Args:
            stop: generation of a prompt ends with the first of these tokens (it is kept).
            choices: for every prompt, equally many token ids whose log-probability as first new token is wanted.
            tempered: also the untouched model's distribution of the first new token at every temperature
                (:mod:`harness.engine.tempering`); one of the conditions must be untouched, as for ``watched``.
            watched: also what the units that conditions are about (their ``units``) do in the untouched model
                where it predicts the first new token (:mod:`harness.engine.watched`).
            spans: as of :meth:`score`.

        Raises:
            HarnessError: as of :meth:`score`; or the model's passes do not go on from a cache.
        """
        check_conditions(self.model, conditions)
        _check_untouched(conditions, "tempered" if tempered else "watched" if watched else None)
        if max_new_tokens > 1:
            self.model.check_cache()
        asked = np.array(choices, dtype=np.int64) if choices else np.zeros((len(prompts), 0), np.int64)
        units = watched_units(conditions) if watched else ()
        made = Generations.empty(len(conditions), len(prompts), max_new_tokens, asked.shape[1], tempered, units)
        layout = Layout.of([len(tokens) for tokens in prompts], spans)
        runners = list(self.runners(conditions))
        for rows in batches(prompts, self.batch_size):
            batch = self.model.pad([list(prompts[row]) for row in rows])
            request = GenerationRequest(batch, layout.only(rows), asked[rows], max_new_tokens, stop, tempered, units)
            for members, runner in runners:
                for some, part in runner.generate(request):
                    made.put([members[i] for i in some], rows, part)
                    if progress:
                        progress(len(rows) * len(some))
        return made


def _check_untouched(conditions: Sequence[Condition], wanted: str | None) -> None:
    if wanted and not any(condition.untouched for condition in conditions):
        raise ValueError(f"{wanted}: one of the conditions must leave the model untouched")


def batches(prompts: Sequence[Sequence[int]], size: int) -> Iterator[np.ndarray]:
    """Indices of the prompts in batches of similar length (less padding), in a fixed order."""
    order = np.argsort([len(tokens) for tokens in prompts], kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]
