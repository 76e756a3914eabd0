"""Neurons' activations by position under each set of heads, against one hooked pass of one prompt at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import tiny
from harness_plugins.confidence_regulation.tasks.head_response import HeadNeuronInteraction, HeadResponse
from harness_plugins.confidence_regulation.tasks.plain_text import prompt_of

from harness.conditions.conditions import BASELINE, Condition, Selection
from harness.conditions.head_edits import AttendFirst
from harness.conditions.positions import Layout
from harness.conditions.units import Head
from harness.engine import ClosedFormEngine
from harness.engine.hooks import under
from harness.plugin.records import Outcomes
from harness.report.figure_files import render

NEURONS = ("1.3", "2.5")
SPAN = [5, 9, 11, 7]
HEADS = {"treated": (Head(0, 1), Head(1, 2)), "control": (Head(0, 3), Head(1, 0)), "alone": (Head(0, 1),)}


def condition(role: str, heads: tuple[Head, ...], name: str) -> Condition:
    edits = tuple(AttendFirst(head.layer, (head.index,)) for head in heads)
    return Condition(name, edits, units=heads, role=role)  # type: ignore[arg-type]


CONDITIONS = [
    BASELINE,
    condition("treated", HEADS["treated"], "treated"),
    condition("control", HEADS["control"], "control-0"),
    condition("control", (Head(0, 2), Head(1, 3)), "control-1"),
    condition("alone", (Head(0, 1),), "alone-0"),
    condition("alone", (Head(0, 3),), "alone-1"),
]


@pytest.fixture(scope="module")
def found() -> Outcomes:
    model = tiny("llama")
    task = HeadNeuronInteraction(corpus="world", neurons="random", curves="all")
    tokens = [[*model.prefix, *(x + i for x in SPAN), *(x + i for x in SPAN)] for i in range(3)]
    split = len(model.prefix) + len(SPAN)
    prompts = [prompt_of(model, i, x, split=split, watched=list(NEURONS)) for i, x in enumerate(tokens)]
    return task.observe(ClosedFormEngine(model), prompts, CONDITIONS)


def test_each_line_is_what_a_pass_of_its_own_shows(found: Outcomes) -> None:
    model = tiny("llama")
    for neuron in NEURONS:
        layer, index = map(int, neuron.split("."))
        series = found.series[f"activation {neuron}"]
        assert series.rows == ("baseline", "treated", "L0H1", "L0H3", "controls")
        for i, prompt in enumerate(found.prompts):
            each = []
            for one in CONDITIONS:
                with (
                    torch.no_grad(),
                    under(model, one, Layout.of([len(prompt.tokens)])),
                    model.capture_neurons([layer]) as seen,
                ):
                    model.hf(torch.tensor([list(prompt.tokens)]))
                each.append(seen[layer].view(len(prompt.tokens), -1)[:, index].numpy())
            expected = np.stack([each[0], each[1], each[4], each[5], (each[2] + each[3]) / 2])
            np.testing.assert_allclose(series.values[:, i], expected, atol=1e-5)


def test_lines_are_coloured_by_the_sum_of_the_prefix_matching_scores(found: Outcomes) -> None:
    heads = tuple(Head(layer, i) for layer in range(2) for i in range(4))
    selection = Selection(HEADS["treated"], rule="", candidates=heads, scores={"prefix_matching": np.arange(8) / 10})
    figures = {x.name: x for x in HeadResponse().measure(found.split(selection)).figures}
    data = figures["head_curves"].data
    said = {
        ablated: (kind, score)
        for ablated, kind, score in zip(data["ablated"], data["kind"], data["prefix_matching"], strict=True)
    }
    assert said["L0H1+L1H2"] == ("selected", pytest.approx(0.1 + 0.6)) and said["L0H1"] == ("selected", 0.1)
    assert said["L0H3"] == ("baseline", pytest.approx(0.3)) and said["none"][0] == "untouched"
    assert said["mean of the control sets"][0] == "baseline"
    assert all(render(figures["head_curves"]))


def test_the_usual_curves_are_two_rows() -> None:
    model = tiny("llama")
    task = HeadNeuronInteraction(corpus="world", neurons="random")
    assert "curves" not in task.identity()["params"]
    prompts = [prompt_of(model, 0, [*SPAN, *SPAN], split=4, watched=["1.3"])]
    seen = task.observe(ClosedFormEngine(model), prompts, CONDITIONS)
    assert seen.series["activation 1.3"].rows == ("baseline", "treated")
    drawn = HeadResponse().measure(seen.split(Selection(HEADS["treated"], rule=""))).figures
    assert [x.name for x in drawn] == ["head_ablation"]
