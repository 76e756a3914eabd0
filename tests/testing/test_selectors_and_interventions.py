"""``harness.testing``: our own components keep their promises, and a component that breaks one is told which.

The components below are broken on purpose. They stand in this module, which therefore imports nothing heavy at the top.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from promises import Good, broken
from pydantic import ConfigDict, Field

from harness.conditions.conditions import Selection, SetNeurons
from harness.conditions.units import Head, Neuron, by_layer
from harness.errors import HarnessError
from harness.plugin.catalogue import catalogue
from harness.plugin.components import Intervention, SelectionContext, Selector
from harness.plugin.records import Figure
from harness.testing import (
    check_corpus,
    check_intervention,
    check_metric,
    check_model_loader,
    check_selector,
    check_task,
    demo_model,
    prompts_of,
    tiny_model,
)


def ours(kind: str, name: str) -> Any:
    return catalogue().components[kind][name]  # type: ignore[index]


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox"])
def test_tiny_models_are_the_same_every_time(family: str) -> None:
    model, again, other = tiny_model(family), tiny_model(family), tiny_model(family, seed=1)
    assert model.weights_digest == again.weights_digest != other.weights_digest
    assert model.name == family and model.device.type == "cpu"
    [ids] = model.encode(["Grüße!"])
    assert model.tokenizer.decode(ids) == "Grüße!"


def test_an_unknown_family_names_the_nearest() -> None:
    with pytest.raises(HarnessError, match=r'no family "gtp2"\. Did you mean "gpt2"'):
        tiny_model("gtp2")


def test_prompts_are_tokens_of_the_model() -> None:
    model = tiny_model()
    prompts = prompts_of(model, n=5, length=9)
    assert prompts == prompts_of(model, n=5, length=9) != prompts_of(model, n=5, length=9, seed=1)
    assert len(prompts) == 5 and all(4 <= len(x) <= 9 and max(x) < 260 for x in prompts)


# -- our own components ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("random", {"top": 3}),
        ("neurons", {"neurons": ("2.1", "0.3")}),
        ("heads", {"heads": ("L0H1", "L2H3")}),
        ("entropy", {"rule": "stolfo2024", "top": 3}),
        ("activation_shift", {"sequences": 4, "length": 10}),
        ("token_frequency", {"top": 2, "length": 32, "sequences": 4}),
    ],
)
def test_our_selectors(name: str, params: dict[str, Any]) -> None:
    assert check_selector(ours("selector", name), figures=name == "entropy", **params).units


def test_our_selector_on_the_bundled_model() -> None:
    assert len(check_selector(ours("selector", "entropy"), on=demo_model(), figures=False).units) == 6


# They edit nothing, or what other interventions do, or what tiny_model() has not: tested where they are.
OF_OTHERS = {"none", "circuit", "within", "expert_ablation"}
INTERVENTIONS = sorted(set(catalogue().components["intervention"]) - OF_OTHERS)


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_our_interventions(name: str) -> None:
    params = {"factor": 0.5} if name == "scale" else {}
    assert check_intervention(ours("intervention", name), figures=False, **params)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_our_intervention_on_other_families(family: str) -> None:
    check_intervention(ours("intervention", "mean"), on=tiny_model(family))
    check_intervention(ours("intervention", "mean"), on=tiny_model(family), frozen="final_norm", figures=False)


@pytest.mark.parametrize("name", ["mediation", "induction_synthetic"])
def test_our_tasks_and_their_metrics(name: str) -> None:
    task = ours("task", name)
    outcomes = check_task(task, sequences=2, length=16)
    for metric in task.default_metrics:
        found = check_metric(ours("metric", metric), outcomes)
        assert found.measures or found.figures


def test_our_task_on_the_bundled_model() -> None:
    task = ours("task", "knowledge_conflict")
    said = broken(check_task, task)
    assert said.startswith("task knowledge_conflict: prepare() failed: ") and "64 positions of gpt2" in said
    outcomes = check_task(task, on=demo_model(), limit=80)
    assert [x.name for x in outcomes.conditions[:2]] == ["baseline", "treated"] and len(outcomes.answers) == 2


@pytest.mark.parametrize("name", ["transitions", "conversion_ratios", "entropy_change", "log_odds", "matching"])
def test_our_metrics_of_conflicts(name: str) -> None:
    found = check_metric(ours("metric", name))
    assert found.measures or found.frames


def test_our_corpus_and_model() -> None:
    assert len(check_corpus(ours("corpus", "world"), size=5)) == 5
    assert check_model_loader(ours("model", "demo"), device="cpu").name == "demo"


# -- promises of every kind --------------------------------------------------------------------------------------------


def test_what_it_returns_can_be_looked_at() -> None:
    assert check_selector(Good, top=3).units == (Neuron(2, 0), Neuron(2, 1), Neuron(2, 2))


def test_wrong_parameters_are_told_as_users_are_told() -> None:
    assert "good: input should be greater than or equal to 1" in broken(check_selector, Good, top=0)
    assert 'good has no parameter "topp". Did you mean "top"?' in broken(check_selector, Good, topp=1)
    nested = ours("selector", "norm_matched_random")
    assert 'no selector is called "entropi"' in broken(check_selector, nested, like="entropi")


class Undescribed(Good):
    """It says nothing of its parameter."""

    share: float = 0.5


class Undocumented(Good):
    pass


class Shouting(Good):
    """Its name cannot be told from others in a specification."""

    name = "My:Selector"


class Loose(Good):
    """Its parameters can be changed."""

    model_config = ConfigDict(frozen=False)


class Unfinished(Selector):
    """It does not select."""

    name = "unfinished"


class Endless(Good):
    """Its parameter is no JSON value."""

    bound: float = Field(float("inf"), description="of nothing")

    def identity(self) -> dict[str, Any]:
        return {"bound": self.bound}


@pytest.mark.parametrize(
    ("cls", "says"),
    [
        (Undescribed, 'selector good: its parameter "share" has no description'),
        (Undocumented, "selector good: it has no docstring"),
        (Shouting, "selector My:Selector: a name is made of lower-case letters"),
        (Loose, "selector good: its parameters can be changed after they were validated"),
        (Unfinished, "selector unfinished: it does not implement select()"),
        (Endless, 'selector good: parameter "bound" of good: input should be a finite number, got inf'),
        (Neuron, "Neuron: it is no selector; derive it from Selector of harness.plugin"),
    ],
)
def test_promises_of_every_component(cls: type, says: str) -> None:
    assert says in broken(check_selector, cls)


def test_heavy_imports_at_the_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import torch.nn\nfrom promises import Good\nclass Heavy(Good):\n    'It imports torch.'\n"
    (tmp_path / "heavy_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    from heavy_plugin import Heavy  # type: ignore[import-not-found]

    assert "its module imports torch at the top" in broken(check_selector, Heavy)
    del sys.modules["heavy_plugin"]


# -- selectors ---------------------------------------------------------------------------------------------------------


def selects(change: Callable[[SelectionContext, Selection], Any]) -> type[Selector]:
    """A selector whose choice is a good one, changed."""

    class Changed(Good):
        """A good choice, changed."""

        def select(self, context: SelectionContext) -> Selection:
            found: Selection = change(context, super().select(context))
            return found

    return Changed


def replaced(**fields: Any) -> type[Selector]:
    from dataclasses import replace

    return selects(lambda context, found: replace(found, **fields))


def by_chance(context: SelectionContext, found: Selection) -> Selection:
    return Selection((Neuron(2, int(np.random.randint(128))),), "one by chance")


def with_a_hook(context: SelectionContext, found: Selection) -> Selection:
    def double(module: Any, args: Any, out: Any) -> None:
        out.logits *= 2

    context.model.hf.register_forward_hook(double)
    return found


def with_other_weights(context: SelectionContext, found: Selection) -> Selection:
    next(context.model.hf.parameters()).mul_(1.01)
    return found


def failing(context: SelectionContext, found: Selection) -> Selection:
    raise KeyError("layer")


@pytest.mark.parametrize(
    ("cls", "says"),
    [
        (replaced(units=(Neuron(2, 1000),)), "it names neuron 2.1000, but the model has layers 0 to 2"),
        (replaced(units=(Neuron(-1, 0),)), "layers and neurons count from 0, got -1.0"),
        (replaced(units=(Neuron(2, 1), Neuron(2, 1))), "it names neuron 2.1 twice"),
        (replaced(units=(Neuron(2, 1), Head(2, 1))), "it names both neurons and heads"),
        (replaced(units=()), "selected no neuron"),
        (replaced(units=[Neuron(2, 1)]), "are tuples of units"),
        (replaced(units=(Neuron(0, 1),)), "it chose what is not among its candidates"),
        (replaced(rule=" "), "rule is empty"),
        (replaced(scores={"norm": np.ones(3)}), 'the score "norm" has shape (3,), expected one number for each'),
        (replaced(scores={"norm": np.full(128, np.nan)}), 'the score "norm" of a chosen neuron is not finite'),
        (replaced(details={"set": {1, 2}}), "details cannot be written as JSON"),
        (selects(lambda context, found: found.units), "select() returned no harness.conditions.conditions.Selection"),
        (selects(by_chance), "two calls with one seed choose differently"),
        (selects(with_a_hook), "select() left something behind in the model, a hook perhaps"),
        (selects(with_other_weights), "select() changed the weights of the model"),
        (selects(failing), "select() failed: KeyError: 'layer'"),
        (selects(lambda context, found: found.neurons), "Selection.neurons is called Selection.units in contract 2"),
    ],
)
def test_promises_of_selectors(cls: type[Selector], says: str) -> None:
    assert says in broken(check_selector, cls)


class BadFigure(Good):
    """Its figure has columns of two lengths."""

    def figures(self, selection: Selection) -> tuple[Figure, ...]:
        return (Figure("bad", "A bad figure", {"x": [1, 2], "y": [1]}, lambda canvas: None),)


class BrokenFigure(Good):
    """Its figure cannot be drawn."""

    def figures(self, selection: Selection) -> tuple[Figure, ...]:
        return (Figure("bad", "A bad figure", {"x": [1, 2]}, lambda canvas: canvas.no_such_method()),)  # type: ignore[attr-defined]


def test_promises_of_figures() -> None:
    assert "columns differ in length" in broken(check_selector, BadFigure)
    assert "drawing bad failed: AttributeError" in broken(check_selector, BrokenFigure)
    assert check_selector(BadFigure, figures=False).units


# -- interventions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Doing:
    """An edit that does what a function does."""

    layer: int
    indices: tuple[int, ...]
    function: Callable[[Any], Any]
    site: str = "neurons"

    def apply(self, activations: Any) -> Any:
        return self.function(activations)


def intervenes(function: Callable[[Any], Any], site: str = "neurons") -> type[Intervention]:
    class Changed(Intervention):
        """Does what a function does."""

        name = "changed"
        needs_statistics = False

        def edits(self, units: Sequence[Any], statistics: Any) -> Any:
            return tuple(Doing(layer, tuple(x), function, site) for layer, x in by_layer(units).items())

    return Changed


def noise(x: Any) -> Any:
    import torch

    return x + torch.randn(x.shape)


class WholeLayer(Intervention):
    """Edits more than it was given."""

    name = "whole"
    needs_statistics = False

    def edits(self, units: Sequence[Any], statistics: Any) -> Any:
        return tuple(SetNeurons(layer, (0, 1, 2, 3, 4), (0.0,) * 5) for layer in by_layer(units))


class DrawnOnce(Intervention):
    """Draws its values from global random numbers, but only once."""

    name = "drawn"
    needs_statistics = False

    def edits(self, units: Sequence[Any], statistics: Any) -> Any:
        return tuple(SetNeurons(i, tuple(x), tuple(np.random.rand(len(x)))) for i, x in by_layer(units).items())


def test_a_good_intervention() -> None:
    assert len(check_intervention(intervenes(lambda x: x * 0.5))) == 2
    only = Selection((Neuron(1, 3),), "one")
    assert [edit.layer for edit in check_intervention(intervenes(lambda x: -x), selection=only)] == [1]


@pytest.mark.parametrize(
    ("cls", "says"),
    [
        (intervenes(lambda x: x.mul_(2)), "writes into its argument"),
        (intervenes(lambda x: x[..., :1]), "for (2, 5, 2) torch.float32: shape and type stay as they are"),
        (intervenes(lambda x: x.double()), "torch.float64 for (2, 5, 2) torch.float32"),
        (intervenes(lambda x: x / 0), "returned NaN or infinity for ordinary activations"),
        (intervenes(lambda x: x - x.mean(dim=1, keepdim=True)), "mixes positions"),
        (intervenes(noise), "gives something else when it is applied again"),
        (intervenes(lambda x: x, site="heads"), "an edit of layer 0 is for heads, but the units are neurons"),
        (intervenes(lambda x: x, site="tokens"), 'has the site "tokens": expected neurons, heads, directions'),
        (intervenes(lambda x: x.no_such_method()), "the edit of layer 0: apply() failed: AttributeError"),
        (DrawnOnce, "depends on global random numbers; give it a seed"),
        (WholeLayer, "edits() treats [(0, 0), (0, 1), "),
        (ours("intervention", "none"), "edits() treats [], expected exactly [(0, 1), "),
    ],
)
def test_promises_of_interventions(cls: type[Intervention], says: str) -> None:
    assert says in broken(check_intervention, cls)
