"""Conditions as forward hooks, and the oracle of all engines: one hooked pass of the model for every condition."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch

from harness.conditions.conditions import site_of
from harness.conditions.frozen import keep_component, unigram_direction
from harness.conditions.head_edits import FirstReader, HeadEdit, watch_starts
from harness.conditions.placed import positions_of
from harness.engine.engine import Engine, Runner
from harness.engine.generations import Forward, GenerationRequest, Generations, decode_greedily
from harness.engine.watched import watching
from harness.errors import HarnessError
from harness.model.key_values import cache_of

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition, Edit
    from harness.conditions.head_edits import Starts
    from harness.conditions.positions import Layout
    from harness.engine.scores import ScoreRequest, TokenScores
    from harness.model.model import Batch, Model


InPlace = Callable[[torch.Tensor], None]
"""Writes an edit into the activations of its site and layer: of neurons [batch, pos, d_mlp], of heads [batch, pos,
n_heads, d_head], of directions the residual stream [batch, pos, d_model]."""


def writer(
    model: Model, edit: Edit, starts: Starts, acts: torch.Tensor | None = None, part: tuple[int, int] = (0, 1)
) -> InPlace:
    """A function that makes the edit in place and leaves everything else of its layer alone.

    Args:
        starts: where the rows of the running pass begin.
        acts: whether the edit acts at each token of these rows (:meth:`Positions.mask`); None: at all.
        part: (i, n), the function is called with the i-th of n equal parts of the running pass's rows.
    """
    check_edit(edit, model)
    if getattr(edit, "reads_first", False):
        return only_at(acts, FirstReader(cast(HeadEdit, edit), starts, part), starts, part)
    columns = slice(None) if getattr(edit, "reads_all", False) else site_of(edit).columns(edit.indices)

    def write(activations: torch.Tensor) -> None:
        activations[:, :, columns] = edit.apply(activations[:, :, columns]).to(activations)

    return only_at(acts, write, starts, part)


def only_at(acts: torch.Tensor | None, write: InPlace, starts: Starts, part: tuple[int, int] = (0, 1)) -> InPlace:
    """``write``, but where ``acts`` [rows, longest + 1] is false everything stays as it was."""
    if acts is None:
        return write

    def there(activations: torch.Tensor) -> None:
        column = starts.column.view(part[1], -1)[part[0]].to(activations.device)
        token = torch.arange(activations.shape[1], device=activations.device) - column[:, None]
        before = activations.clone()
        write(activations)  # all of it: an edit may remember what it sees at the first token
        here = acting(acts, token)
        activations.copy_(torch.where(here.view(*token.shape, *[1] * (activations.dim() - 2)), activations, before))

    return there


def check_edit(edit: Edit, model: Model) -> None:
    """Refuse units that the layer does not have.

    Raises:
        HarnessError: names the first of them.
    """
    site = site_of(edit)
    n = site.count(model, edit.layer)
    for index in edit.indices:
        if n is not None and not 0 <= index < n:
            unit = site.at(model, edit.layer, index)
            raise HarnessError(f"an edit names {unit.word} {unit}, but the model has {site.name} 0 to {n - 1}.")


def mask_of(edit: Edit, condition: Condition, layout: Layout | None) -> torch.Tensor | None:
    """Where an edit of a condition acts, bool [n_prompts, longest + 1] (:meth:`Positions.mask`); None: everywhere.

    Raises:
        ValueError: it does not act everywhere, and where the prompts' tokens are is not said.
    """
    positions = positions_of(edit, condition)
    if positions.everywhere:
        return None
    if layout is None:
        raise ValueError(f"condition {condition.name!r} acts at {positions}: hand over the prompts' layout")
    return torch.from_numpy(positions.mask(layout))


def acting(mask: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Whether edits act at tokens [n_prompts, n], each counted from its prompt's first; of padding it says anything.

    Args:
        mask: as of :func:`mask_of`.
    """
    return mask.to(token.device).gather(1, token.clamp(0, mask.shape[1] - 1))


