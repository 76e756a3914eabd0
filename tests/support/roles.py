"""Conditions for outcomes that a test makes by hand: roles and names, nothing is edited."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from harness.conditions.conditions import BASELINE, Condition, Role


def conditions(n_controls: int = 0) -> tuple[Condition, ...]:
    """Baseline, treated, and so many controls."""
    controls = (Condition(f"control-{i:04d}", role="control") for i in range(n_controls))
    return (BASELINE, Condition("treated"), *controls)


def in_order(some: Iterable[Condition]) -> list[Condition]:
    """The same with the roles of a run: the first is the baseline, the second treated, the others are controls."""
    roles: list[Role] = ["baseline", "treated"]
    return [replace(x, role=roles[i] if i < len(roles) else "control") for i, x in enumerate(some)]
