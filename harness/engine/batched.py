"""Many conditions in one pass: edits of any layer's neurons and heads, one block of rows for each condition.

What lies before the earliest edited layer is the same under every condition of a block, and is run once for all of
them (:mod:`harness.engine.prefix`): in scoring, and for the prompts in generation. New tokens differ between
conditions. Conditions that freeze something need two passes each, and are run one after another (:class:`HookEngine`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.conditions.conditions import site_of
from harness.conditions.frozen import check_conditions
from harness.conditions.head_edits import watch_starts
from harness.engine.hooks import (
    Generations,
    HookEngine,
    InPlace,
    Progress,
    Reading,
    Scores,
    asked_tokens,
    batches,
    edit_site,
    entropy,
    say,
    writer,
)
from harness.engine.prefix import Prefix, can_resume, capture_prefix, fill_cache, resume
from harness.model.key_values import cache_of

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.model.model import Batch, Model

TILES = {"cpu": 2}
"""Conditions in one pass over a full batch, by device, and more of them when the batch is not full. A CPU is busy with
few rows, and slower when what it computes does not fit into its cache."""

MANY_TILES = 8
"""``TILES`` of other devices."""

LOGIT_BYTES = 2**30
"""Memory for the logits of one pass; conditions that need more are run in several passes."""


@contextlib.contextmanager
def under_all(model: Model, conditions: Sequence[Condition]) -> Iterator[None]:
    """Within the block, the rows of a pass are cut into equal parts, and part i runs under ``conditions[i]``."""
    n = len(conditions)

    def change_parts(writes: Sequence[tuple[int, InPlace]]) -> Callable[[torch.Tensor], torch.Tensor]:
        def change(activations: torch.Tensor) -> torch.Tensor:
            edited = activations.clone()
            parts = edited.chunk(n)
            for part, write in writes:
                write(parts[part])
            return edited

        return change

    with contextlib.ExitStack() as stack:
        starts = stack.enter_context(watch_starts(model))
        places: dict[tuple[str, int], list[tuple[int, InPlace]]] = {}
        for part, condition in enumerate(conditions):
            for edit in condition.edits:
                write = writer(model, edit, starts, part=(part, n), start=condition.start)
                places.setdefault((site_of(edit), edit.layer), []).append((part, write))
        for (site, layer), writes in places.items():
            stack.enter_context(edit_site(model, site, layer, change_parts(writes)))
        yield


class BatchedEngine(HookEngine):
    """Equals :class:`HookEngine`: the same hooks, each on the rows of its condition."""

    name = "batched"

    def __init__(self, model: Model, batch_size: int = 64) -> None:
        super().__init__(model, batch_size)
        self._resumes: dict[tuple[int, bool], bool] = {}

    def path(self, conditions: Sequence[Condition]) -> str:
        return "batched"

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        max_new_tokens: int,
        stop: frozenset[int] = frozenset(),
        choices: Sequence[Sequence[int]] | None = None,
        progress: Progress | None = None,
    ) -> Generations:
        """Greedy continuations; see :meth:`HookEngine.generate`."""
        check_conditions(self.model, conditions)
        if max_new_tokens > 1:
            self.model.check_cache()
        made = Generations.empty(len(conditions), len(prompts), max_new_tokens, len(choices[0]) if choices else 0)
        plain, frozen = _apart(conditions)
        for members, run in ((plain, self._generate), (frozen, super().generate)):
            if members:
                here = [conditions[c] for c in members]
                made.put(members, run(prompts, here, max_new_tokens, stop, choices, progress))
        return made

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        max_new_tokens: int,
        stop: frozenset[int],
        choices: Sequence[Sequence[int]] | None,
        progress: Progress | None,
    ) -> Generations:
        """:meth:`generate` for conditions that freeze nothing."""
        asked = asked_tokens(choices, len(prompts))
        made = Generations.empty(len(conditions), len(prompts), max_new_tokens, asked.shape[1])
        untouched, by_layer = _by_earliest(conditions)
        shared = self._shared(by_layer, cache=True)
        for rows in batches(prompts, self.batch_size):
            batch = self.model.pad([list(prompts[row]) for row in rows])
            wanted = torch.as_tensor(asked[rows])
            prefix, past = Prefix(), None
            if shared:
                with capture_prefix(self.model, shared) as prefix:
                    past = cache_of(self.model.forward(batch, logits_to_keep=1, use_cache=True))
            for layer, members in [(0, untouched), *by_layer.items()]:
                for block in self._blocks(members, batch, all_logits=not self.model.keeps_last_logits):
                    n, here = len(block), [conditions[c] for c in block]
                    tiled, out = batch.tile(n), None
                    with under_all(self.model, here):
                        if layer in shared:
                            with resume(self.model, prefix, layer, n):
                                out = self.model.forward(tiled, logits_to_keep=1, use_cache=True)
                            fill_cache(cache_of(out), past, layer, n)
                        new, log_probs = self.decode_greedily(
                            self.model.forward, tiled, here, max_new_tokens, stop, out
                        )
                    place = np.array(block)[:, None], rows
                    found = log_probs.gather(-1, wanted.repeat(n, 1).to(log_probs.device))
                    made.tokens[..., : new.shape[-1]][place] = new.view(n, len(rows), -1).cpu().numpy()
                    made.entropy[place] = entropy(log_probs).view(n, -1).double().cpu().numpy()
                    made.choices[place] = found.view(n, len(rows), -1).double().cpu().numpy()
                    if progress:
                        progress(len(rows) * n)
        return made

    @torch.no_grad()
    def score(
        self,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
        first: Sequence[int] | None = None,
    ) -> Scores:
        """Loss, entropy, rank and confidence of tokens; see :meth:`HookEngine.score`."""
        check_conditions(self.model, conditions)
        scores = Scores.empty(prompts, len(conditions), first)
        plain, frozen = _apart(conditions)
        for members, run in ((plain, self._score), (frozen, super().score)):
            if members:
                scores.put(members, run(prompts, [conditions[c] for c in members], progress, first))
        return scores

    def _score(
        self,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        progress: Progress | None,
        first: Sequence[int] | None,
    ) -> Scores:
        """:meth:`score` for conditions that freeze nothing."""
        scores = Scores.empty(prompts, len(conditions), first)
        untouched, by_layer = _by_earliest(conditions)
        shared = self._shared(by_layer, cache=False)
        for rows in batches(prompts, self.batch_size):
            reading = Reading.of(self.model, prompts, rows, first)
            batch, place = reading.batch, scores.columns(rows)
            prefix = Prefix()
            if shared or untouched:
                with capture_prefix(self.model, shared) as prefix:
                    logits = self.model.forward(batch, logits_to_keep=reading.keep if untouched else 1).logits
                for c in untouched:
                    say(scores, c, place, logits, reading, conditions[c])
                del logits
            for layer, members in by_layer.items():
                for block in self._blocks(members, batch, all_logits=True):
                    here = [conditions[c] for c in block]
                    with contextlib.ExitStack() as stack:
                        if layer in shared:
                            stack.enter_context(resume(self.model, prefix, layer, len(here)))
                        stack.enter_context(under_all(self.model, here))
                        logits = self.model.forward(batch.tile(len(here)), logits_to_keep=reading.keep).logits
                    for c, part in zip(block, logits.chunk(len(here)), strict=True):
                        say(scores, c, place, part, reading, conditions[c])
            if progress:
                progress(len(rows) * len(conditions))
        return scores

    def _shared(self, layers: Iterable[int], cache: bool) -> list[int]:
        """Those of the layers that passes may go on from; nothing is gained at the first."""
        for layer in layers:
            if (layer, cache) not in self._resumes:
                self._resumes[layer, cache] = layer > 0 and can_resume(self.model, layer, cache)
        return [layer for layer in layers if self._resumes[layer, cache]]

    def _blocks(self, which: Sequence[int], batch: Batch, all_logits: bool) -> Iterator[list[int]]:
        """``which`` conditions are run together over ``batch``."""
        n_rows, width = batch.input_ids.shape
        size = TILES.get(batch.input_ids.device.type, MANY_TILES) * self.batch_size // n_rows
        if all_logits:
            size = min(size, LOGIT_BYTES // (4 * n_rows * width * self.model.anatomy.d_vocab))
        size = max(size, 1)
        for start in range(0, len(which), size):
            yield list(which[start : start + size])


def _apart(conditions: Sequence[Condition]) -> tuple[list[int], list[int]]:
    """Indices of the conditions that freeze nothing, and of those that freeze something."""
    plain = [c for c, condition in enumerate(conditions) if condition.frozen is None]
    return plain, [c for c, condition in enumerate(conditions) if condition.frozen is not None]


def _by_earliest(conditions: Sequence[Condition]) -> tuple[list[int], dict[int, list[int]]]:
    """Indices of the conditions without edits, and of the others by their earliest edited layer: what is before it is
    the same under all of them."""
    untouched: list[int] = []
    by_layer: dict[int, list[int]] = {}
    for c, condition in enumerate(conditions):
        if condition.edits:
            by_layer.setdefault(min(edit.layer for edit in condition.edits), []).append(c)
        else:
            untouched.append(c)
    return untouched, by_layer
