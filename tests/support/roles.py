"""Conditions for outcomes that a test makes by hand: roles and names, nothing is edited."""

from __future__ import annotations

from harness.conditions.conditions import BASELINE, Condition


def conditions(n_controls: int = 0) -> tuple[Condition, ...]:
    """Baseline, treated, and so many controls."""
    controls = (Condition(f"control-{i:04d}", role="control") for i in range(n_controls))
    return (BASELINE, Condition("treated"), *controls)
