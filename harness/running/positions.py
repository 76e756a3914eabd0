"""Where an intervention acts, before anything is run: what its task can name, and whether it can change an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.conditions.placed import where_all
from harness.conditions.positions import Layout, Positions
from harness.errors import HarnessError, suggest
from harness.plugin import border

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.model.model import Model
    from harness.plugin.components import Intervention, Task
    from harness.plugin.records import Prepared, Prompt
    from harness.running.plan import Plan

OF_PROMPTS = ("prompt", "first", "last", "a slice such as -2:")
"""What a task offers that offers "prompt"."""


def check_positions(task: Task, intervention: Intervention) -> None:
    """Refuse positions that the task does not offer.

    Raises:
        HarnessError: names what it offers.
    """
    for part in intervention.parts():
        _check(task, Positions(part.positions))


def _check(task: Task, positions: Positions) -> None:
    parts = [part.partition("[")[0] for part in positions.parts if part != "all"]  # generated[2:] is generated
    needed = [part if part in ("generated", *positions.names) else "prompt" for part in parts]
    if not needed:
        return
    who = f"--intervention: positions={positions.text}"
    offered = border.acts_at(task)
    if not offered:
        raise HarnessError(
            f"{who}: the task {task.name} says itself where interventions act ({task.positions_treated}); leave "
            "positions out."
        )
    for part in needed:
        if part not in offered:
            words = ["all", *(OF_PROMPTS if "prompt" in offered else ()), *sorted(offered - {"prompt"})]
            raise HarnessError(
                f'{who}: the task {task.name} has no tokens that are called "{part}".{suggest(part, words)} It has: '
                f"{', '.join(words)}."
            )


def located(plans: Sequence[Plan], prepared: Prepared, model: Model) -> Prepared:
    """The prompts with the spans that an intervention asks for, where one does (:attr:`Prompt.spans`)."""
    if not any(Positions(part.positions).names for one in plans for part in one.intervention.parts()):
        return prepared
    spans = border.spans(plans[0].task, prepared.prompts, model)
    prompts = (replace(prompt, spans=found) for prompt, found in zip(prepared.prompts, spans, strict=True))
    return replace(prepared, prompts=tuple(prompts))


def check_reach(treated: Condition, prompts: Sequence[Prompt], model: Model) -> None:
    """Refuse edits that cannot change what follows any of the prompts.

    Raises:
        HarnessError: no token is meant; or the last layer alone is edited, and not where what follows is predicted.
    """
    positions, last = where_all(treated), model.anatomy.n_layers - 1
    if positions is None or positions.everywhere or positions.generated:
        return
    mask = positions.mask(Layout.of([len(prompt.tokens) for prompt in prompts], [prompt.spans for prompt in prompts]))
    if not mask.any():
        raise HarnessError(f"--intervention: positions={positions.text}: no prompt has such a token.")
    at_the_end = any(mask[row, len(prompt.tokens) - 1] for row, prompt in enumerate(prompts))
    if not at_the_end and all(edit.layer == last for edit in treated.edits):
        raise HarnessError(
            f"--intervention: positions={positions.text}: an edit of the last layer ({last}) changes what is predicted "
            f"at its own token and nothing else, and what follows a prompt is predicted at its last token; select "
            "in earlier layers (the selector's layer, or layers), or take positions=last."
        )