@contextlib.contextmanager
def under(model: Model, condition: Condition, layout: Layout | None = None) -> Iterator[None]:
    """Within the block, the model runs with the edits of ``condition``, at its positions of the prompts that are run.

    Heads may be edited in passes that continue a cache if the cache was begun within the block. What the condition
    freezes is left out: that takes a pass of the untouched model, too (:func:`passes`).
    """

    def copied(write: InPlace) -> Callable[[torch.Tensor], torch.Tensor]:
        def change(activations: torch.Tensor) -> torch.Tensor:
            edited = activations.clone()
            write(edited)
            return edited

        return change

    with contextlib.ExitStack() as stack:
        starts = stack.enter_context(watch_starts(model))
        for edit in condition.edits:
            change = copied(writer(model, edit, starts, mask_of(edit, condition, layout)))
            stack.enter_context(site_of(edit).edit(model, edit.layer, change))
        yield


@contextlib.contextmanager
def passes(model: Model, condition: Condition, layout: Layout | None = None) -> Iterator[Forward]:
    """Within the block, a function that makes forward passes over the prompts of ``layout`` under ``condition``, with
    what it freezes frozen."""
    if condition.frozen is not None:
        yield FrozenPasses(model, condition, layout).forward
        return
    with under(model, condition, layout):
        yield model.forward


@dataclass(frozen=True)
class _Passed:
    """What a frozen pass gives: logits [batch, pos, d_vocab] and the caches of both its passes."""

    logits: torch.Tensor
    cache: tuple[Any, Any]


class FrozenPasses:
    """Passes of the untouched and of the edited model over the same tokens, and the logits that follow from both."""

    def __init__(self, model: Model, condition: Condition, layout: Layout | None = None) -> None:
        assert condition.frozen is not None
        self.model, self.condition, self.layout, self.frozen = model, condition, layout, condition.frozen
        self.direction: torch.Tensor | None = None
        if self.frozen.what == "unigram":
            v = unigram_direction(self.frozen.counts, model.anatomy.d_vocab, f'condition "{condition.name}"')
            self.direction = torch.from_numpy(v)

    def forward(self, batch: Batch, past: Any = None, logits_to_keep: int = 1, use_cache: bool = False) -> _Passed:
        """One pass of each model; the logits are the model's own but for what is frozen
        (:mod:`harness.conditions.frozen`)."""
        model, pasts = self.model, past or (None, None)
        with model.capture_residual() as before:
            untouched = model.forward(batch, pasts[0], logits_to_keep, use_cache)
        with under(model, self.condition, self.layout), model.capture_residual() as after:
            edited = model.forward(batch, pasts[1], logits_to_keep, use_cache)
        if self.direction is not None:
            v = self.direction.to(edited.logits.device)
            logits = keep_component(edited.logits, untouched.logits, v)
        else:
            x0, x = (seen.residual[:, -logits_to_keep:] for seen in (before, after))  # 0: all of them
            logits = model.readout.logits(x, model.readout.denominator(x0))
        return _Passed(logits, (cache_of(untouched), cache_of(edited)))


@dataclass(frozen=True)
class HookRunner:
    """One hooked forward pass for every condition, for any layer of any supported model."""

    model: Model
    conditions: Sequence[Condition]

    def score(self, reading: ScoreRequest) -> Iterator[tuple[Sequence[int], TokenScores]]:
        for c, condition in enumerate(self.conditions):
            with passes(self.model, condition, reading.layout) as forward:
                logits = forward(reading.batch, logits_to_keep=reading.keep).logits
            yield [c], reading.scores(logits, condition)

    def generate(self, request: GenerationRequest) -> Iterator[tuple[Sequence[int], Generations]]:
        for c, condition in enumerate(self.conditions):
            out, watched = None, None
            with passes(self.model, condition, request.layout) as forward:
                if condition.untouched and request.watched:
                    with watching(self.model, request.watched, len(request.batch.input_ids)) as values:
                        out = forward(request.batch, logits_to_keep=1, use_cache=True)
                    watched = values()
                made = decode_greedily(forward, request, request.batch, [condition], out)
            yield [c], replace(made, watched=watched)


class HookEngine(Engine):
    """The plain meaning of both verbs, which faster engines are tested against."""

    name = "hooks"

    def runners(self, conditions: Sequence[Condition]) -> Iterable[tuple[Sequence[int], Runner]]:
        return [(range(len(conditions)), HookRunner(self.model, conditions))]
