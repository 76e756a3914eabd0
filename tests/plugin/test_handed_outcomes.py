"""Prompts, outcomes and measurements that do not fit are refused in one sentence that names their component."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strangers import Average, Halved, PlainTask, make, misbehaving, observing, refusal

from harness.conditions.units import Neuron
from harness.errors import PluginError
from harness.plugin.base import Component
from harness.plugin.records import Figure, Frame, Measurement, Outcomes, Prepared, Series, Table
from harness.statistics import Functional, Measure


def preparing(change: Callable[[Prepared], Any]) -> type[Component]:
    return misbehaving(PlainTask, prepare=lambda self, *a: change(PlainTask.prepare(self, *a)))


def first(found: Prepared, **change: Any) -> Prepared:
    return replace(found, prompts=(replace(found.prompts[0], **change), *found.prompts[1:]))


PREPARED: list[tuple[Any, str]] = [
    (lambda x: None, "returned None, expected harness.plugin.records.Prepared"),
    (lambda x: x.prompts, "returned a tuple, expected"),
    (lambda x: replace(x, prompts=list(x.prompts)), "gave a list as prompts, expected a tuple of"),
    (lambda x: replace(x, prompts=("text",)), "gave 'text' among prompts"),
    (lambda x: first(x, id="1"), 'gave two prompts with the id "1"'),
    (lambda x: first(x, id=0), "gave 0 as the id of a prompt"),
    (lambda x: first(x, text=None), 'gave None as the text of prompt "0"'),
    (lambda x: first(x, text="\ud800"), "that is not Unicode"),
    (lambda x: first(x, cluster=3), "gave 3 as the cluster of prompt"),
    (lambda x: first(x, tokens=()), 'gave no tokens of prompt "0"'),
    (lambda x: first(x, tokens=[1, 2]), "gave a list as tokens of prompt"),
    (lambda x: first(x, tokens=(1, -1)), "gave -1 as a token of prompt"),
    (lambda x: first(x, tokens=(1, 99999)), "gave 99999 as a token of prompt"),
    (lambda x: first(x, tokens=(1.0, 2)), "gave 1.0 as a token of prompt"),
    (lambda x: first(x, tokens=(True, 2)), "gave True as a token of prompt"),
    (lambda x: first(x, fields={"x": object()}), "gave fields of prompt"),
    (lambda x: first(x, fields={"condition": "x"}), 'calls a field of prompt "0" "condition"'),
    (lambda x: first(x, fields=None), "gave None as fields of prompt"),
    (lambda x: replace(x, steps=("one",)), "gave 'one' among steps"),
    (lambda x: replace(x, details={"x": {1}}), "gave details that cannot be written"),
    (lambda x: replace(x, held_out=(1,)), "gave 1 among held_out"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "says"), PREPARED)
def test_prompts_that_do_not_fit(change: Any, says: str, tmp_path: Path) -> None:
    said = refusal(tmp_path, preparing(change))
    assert said.startswith("task plain of harness-evil 9.9: prepare() ") and says in said, said


def test_parts_and_further_sets_that_do_not_fit(tmp_path: Path) -> None:
    wanting = misbehaving(Halved, needs_statistics=True)
    for spans, says in (
        ([(0, 1)], "reference() gave 1 part of 4 prompts"),
        ([(0, 99)] * 4, "reference() gave (0, 99) as the part of prompt"),
        ([(2, 2)] * 4, "reference() gave (2, 2) as the part of prompt"),
        ([(-1, 2)] * 4, "reference() gave (-1, 2) as the part of prompt"),
        (7, "reference() returned 7, expected"),
    ):
        with pytest.raises(PluginError) as caught:
            make(tmp_path, wanting, misbehaving(PlainTask, reference=lambda self, p, site, spans=spans: spans))
        assert says in str(caught.value)
    for sets, says in (
        ([(Neuron(2, -1),)], "alone() names neuron 2.-1"),
        ([("2.1",)], "alone() gave '2.1' among a set"),
        ([()], "alone() gave an empty set"),
        (None, "alone() raised TypeError"),
    ):
        assert says in refusal(tmp_path, misbehaving(PlainTask, alone=lambda self, s, m, sets=sets: sets))


def having(found: Outcomes, array: Any, name: Any = "entropy", **rest: Any) -> Outcomes:
    made = replace(found, **rest)
    object.__setattr__(made, "values", {name: array})  # past the check of the record itself
    return made


OUTCOMES: list[tuple[Any, str]] = [
    (lambda x: None, "returned None, expected harness.plugin.records.Outcomes"),
    (lambda x: x.values, "returned a dict, expected"),
    (lambda x: replace(x, conditions=x.conditions[:-1], values={}), "gave outcomes of 4 conditions"),
    (lambda x: replace(x, conditions=(*x.conditions[1::-1], *x.conditions[2:])), "in their order"),
    (
        lambda x: replace(x, conditions=tuple(c.name for c in x.conditions)),
        "gave 'baseline' among conditions of the outcomes, expected harness.conditions.conditions.Condition",
    ),
    (lambda x: replace(x, prompts=x.prompts[:-1], values={}), "gave outcomes of other prompts"),
    (lambda x: having(x, x["entropy"][:, :1]), 'the outcome "entropy" of shape (5, 1), expected (5, 4)'),
    (lambda x: having(x, x["entropy"].tolist()), 'gave as the outcome "entropy" a list'),
    (lambda x: having(x, x["entropy"].astype(str)), "expected numbers"),
    (lambda x: having(x, x["entropy"] / 0), 'gave an infinite "entropy" of prompt "0" under baseline'),
    (lambda x: having(x, x["entropy"], name=""), "gave '' as the name of an outcome"),
    (lambda x: having(x, x["entropy"], name="series x"), 'calls an outcome "series x"'),
    (lambda x: having(x, x["entropy"], name="answer"), 'calls an outcome "answer"'),
    (lambda x: replace(x, answers=(("a",),)), "gave 1 answer under baseline to 4 prompts"),
    (lambda x: replace(x, answers=(("a", "b", "c", None),)), "gave None as an answer under baseline"),
    (lambda x: replace(x, answers=["abcd"]), "gave a list as answers"),
    (lambda x: replace(x, categories={"entropy": ("a",)}), "which holds float64, not codes"),
    (lambda x: replace(x, categories={"other": ("a",)}), 'gave categories of "other", which it did not observe'),
    (lambda x: having(x, np.full((5, 4), 7), categories={"entropy": ("a",)}), 'the code 7 of "entropy", which has'),
    (lambda x: having(x, np.full((5, 4), -2), categories={"entropy": ("a",)}), "gave the code -2"),
    (lambda x: replace(x, series={"s": x["entropy"]}), 'gave as the series "s" a ndarray'),
    (lambda x: replace(x, series={"s": Series(("a",), np.zeros((1, 2, 3)))}), "expected floats (1, 4, tokens)"),
    (lambda x: replace(x, found=("entropy",)), 'found "entropy", of which it gave no categories'),
    (lambda x: replace(x, details={"x": {1}}), "gave details that cannot be written"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(("change", "says"), OUTCOMES)
def test_outcomes_that_do_not_fit(change: Any, says: str, tmp_path: Path) -> None:
    said = refusal(tmp_path, observing(change))
    assert said.startswith("task plain of harness-evil 9.9: observe() ") and says in said, said


def measuring(change: Callable[[Measurement], Any]) -> type[Component]:
    return misbehaving(Average, measure=lambda self, outcomes: change(Average.measure(self, outcomes)))


ONES = np.ones((5, 4))


def one(name: Any = "m", title: Any = "m", unit: Any = "nats", numerator: Any = ONES, **rest: Any) -> Measurement:
    return Measurement((Measure(name, title, unit, numerator, np.ones(np.shape(numerator)), **rest),))


def shown(*frames: Any, figures: Any = ()) -> Measurement:
    return Measurement(frames=frames, figures=figures)


MEASUREMENTS: list[tuple[Any, str]] = [
    (lambda x: None, "returned None, expected harness.plugin.records.Measurement"),
    (lambda x: replace(x, measures=list(x.measures)), "gave a list as measures"),
    (lambda x: replace(x, measures=(0.5,)), "gave 0.5 among measures"),
    (lambda x: replace(x, measures=x.measures * 2), 'gave two measures called "entropy"'),
    (lambda x: one(name=None), "gave None as the name of a measure"),
    (lambda x: one(title=""), "gave '' as the title of a measure"),
    (lambda x: one(unit=None), "gave None as unit of the measure"),
    (lambda x: one(null=float("inf")), "gave inf as null of the measure"),
    (lambda x: one(null=None), "gave None as null of the measure"),
    (lambda x: one(scale=float("nan")), "gave nan as scale of the measure"),
    (lambda x: one(numerator=ONES[:3]), "of (3, 4) conditions and prompts, expected (5, 4)"),
    (lambda x: one(numerator=ONES[:, :2]), "of (5, 2) conditions and prompts, expected (5, 4)"),
    (lambda x: one(numerator=ONES * np.nan), 'measure "m": a value that is not finite'),
    (lambda x: Measurement((Functional("f", "f", "", ONES[..., None], lambda s: s.sum()),)), "of shape (), expected"),
    (lambda x: Measurement((Functional("f", "f", "", ONES[..., None], lambda s: s[..., 0] / 0),)), "an infinite value"),
    (lambda x: Measurement(tables=("t",)), "gave 't' among tables"),
    (lambda x: Measurement(tables=(Table("t", "t", ("a",), np.ones((2, 2)), np.ones((3, 2, 2))),)), "expected (1, 1)"),
    (lambda x: Measurement(tables=(Table("t", "t", ("a",), np.ones((1, 1)), ONES),)), "expected (3, 1, 1)"),
    (lambda x: Measurement(remarks="words"), "gave 'words' as remarks"),
    (lambda x: Measurement(broken=True), "gave True as broken"),
    (lambda x: shown(figures=("a.png",)), "gave 'a.png' among figures"),
    (lambda x: shown(figures=(Figure("../x", "X.", {}, lambda c: None),)), "calls figure '../x': a name has only"),
    (lambda x: shown(figures=(Figure("x", "X.", {}, None),)), "without a function that draws it"),
    (lambda x: shown(figures=(Figure("x", "X.", {}, print, (0, 2)),)), "the size a tuple, expected two numbers"),
    (lambda x: shown(Frame("x", "X.", {"a": [1], "b": [1, 2]})), "columns of different lengths"),
    (lambda x: shown(Frame("x", "X.", {"a": 1})), "gave 1 as the column"),
    (lambda x: shown(Frame("x", "X.", [1])), "gave as columns of the table x a list"),
    (lambda x: shown(Frame("x", None, {})), "gave None as the title of the table x"),
    (lambda x: shown(Frame("x", "X.", {}), Frame("X", "X.", {})), "calls the table X, as metric average"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(("change", "says"), MEASUREMENTS)
def test_measurements_that_do_not_fit(change: Any, says: str, tmp_path: Path) -> None:
    said = refusal(tmp_path, measuring(change))
    assert said.startswith("metric average of harness-evil 9.9: measure()") and says in said, said
