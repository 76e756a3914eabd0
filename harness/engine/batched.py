"""Many conditions in one pass: edits of any layer, whatever its units are, one block of rows for each condition.

What lies before the earliest edited layer is the same under every condition of a block, and is run once for all of
them (:mod:`harness.engine.prefix`): in scoring, and for the prompts in generation. New tokens differ between
conditions. Conditions that freeze something need two passes each, and are run one after another
(:class:`harness.engine.hooks.HookRunner`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from harness.conditions.conditions import site_of
from harness.conditions.head_edits import watch_starts
from harness.engine.engine import Engine, Runner
from harness.engine.generations import GenerationRequest, Generations, decode_greedily
from harness.engine.hooks import HookRunner, InPlace, mask_of, writer
from harness.engine.prefix import Prefix, can_resume, capture_prefix, fill_cache, resume
from harness.engine.watched import watching
from harness.model.key_values import cache_of

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.conditions.positions import Layout
    from harness.conditions.units import Site
    from harness.engine.scores import ScoreRequest, TokenScores
    from harness.model.model import Batch, Model

TILES = {"cpu": 2}
"""Conditions in one pass over a full batch, by device, and more of them when the batch is not full. A CPU is busy with
few rows, and slower when what it computes does not fit into its cache."""

MANY_TILES = 8
"""``TILES`` of other devices."""

LOGIT_BYTES = 2**30
"""Memory for the logits of one pass; conditions that need more are run in several passes."""


@contextlib.contextmanager
def under_all(model: Model, conditions: Sequence[Condition], layout: Layout | None = None) -> Iterator[None]:
    """Within the block, the rows of a pass are cut into equal parts, and part i runs under ``conditions[i]``; the rows
    of each part are the prompts of ``layout``."""
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
        places: dict[tuple[Site, int], list[tuple[int, InPlace]]] = {}
        for part, condition in enumerate(conditions):
            for edit in condition.edits:
                write = writer(model, edit, starts, mask_of(edit, condition, layout), (part, n))
                places.setdefault((site_of(edit), edit.layer), []).append((part, write))
        for (site, layer), writes in places.items():
            stack.enter_context(site.edit(model, layer, change_parts(writes)))
        yield


class BatchedRunner:
    """The same hooks as :class:`harness.engine.hooks.HookRunner`, each on the rows of its condition.

    Args:
        conditions: that freeze nothing.
        resumes: what is known of the model: whether passes may go on from a layer, with a cache or without.
    """

    def __init__(
        self, model: Model, conditions: Sequence[Condition], batch_size: int, resumes: dict[tuple[int, bool], bool]
    ) -> None:
        self.model, self.conditions, self.batch_size = model, conditions, batch_size
        self.untouched, self.by_layer = _by_earliest(conditions)
        self._resumes = resumes

    def score(self, reading: ScoreRequest) -> Iterator[tuple[Sequence[int], TokenScores]]:
        shared, prefix = self._shared(cache=False), Prefix()
        if shared or self.untouched:
            with capture_prefix(self.model, shared) as prefix:
                keep = reading.keep if self.untouched else 1
                logits = self.model.forward(reading.batch, logits_to_keep=keep).logits
            for c in self.untouched:
                yield [c], reading.scores(logits, self.conditions[c])
            del logits
        for layer, members in self.by_layer.items():
            for block in self._blocks(members, reading.batch, all_logits=True):
                here = [self.conditions[c] for c in block]
                with contextlib.ExitStack() as stack:
                    if layer in shared:
                        stack.enter_context(resume(self.model, prefix, layer, len(here)))
                    stack.enter_context(under_all(self.model, here, reading.layout))
                    logits = self.model.forward(reading.batch.tile(len(here)), logits_to_keep=reading.keep).logits
                for c, part in zip(block, logits.chunk(len(here)), strict=True):
                    yield [c], reading.scores(part, self.conditions[c])

    def generate(self, request: GenerationRequest) -> Iterator[tuple[Sequence[int], Generations]]:
        batch, shared = request.batch, self._shared(cache=True)
        prefix, past = Prefix(), None
        if shared:
            with capture_prefix(self.model, shared) as prefix:
                past = cache_of(self.model.forward(batch, logits_to_keep=1, use_cache=True))
        for layer, members in [(0, self.untouched), *self.by_layer.items()]:
            for block in self._blocks(members, batch, all_logits=not self.model.keeps_last_logits):
                here = [self.conditions[c] for c in block]
                tiled, out, watched = batch.tile(len(here)), None, None
                with under_all(self.model, here, request.layout):
                    if here[0].untouched and request.watched:
                        with watching(self.model, request.watched, len(request.batch.input_ids)) as values:
                            out = self.model.forward(tiled, logits_to_keep=1, use_cache=True)
                        watched = values()
                    if layer in shared:
                        with resume(self.model, prefix, layer, len(here)):
                            out = self.model.forward(tiled, logits_to_keep=1, use_cache=True)
                        fill_cache(cache_of(out), past, layer, len(here))
                    made = decode_greedily(self.model.forward, request, tiled, here, out)
                yield block, replace(made, watched=watched)

    def _shared(self, cache: bool) -> list[int]:
        """Those of the earliest edited layers that passes may go on from; nothing is gained at the first."""
        for layer in self.by_layer:
            if (layer, cache) not in self._resumes:
                self._resumes[layer, cache] = layer > 0 and can_resume(self.model, layer, cache)
        return [layer for layer in self.by_layer if self._resumes[layer, cache]]

    def _blocks(self, which: Sequence[int], batch: Batch, all_logits: bool) -> Iterator[list[int]]:
        """``which`` conditions are run together over ``batch``."""
        n_rows, width = batch.input_ids.shape
        size = TILES.get(batch.input_ids.device.type, MANY_TILES) * self.batch_size // n_rows
        if all_logits:
            size = min(size, LOGIT_BYTES // (4 * n_rows * width * self.model.anatomy.d_vocab))
        size = max(size, 1)
        for start in range(0, len(which), size):
            yield list(which[start : start + size])


class BatchedEngine(Engine):
    """Many conditions in a pass, edits of any layer."""

    name = "batched"

    def __init__(self, model: Model, batch_size: int = 64) -> None:
        super().__init__(model, batch_size)
        self._resumes: dict[tuple[int, bool], bool] = {}

    def runners(self, conditions: Sequence[Condition]) -> Iterable[tuple[Sequence[int], Runner]]:
        plain = [c for c, condition in enumerate(conditions) if condition.frozen is None]
        frozen = [c for c, condition in enumerate(conditions) if condition.frozen is not None]
        if plain:
            here = [conditions[c] for c in plain]
            yield plain, BatchedRunner(self.model, here, self.batch_size, self._resumes)
        if frozen:
            yield frozen, HookRunner(self.model, [conditions[c] for c in frozen])


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
