"""A condition in passes that others make: where prompts begin and end is read from the passes themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from harness.conditions.conditions import site_of
from harness.conditions.head_edits import watch_starts
from harness.conditions.placed import positions_of
from harness.conditions.positions import Layout
from harness.engine.hooks import only_at, writer
from harness.errors import HarnessError
from harness.files.wording import counted

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.conditions.head_edits import Starts
    from harness.conditions.positions import Positions
    from harness.engine.hooks import InPlace
    from harness.model.model import Model


@contextlib.contextmanager
def during(model: Model, condition: Condition) -> Iterator[None]:
    """Within the block, whoever runs ``model.hf`` runs it with the edits of ``condition``.

    A prompt is what a pass without earlier tokens reads: the text that is scored, or what ``generate()`` is given.
    What passes that go on from its cache read are generated tokens. Padding, on either side, is told by the attention
    mask. Gradients go through edits.

    Raises:
        HarnessError: the condition freezes something, names spans that only a task knows, or does not fit the model;
            within the block, of a pass that goes on from a cache that was begun before it, where that matters.
    """
    check_live(condition)
    with contextlib.ExitStack() as stack:
        starts = stack.enter_context(watch_starts(model))
        prompts = _Prompts(starts)
        for edit in condition.edits:
            change = _change(writer(model, edit, starts), positions_of(edit, condition), prompts)
            stack.enter_context(site_of(edit).edit(model, edit.layer, change))
        yield


def check_live(condition: Condition) -> None:
    """Refuse what passes of others do not tell.

    Raises:
        HarnessError: the condition freezes something, or names spans.
    """
    if condition.frozen is not None:
        raise HarnessError(
            "intervention: what is frozen takes a pass of the untouched model beside each pass, which a loop of "
            "one's own does not make; leave frozen out."
        )
    for edit in condition.edits:
        if names := positions_of(edit, condition).names:
            raise HarnessError(
                f'positions: "{names[0]}" is named by a task, and in a loop of one\'s own there is none.'
            )


def _change(write: InPlace, positions: Positions, prompts: _Prompts) -> Callable[[torch.Tensor], torch.Tensor]:
    """From activations of a pass to a copy with the edit at its positions."""

    def change(activations: torch.Tensor) -> torch.Tensor:
        edited = activations.clone()
        acts = None if positions.everywhere else torch.from_numpy(positions.mask(prompts.layout))
        only_at(acts, write, prompts.starts)(edited)
        return edited

    return change


class _Prompts:
    """How long the prompts of the running passes are."""

    def __init__(self, starts: Starts) -> None:
        self.starts = starts
        self._pass: Any = None
        self._layout: Layout | None = None

    @property
    def layout(self) -> Layout:
        """Of the prompts that the running pass reads, or goes on from.

        Raises:
            HarnessError: they were begun before the block, or are others than those that were.
        """
        if self._pass is not self.starts.given:
            self._pass = self.starts.given
            self._layout = self._read()
        assert self._layout is not None
        return self._layout

    def _read(self) -> Layout:
        rows = len(self.starts.column)
        if self.starts.here:
            mask = self.starts.given.get("attention_mask")
            n = self.starts.n_tokens
            return Layout.of([n] * rows if mask is None else mask.sum(1).tolist())
        if self._layout is None or len(self._layout.lengths) != rows:
            raise HarnessError(
                f"positions: a pass goes on from {counted(rows, 'prompt')} that {'was' if rows == 1 else 'were'} run "
                "before the condition began; run whole prompts within the block."
            )
        return self._layout
