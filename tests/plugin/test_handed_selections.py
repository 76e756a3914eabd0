"""Selections that do not fit the model, or themselves, are refused in one sentence that names the selector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strangers import make, refusal, selecting

from harness.conditions.conditions import Selection
from harness.conditions.units import Direction, Head, Neuron
from harness.errors import HarnessError

E = tuple(Neuron(2, i) for i in range(48))

SELECTIONS: list[tuple[Any, str]] = [
    (lambda x: None, "select() returned None, expected harness.conditions.conditions.Selection"),
    (lambda x: list(x.units), "select() returned a list, expected"),
    (lambda x: replace(x, units=(Neuron(2, -1),)), "names neuron 2.-1, but the model has layers 0 to 2 with"),
    (lambda x: replace(x, units=(Neuron(-1, 3),)), "names neuron -1.3, but the model has layers 0 to 2 with"),
    (lambda x: replace(x, units=(Neuron(3, 0),)), "names neuron 3.0, but the model has layers 0 to 2 with neurons 0"),
    (lambda x: replace(x, units=(Neuron(2, 9999),)), "names neuron 2.9999, but the model"),
    (lambda x: replace(x, units=(Neuron(2, True),)), "layer and index are integers"),
    (lambda x: replace(x, units=(Neuron(2, 1.0),)), "layer and index are integers"),  # type: ignore[arg-type]
    (lambda x: replace(x, units=(Neuron("2", 1),)), "layer and index are integers"),  # type: ignore[arg-type]
    (lambda x: replace(x, units=(E[0], E[0])), "names neuron 2.0 twice"),
    (lambda x: replace(x, units=(E[0], Head(0, 0))), "names both neurons and heads"),
    (lambda x: replace(x, units=list(E[:2])), "gave a list as units, expected a tuple of"),  # type: ignore[arg-type]
    (lambda x: replace(x, units=(n for n in E[:2])), "gave a generator as units"),  # type: ignore[arg-type]
    (lambda x: replace(x, units=((2, 1),)), "gave a tuple among units"),  # type: ignore[arg-type]
    (lambda x: replace(x, units=("2.1",)), "gave '2.1' among units"),  # type: ignore[arg-type]
    (lambda x: replace(x, units=None), "gave None as units"),  # type: ignore[arg-type]
    (lambda x: replace(x, rule=""), "gave '' as the rule, expected text"),
    (lambda x: replace(x, rule=None), "gave None as the rule"),  # type: ignore[arg-type]
    (lambda x: replace(x, rule="\udc80"), "gave text as the rule that is not Unicode"),
    (lambda x: replace(x, candidates=E[5:], scores={}), "chose 2.0, which is not among its candidates"),
    (lambda x: replace(x, candidates=(*E, Neuron(2, 999)), scores={}), "names neuron 2.999, but the model"),
    (lambda x: replace(x, candidates=(*E, E[3]), scores={}), "names neuron 2.3 twice"),
    (lambda x: replace(x, candidates=(Head(0, 0),), scores={}), "chose neurons, but candidates are heads"),
    (lambda x: replace(x, pool=(Neuron(2, -3),)), "names neuron 2.-3"),
    (lambda x: replace(x, pool=(Head(0, 1),)), "chose neurons, but the pool are heads"),
    (lambda x: replace(x, scores={"score": np.zeros(3)}), "of shape (3,), expected ("),
    (lambda x: replace(x, scores={"score": np.zeros((len(x.candidates), 1))}), ", 1), expected ("),
    (lambda x: replace(x, scores={"score": ["a"] * len(x.candidates)}), "of type <U1, expected numbers"),
    (lambda x: replace(x, scores={"score": [None] * len(x.candidates)}), "of type object, expected numbers"),
    (lambda x: replace(x, scores={"score": np.full(len(x.candidates), np.nan)}), 'a score "score" of 2.0, which it'),
    (lambda x: replace(x, scores={None: x.scores["score"]}), "gave None as the name of a score"),  # type: ignore[dict-item]
    (lambda x: replace(x, scores={"": x.scores["score"]}), "gave '' as the name of a score"),
    (lambda x: replace(x, scores={"neuron": x.scores["score"]}), 'calls a score "neuron", which tables'),
    (lambda x: replace(x, scores=None), "gave as scores None"),  # type: ignore[arg-type]
    (lambda x: replace(x, details={"x": {1, 2}}), "gave details that cannot be written as JSON"),
    (lambda x: replace(x, details=["x"]), "gave a list as details, expected a mapping"),  # type: ignore[arg-type]
    (lambda x: Selection((Direction(1, 0),), "r"), "gave no vector of D1.0"),
    (lambda x: Selection((Direction(1, 0),), "r", vectors={Direction(1, 0): np.zeros(2)}), "of shape (2,), expected"),
    (lambda x: Selection((Direction(1, 0),), "r", vectors={Direction(1, 0): np.full(32, np.nan)}), "is not finite"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "says"), SELECTIONS)
def test_selections_that_do_not_fit(change: Any, says: str, tmp_path: Path) -> None:
    said = refusal(tmp_path, selecting(change))
    assert said.startswith("selector loud of harness-evil 9.9: select() ") and says in said, said


def test_an_empty_selection_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"selector loud of harness-evil 9\.9 selected no neuron: "):
        make(tmp_path, selecting(lambda x: replace(x, units=())))
