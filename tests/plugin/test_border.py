"""What a component raises becomes one sentence that names it, and what it was given stays as it was."""

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
from strangers import Average, Halved, Loud, PlainTask, TinyLoader, make, misbehaving, observing, refusal, selecting

from harness.conditions.conditions import Frozen, Selection
from harness.errors import HarnessError, PluginError
from harness.plugin import border
from harness.plugin.base import Component
from harness.plugin.components import Corpus
from harness.plugin.records import Figure, Measurement, Outcomes
from harness.statistics import Functional, Measure
from harness.testing import tiny_model

METHODS = {
    TinyLoader: "load", PlainTask: "prepare", Loud: "select", Halved: "edits", Average: "measure",
}  # fmt: skip


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


def test_figures_that_are_none(tmp_path: Path) -> None:
    for cls in (Halved, Loud):
        said = refusal(tmp_path, misbehaving(cls, figures=lambda self, *given: None))
        assert said == (
            f"{cls.kind} {cls.name} of harness-evil 9.9: figures() gave None as figures, expected a tuple of "
            "harness.plugin.records.Figure or harness.plugin.records.Frame."
        )


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
