"""More places to edit than neurons and heads: pre-activations, what gated MLPs multiply by, what the attention's output
projection reads, and coordinates of the residual stream; one number each, so that every intervention on one serves."""

from __future__ import annotations

from harness.plugin import Unit, hookimpl

from .units import KINDS


@hookimpl
def harness_units() -> list[type[Unit]]:
    return list(KINDS.values())
