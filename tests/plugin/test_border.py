"""What a component raises, and what it hands over that does not fit, becomes one sentence that names it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import record, samples
from strangers import Average, Halved, Loud, PlainTask, TinyLoader, make, misbehaving

from harness.conditions.conditions import Direction, Frozen, Head, Neuron, Selection, SetNeurons
from harness.errors import HarnessError, PluginError
from harness.plugin import border
from harness.plugin.components import Component, Corpus
from harness.plugin.records import Figure, Frame, Measurement, Outcomes, Prepared, Series, Table
from harness.statistics import Functional, Measure
from harness.testing import tiny_model

KEPT = " What the model was run for is kept: the same command goes on from there."

METHODS = {
    TinyLoader: "load", PlainTask: "prepare", Loud: "select", Halved: "edits", Average: "measure",
}  # fmt: skip


def refusal(folder: Path, cls: type[Component], **fields: Any) -> str:
    """The sentence with which a run ends; nothing is left but what the model was run for, and that is said."""
    with pytest.raises(PluginError) as caught:
        make(folder, cls, **fields)
    left = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    parts = [path for path in left if path.name.startswith("part-")]
    said, kept, _ = str(caught.value).partition(KEPT)
    assert bool(parts) == bool(kept) and (parts or not left), left
    return said


def test_good_components_make_a_run(tmp_path: Path, blank_figures: None) -> None:
    folder = make(tmp_path)
    assert (folder / "result.json").is_file() and not (folder / "unfinished").exists()


# -- exceptions --------------------------------------------------------------------------------------------------------


class Stop(BaseException):
    """Neither an Exception nor an interruption."""


class Mute(Exception):
    """Fails to say anything."""

    def __str__(self) -> str:
        raise ValueError


CALLS = [
    *METHODS.items(),
    (PlainTask, "observe"),
    (PlainTask, "data_digest"),
    (PlainTask, "alone"),
    (PlainTask, "gives"),
    (Loud, "check"),
    (Loud, "reads_prompts"),
    (Loud, "figures"),
    (Halved, "prepare"),
    (Halved, "freeze"),
    (Halved, "figures"),
    (PlainTask, "inputs"),
]


@pytest.mark.parametrize(("cls", "method"), CALLS, ids=lambda x: x if isinstance(x, str) else x.name)
def test_an_exception_of_any_call_names_component_distribution_and_call(
    cls: type[Component], method: str, tmp_path: Path, blank_figures: None
) -> None:
    def broken(self: Any, *arguments: Any, **rest: Any) -> Any:
        raise ValueError("not\ntoday")

    said = refusal(tmp_path, misbehaving(cls, **{method: broken}))
    assert said == f"{cls.kind} {cls.name} of harness-evil 9.9: {method}() raised ValueError: not today."


def test_what_has_seen_raises_is_named(tmp_path: Path) -> None:
    def broken(self: Any, prompt: Any) -> Any:
        raise KeyError("x")

    weights = misbehaving(Loud, reads_prompts=lambda self: False, has_seen=broken)
    with pytest.raises(PluginError, match=r"selector loud of harness-evil 9.9: has_seen\(\) raised KeyError: 'x'\."):
        make(tmp_path, weights)


def test_what_reference_raises_is_named(tmp_path: Path) -> None:
    def broken(self: Any, *arguments: Any) -> Any:
        raise KeyError("x")

    wanting = misbehaving(Halved, needs_statistics=True)
    with pytest.raises(PluginError, match=r"task plain of harness-evil 9.9: reference\(\) raised KeyError: 'x'\."):
        make(tmp_path, wanting, misbehaving(PlainTask, reference=broken))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (SystemExit(0), "raised SystemExit: 0."),
        (BrokenPipeError(32, "Broken pipe"), "raised BrokenPipeError: [Errno 32] Broken pipe."),
        (Stop("now"), "raised Stop: now."),
        (GeneratorExit(), "raised GeneratorExit."),
        (RecursionError("deep"), "raised RecursionError: deep."),
        (MemoryError(), "raised MemoryError."),
        (Mute(), "raised Mute."),
        (HarnessError("something is wrong."), "select(): something is wrong."),
        (HarnessError("selector loud: take more."), "selector loud: take more."),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else "",
)
@pytest.mark.filterwarnings("ignore")
def test_whatever_a_component_raises_ends_the_run_with_a_sentence(
    error: BaseException, says: str, tmp_path: Path
) -> None:
    def select(self: Any, context: Any) -> Any:
        raise error

    with pytest.raises(HarnessError) as caught:
        make(tmp_path, misbehaving(Loud, select=select))
    assert says in str(caught.value) and "loud" in str(caught.value)
    assert not list(tmp_path.glob("small-*/*"))


def test_an_interruption_stays_one_and_can_be_continued(tmp_path: Path) -> None:
    def observe(self: Any, *arguments: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, misbehaving(PlainTask, observe=observe))
    assert list(tmp_path.glob("small-*/unfinished/prepared.json"))


def test_exceptions_of_the_functions_that_are_handed_over_are_named(tmp_path: Path) -> None:
    def fails(*_: Any) -> Any:
        raise ZeroDivisionError("zero")

    def functional(self: Any, outcomes: Outcomes) -> Measurement:
        return Measurement((Functional("f", "f", "nats", outcomes["entropy"][..., None], fails),))

    def drawn(self: Any, outcomes: Outcomes) -> Measurement:
        return Measurement(figures=(Figure("bars", "Bars.", {"x": [1]}, fails),))

    assert "metric average of harness-evil 9.9: measure() raised Zero" in refusal(
        tmp_path, misbehaving(Average, measure=functional)
    )
    assert "metric average of harness-evil 9.9: drawing the figure bars raised Zero" in refusal(
        tmp_path, misbehaving(Average, measure=drawn)
    )
    wrong = misbehaving(Halved, change=staticmethod(fails))
    assert "intervention halved of harness-evil 9.9: apply() raised ZeroDivisionError: zero." in refusal(
        tmp_path, wrong
    )


def test_the_validation_of_parameters_is_a_component_s_own_too(tmp_path: Path) -> None:
    def broken(self: Any, _: Any) -> None:
        raise KeyError("seven")

    said = refusal(tmp_path, misbehaving(Loud, model_post_init=broken))
    assert said == "selector loud of harness-evil 9.9: its parameters raised KeyError: 'seven'."


# -- what is handed over -----------------------------------------------------------------------------------------------


def selecting(change: Callable[[Selection], Any]) -> type[Component]:
    return misbehaving(Loud, select=lambda self, context: change(Loud.select(self, context)))


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
    with pytest.raises(HarnessError, match=r"selector loud of harness-evil 9\.9 selected no neuron: loosen"):
        make(tmp_path, selecting(lambda x: replace(x, units=())))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: Selection(neurons=x.units, rule="r"),  # type: ignore[call-arg]
        lambda x: replace(x, neurons=x.units[:1]),  # type: ignore[call-arg]
        lambda x: replace(x, units=x.neurons[:1]),
    ],
)
def test_a_plugin_of_an_older_contract_is_told_the_new_name(change: Any, tmp_path: Path) -> None:
    said = refusal(tmp_path, selecting(change))
    assert said.startswith("selector loud of harness-evil 9.9: select() raised ")
    assert said.endswith(" (Selection.neurons is called Selection.units in contract 2).")


def editing(edits: Callable[[Any], Any], **rest: Any) -> type[Component]:
    return misbehaving(Halved, edits=lambda self, units, statistics: edits(units), **rest)


def anew(x: torch.Tensor) -> torch.Tensor:
    return x + torch.randn_like(x)


def silent(units: Any, value: float = 0.0) -> SetNeurons:
    return SetNeurons(2, tuple(x.index for x in units), (value,) * len(units))


EDITS: list[tuple[type[Component], str]] = [
    (editing(lambda n: None), "edits() returned None, expected a tuple of edits"),
    (editing(lambda n: [silent(n)]), "edits() returned a list"),
    (editing(lambda n: (x for x in [silent(n)])), "edits() returned a generator"),
    (editing(lambda n: silent(n)), "edits() returned a SetNeurons"),
    (editing(lambda n: ("zero",)), "gave 'zero' among the edits"),
    (editing(lambda n: ()), "edits() left out 2.0, of 2 neurons that it was to edit"),
    (editing(lambda n: (silent(n[:1]),)), "edits() left out 2.1"),
    (editing(lambda n: (silent([*n, Neuron(2, 40)]),)), "edits() edited 2.40, too"),
    (editing(lambda n: (silent(n), silent(n))), "edits() edited one of them twice"),
    (editing(lambda n: (SetNeurons(2, (-2, -1), (0.0, 0.0)),)), "edits() left out 2.0"),
    (editing(lambda n: (silent(n),), site="heads"), "heads"),
    (editing(lambda n: (silent(n, float("nan")),)), "makes ordinary activations NaN or infinite"),
    (editing(lambda n: (silent(n, float("inf")),)), "makes ordinary activations NaN or infinite"),
    (editing(lambda n: (silent(n, float(np.random.rand())),)), "edits() draws something anew each time"),
    (misbehaving(Halved, change=staticmethod(anew)), "gives something else when it is applied again"),
    (misbehaving(Halved, change=staticmethod(lambda x: x[..., :1])), "returned (2, 3, 1) torch.float32 for (2, 3, 2)"),
    (misbehaving(Halved, change=staticmethod(lambda x: x.mean())), "returned () torch.float32 for"),
    (misbehaving(Halved, change=staticmethod(lambda x: x.double())), "returned (2, 3, 2) torch.float64 for"),
    (misbehaving(Halved, change=staticmethod(lambda x: x > 0)), "returned (2, 3, 2) torch.bool for"),
    (misbehaving(Halved, change=staticmethod(lambda x: 0.0)), "returned 0.0, expected a tensor"),
    (misbehaving(Halved, change=staticmethod(lambda x: x.numpy())), "returned a ndarray, expected a tensor"),
    (misbehaving(Halved, change=staticmethod(lambda x: x.mul_(2))), "writes into its argument"),
    (misbehaving(Halved, change=staticmethod(lambda x: x / 0)), "makes ordinary activations NaN or infinite"),
    (misbehaving(Halved, prepare=lambda self, selection: None), "prepare() returned None, expected harness.plugin"),
    (misbehaving(Halved, freeze=lambda self, model: "final_norm"), "freeze() returned 'final_norm', expected harness"),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "says"), EDITS)
def test_edits_that_do_not_fit(cls: type[Component], says: str, tmp_path: Path) -> None:
    with pytest.raises(HarnessError) as caught:
        make(tmp_path, cls)
    assert says in str(caught.value), str(caught.value)
    if cls.site == "neurons":  # type: ignore[attr-defined]
        assert str(caught.value).startswith("intervention halved of harness-evil 9.9: ")
    assert not list(tmp_path.glob("small-*/*"))


def test_figures_that_are_none(tmp_path: Path) -> None:
    for cls in (Halved, Loud):
        said = refusal(tmp_path, misbehaving(cls, figures=lambda self, *given: None))
        assert said == (
            f"{cls.kind} {cls.name} of harness-evil 9.9: figures() gave None as figures, expected a tuple of "
            "harness.plugin.records.Figure or harness.plugin.records.Frame."
        )


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("engine", ["auto", "hooks"])
@pytest.mark.parametrize("late", [1, 3])
def test_edits_are_applied_twice_in_every_engine(layer: int, engine: str, late: int, tmp_path: Path) -> None:
    """One that is pure when it is tried and goes astray in the run is found there, in closed form and in hooks."""
    calls = 0

    def change(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += x.shape[:2] != (2, 3)  # the trial
        return x + (torch.randn_like(x) if calls >= late else 0)

    def select(self: Any, context: Any) -> Selection:
        return Selection((Neuron(layer, 0), Neuron(layer, 1)), "two")

    from strangers import Changed

    from harness.conditions.conditions import by_layer

    def edits(self: Any, units: Any, statistics: Any) -> Any:
        return tuple(Changed(at, tuple(i), change) for at, i in by_layer(units).items())

    with pytest.raises(PluginError, match=r"intervention halved of harness-evil 9\.9: .* gives something else when"):
        make(tmp_path, misbehaving(Loud, select=select), misbehaving(Halved, edits=edits), engine=engine)


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


def observing(change: Callable[[Outcomes], Any]) -> type[Component]:
    return misbehaving(PlainTask, observe=lambda self, *a: change(PlainTask.observe(self, *a)))


def having(found: Outcomes, array: Any, name: Any = "entropy", **rest: Any) -> Outcomes:
    made = replace(found, **rest)
    object.__setattr__(made, "values", {name: array})  # past the check of the record itself
    return made


OUTCOMES: list[tuple[Any, str]] = [
    (lambda x: None, "returned None, expected harness.plugin.records.Outcomes"),
    (lambda x: x.values, "returned a dict, expected"),
    (lambda x: replace(x, conditions=x.conditions[:-1], values={}), "gave outcomes of 4 conditions"),
    (lambda x: replace(x, conditions=("treated", "baseline", *x.conditions[2:])), "in their order"),
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


@pytest.mark.parametrize(
    "load", [lambda self: None, lambda self: tiny_model().hf, lambda self: "gpt2"], ids=["None", "hf", "text"]
)
def test_a_loader_that_returns_no_model(load: Any, tmp_path: Path) -> None:
    said = refusal(tmp_path, misbehaving(TinyLoader, load=load))
    assert said.startswith("model tiny of harness-evil 9.9: load() returned ") and "harness.model.model.Model" in said


def test_a_model_in_training_mode(tmp_path: Path) -> None:
    def load(self: Any) -> Any:
        model = tiny_model()
        model.hf.train()
        return model

    assert "load() returned a model in training mode" in refusal(tmp_path, misbehaving(TinyLoader, load=load))


# -- what they were given stays as it was ------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "method"), [(Loud, "select"), (PlainTask, "prepare"), (PlainTask, "observe")])
@pytest.mark.parametrize("way", ["data", "numpy", "swapped", "hook", "training"])
def test_a_model_that_is_changed(cls: type[Component], method: str, way: str, tmp_path: Path) -> None:
    def changes(self: Any, given: Any, *rest: Any) -> Any:
        hf = given.model.hf
        weight = next(weight for weight in hf.parameters() if weight.dim() == 2)
        with torch.no_grad():
            if way == "data":
                weight.data[0, 0] += 1
            elif way == "numpy":
                weight.detach().numpy()[3] = 0
            elif way == "swapped":
                weight.data[[0, 1]] = weight.data[[1, 0]]
            elif way == "hook":
                hf.register_forward_hook(lambda *_: None)
            else:
                hf.train()
        return getattr(cls, method)(self, given, *rest)

    said = refusal(tmp_path, misbehaving(cls, **{method: changes}))
    what = {"hook": "left hooks in the model", "training": "left the model in training mode"}
    assert said.startswith(f"{cls.kind} {cls.name} of harness-evil 9.9: {method}() ")
    assert what.get(way, "changed the weights of the model (") in said


def test_a_metric_cannot_change_outcomes_nor_an_intervention_statistics(tmp_path: Path) -> None:
    def measure(self: Any, outcomes: Outcomes) -> Measurement:
        outcomes["entropy"][:] = 0
        return Average.measure(self, outcomes)

    def edits(self: Any, units: Any, statistics: Any) -> Any:
        statistics.mean[2][:] = 0
        return Halved.edits(self, units, statistics)

    assert "measure() raised ValueError: assignment destination is read-only" in refusal(
        tmp_path, misbehaving(Average, measure=measure)
    )
    assert "edits() raised ValueError: assignment destination is read-only" in refusal(
        tmp_path, misbehaving(Halved, needs_statistics=True, edits=edits)
    )


# -- texts -------------------------------------------------------------------------------------------------------------


def corpus(texts: Callable[[], Any]) -> Corpus:
    class Texts(Corpus):
        """Texts."""

        name = "texts"

        def documents(self) -> Any:
            return texts()

        def data_digest(self) -> Any:
            return None

    return Texts()


def failing() -> Iterator[str]:
    yield "one"
    raise BrokenPipeError


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (lambda: "one text", "returned 'one text', expected list"),
        (lambda: None, "raised TypeError"),
        (lambda: [b"bytes"], "gave a bytes as a text"),
        (lambda: ["a", 7], "gave 7 as a text"),
        (lambda: ["\udcff"], "not Unicode"),
        (failing, "raised BrokenPipeError"),
    ],
)
def test_corpora_that_do_not_fit(texts: Any, says: str) -> None:
    with pytest.raises(PluginError, match="corpus texts: documents") as caught:
        list(border.documents(corpus(texts)))
    assert says in str(caught.value)


def test_a_corpus_that_is_not_read_to_its_end_is_no_error() -> None:
    found = border.documents(corpus(lambda: iter(["one", "two"])))
    assert next(found) == "one"
    found.close()
    with pytest.raises(PluginError, match="gave None as a digest"):
        border.data_digest(corpus(list))


def test_what_is_frozen_is_what_engines_know(tmp_path: Path) -> None:
    wrong = misbehaving(Halved, freeze=lambda self, model: Frozen("everything"))  # type: ignore[arg-type]
    with pytest.raises(HarnessError, match='condition "treated" freezes "everything", expected one of'):
        make(tmp_path, wrong)


# -- one border --------------------------------------------------------------------------------------------------------

CALLED = {"select", "edits", "documents", "observe", "measure", "freeze", "prepare", "alone", "reference"}
OWN = {
    ("effects.py", "work.measure"),  # no component
    ("treatment.py", "self.texts.prepare"),  # our own
}


def test_the_core_calls_components_at_the_border_only() -> None:
    folder = Path(border.__file__).parent
    found = set()
    for path in folder.rglob("*.py"):
        if path.name == "border.py" or "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CALLED:
                called = ast.unparse(node.func)
                if not called.startswith(("border.", "super().")):
                    found.add((path.name, called))
    assert found <= OWN, found


# -- what two components may have alike --------------------------------------------------------------------------------


def test_measures_of_two_metrics_with_one_name_keep_their_own_p(tmp_path: Path, blank_figures: None) -> None:
    def primary(values: Callable[[np.ndarray], np.ndarray]) -> Any:
        def measure(self: Any, outcomes: Outcomes) -> Measurement:
            found = values(outcomes["entropy"])
            return Measurement((Measure("m", "m", "nats", found, np.ones(found.shape), primary=True),))

        return measure

    first = misbehaving(Average, measure=primary(lambda x: x - x[:1]))
    still = misbehaving(Average, name="other", measure=primary(np.zeros_like))
    folder = make(tmp_path, first, still, metrics=("average", "other"), controls=19)
    one, two = record(folder)["measures"]
    assert (one["metric"], two["metric"]) == ("average", "other")
    assert one["p_holm"] >= one["p_two_sided"] and two["p_holm"] == 1.0 and one["p_holm"] != two["p_holm"]


def test_a_code_of_no_category_is_written_as_none(tmp_path: Path, blank_figures: None) -> None:
    def coded(found: Outcomes) -> Outcomes:
        codes = np.tile(np.array([0, 1, -1, -1]), (len(found.conditions), 1))[:, [int(x.id) for x in found.prompts]]
        return replace(found, values={**found.values, "kind": codes}, categories={"kind": ("a", "b")})

    folder = make(tmp_path, observing(coded))
    assert [row["kind"] for row in samples(folder)] == ["a", "b", None, None]
