"""Prepared prompts as JSON: those that an interrupted run continues with, and those kept for the next run."""

from __future__ import annotations

from typing import Any

from harness.plugin.records import Prepared, Prompt, Step
from harness.results import beside


def to_json(prepared: Prepared) -> dict[str, Any]:
    """JSON values, of which :func:`from_json` makes the same prompts."""
    return {
        "prompts": [prompt.to_dict() for prompt in prepared.prompts],
        "steps": [step.to_dict() for step in prepared.steps],
        "details": prepared.details,
        "held_out": [prompt.to_dict() for prompt in prepared.held_out],
    }


def from_json(data: Any, where: str) -> Prepared:
    """The prompts.

    Raises:
        HarnessError: the data are damaged; the sentence begins with ``where``.
    """
    found = beside.Prepared.read(data, where)
    return Prepared(
        prompts=tuple(map(_prompt, found.prompts)),
        steps=tuple(Step(step.name, step.kept, step.dropped, step.why) for step in found.steps),
        details=found.details,
        held_out=tuple(map(_prompt, found.held_out)),
    )


def _prompt(found: beside.Prompt) -> Prompt:
    return Prompt(found.id, found.text, tuple(found.tokens), found.cluster, found.fields)
