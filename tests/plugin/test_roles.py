"""Outcomes by the role of their conditions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.conditions.conditions import BASELINE, Condition, Selection
from harness.conditions.units import Neuron
from harness.errors import HarnessError
from harness.plugin import Outcomes, Prompt

SELECTED = Selection((Neuron(0, 1), Neuron(0, 2)), "two")


def made() -> Outcomes:
    """Five conditions, each with its own tens; rows that are no baseline are not where they usually are."""
    conditions = (
        Condition("control-0000", role="control"),
        BASELINE,
        Condition("alone-00000", units=(Neuron(0, 1),), role="alone"),
        Condition("treated"),
        Condition("control-0001", role="control"),
    )
    prompts = tuple(Prompt(name, "", (1,), name) for name in "ab")
    entropy = 10.0 * np.arange(5)[:, None] + np.arange(2)
    return Outcomes(conditions, prompts, {"entropy": entropy, "pairs": np.stack([entropy, -entropy], -1)})


def test_rows_are_found_by_role_and_not_by_place() -> None:
    outcomes = made()
    assert outcomes.baseline["entropy"].tolist() == [10, 11]
    assert outcomes.treated["entropy"].tolist() == [30, 31]
    assert outcomes.controls["entropy"].tolist() == [[0, 1], [40, 41]]
    assert outcomes.of("treated", "control")["entropy"][:, 0].tolist() == [0, 30, 40]
    assert outcomes.treated["pairs"].tolist() == [[30, -30], [31, -31]]
    assert outcomes.rows("control") == (0, 4)


def test_sets_of_their_own_are_split_off_under_the_names_of_their_units() -> None:
    outcomes = made().split(SELECTED)
    assert outcomes.selection is SELECTED
    assert [x.name for x in outcomes.conditions] == ["control-0000", "baseline", "treated", "control-0001"]
    assert outcomes["entropy"][:, 0].tolist() == [0, 10, 30, 40]
    assert outcomes.alone.units == ("0.1",) and outcomes.alone["entropy"].tolist() == [[20, 21]]
    again = outcomes.split(SELECTED)
    assert again["entropy"] is outcomes["entropy"] and again.alone is outcomes.alone


def test_without_controls_there_are_none() -> None:
    few = Outcomes((BASELINE, Condition("treated")), (), {"entropy": np.zeros((2, 0))})
    assert few.controls["entropy"].shape == (0, 0) and few.rows("control") == ()


def test_what_is_not_there_is_a_sentence() -> None:
    outcomes = made()
    with pytest.raises(HarnessError, match=r'wants the outcome "loss", .* it observes entropy, pairs'):
        outcomes.treated["loss"]
    untouched = replace(outcomes, conditions=(BASELINE,), values={})
    with pytest.raises(HarnessError, match="expected 1 condition of the role treated among these outcomes, got 0"):
        untouched.treated  # noqa: B018
    twice = replace(outcomes, conditions=(BASELINE, BASELINE), values={})
    with pytest.raises(HarnessError, match="expected 1 condition of the role baseline among these outcomes, got 2"):
        twice.baseline  # noqa: B018
