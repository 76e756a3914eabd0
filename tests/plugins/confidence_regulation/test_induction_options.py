"""The synthetic task's options: a separator, more copies, the least activation to clip to, curves of the final norm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness_plugins.confidence_regulation.figures import all_curves
from harness_plugins.confidence_regulation.interventions.clip_mean import ClipMean
from harness_plugins.confidence_regulation.tasks.induction import InductionSynthetic
from harness_plugins.confidence_regulation.tasks.induction_metric import Induction
from harness_plugins.demo import Demo
from matplotlib.figure import Figure as Canvas
from slow_confidence import Pass, Slow, clipped, entropy, log_softmax

from harness.conditions.conditions import BASELINE, Condition, Selection
from harness.conditions.units import Neuron
from harness.engine import ClosedFormEngine, activation_statistics
from harness.errors import HarnessError
from harness.plugin.records import Outcomes
from harness.plugin.specs import parse_spec
from harness.report.figure_files import render

TASK = InductionSynthetic(
    corpus="world", sequences=2, length=10, repetitions=3, separator=" and the", curves="all"
)  # fmt: skip
LAYERS = (3, 1)
"""The last, which the closed form is for, and an earlier one."""


@pytest.fixture(scope="module")
def engine() -> ClosedFormEngine:
    return ClosedFormEngine(Demo().load())


@pytest.fixture(scope="module", params=LAYERS)
def seen(request: pytest.FixtureRequest, engine: ClosedFormEngine) -> tuple[Outcomes, int]:
    """Two neurons of a layer held down at their least activation, and two control sets."""
    prompts, layer = TASK.prepare(engine, None, 0).prompts, request.param
    spans = TASK.reference(prompts, "neurons")
    statistics = activation_statistics(engine.model, [x.tokens for x in prompts], [layer], 64, 0, spans)
    clip, sets = ClipMean(to="minimum"), ((7, 300), (5, 6), (8, 9))
    conditions = [BASELINE]
    for i, some in enumerate(sets):
        units = tuple(Neuron(layer, index) for index in some)
        role = "control" if i else "treated"
        name = f"control-{i}" if i else "treated"
        conditions.append(Condition(name, clip.edits(units, statistics), units=units, role=role))
    return TASK.observe(engine, prompts, conditions), layer


def slowly(found: Outcomes, layer: int, slow: Slow) -> list[tuple[Pass, Pass]]:
    """Passes over every prompt, untouched and with the two neurons held down from the end of the first copy on."""
    fields = [x.fields for x in found.prompts]
    first = [slow.run(x.tokens).neurons[layer][x.fields["begin"] : x.fields["split"], [7, 300]] for x in found.prompts]
    change = {layer: clipped([7, 300], np.concatenate(first).min(axis=0), fields[0]["split"])}
    return [(slow.run(x.tokens), slow.run(x.tokens, change)) for x in found.prompts]


def test_parameters_that_came_later_are_no_part_of_earlier_identities() -> None:
    assert set(InductionSynthetic(corpus="world").identity()["params"]) == {
        "corpus", "sequences", "across_documents", "length",
    }  # fmt: skip
    given = InductionSynthetic(corpus="world", separator=".", repetitions=3, curves="all").identity()["params"]
    assert (given["separator"], given["repetitions"], given["curves"]) == (".", 3, "all")
    assert (
        "to" not in ClipMean().identity()["params"] and ClipMean(to="minimum").identity()["params"]["to"] == "minimum"
    )


def test_copies_stand_apart_by_the_separator(engine: ClosedFormEngine) -> None:
    between = engine.model.tokenizer(" and the", add_special_tokens=False)["input_ids"]
    prepared = TASK.prepare(engine, None, 0)
    for prompt in prepared.prompts:
        tokens, (begin, split, copies) = list(prompt.tokens), (prompt.fields[x] for x in ("begin", "split", "copies"))
        span = tokens[begin:split]
        assert len(span) == 10 and tokens[split:] == [*between, *span] * 2
        assert [tokens[start : start + 10] for start in copies] == [span, span]
    first, second = prompt.fields["copies"]
    assert TASK.counted(prompt).tolist() == [*range(first + 1, first + 10), *range(second, second + 10)]
    assert prepared.steps[-1].why == 'spans of 10 tokens, each followed by 2 copies of itself, " and the" before each'


def test_without_options_the_prompts_say_nothing_of_copies(engine: ClosedFormEngine) -> None:
    task = InductionSynthetic(corpus="world", sequences=1, length=10)
    [prompt] = task.prepare(engine, None, 0).prompts
    assert prompt.fields.keys() == {"begin", "split"} and prompt.tokens[-10:] == prompt.tokens[-20:-10]
    assert task.counted(prompt).tolist() == [*range(prompt.fields["split"] + 1, len(prompt.tokens))]


def test_the_numbers_are_those_of_the_definitions(seen: tuple[Outcomes, int], engine: ClosedFormEngine) -> None:
    found, layer = seen
    slow, norm = Slow(engine.model.hf), found.series["norm"]
    assert norm.rows == ("baseline", "treated", "controls") and np.isnan(norm.values[..., 0]).all()
    for i, (prompt, passes) in enumerate(zip(found.prompts, slowly(found, layer, slow), strict=True)):
        places = TASK.counted(prompt) - 1
        for row, name, one in zip((0, 1), norm.rows, passes, strict=False):
            np.testing.assert_allclose(norm[name][i, 1:], slow.denominator(one.residual)[:-1, 0], rtol=2e-5)
            expected = entropy(log_softmax(one.logits))[places].sum()
            assert found["entropy"][row, i] == pytest.approx(expected, abs=2e-4)
    split = found.prompts[0].fields["split"]
    np.testing.assert_array_equal(norm.values[:, :, 1 : split + 1], norm.values[[0, 0, 0], :, 1 : split + 1])
    assert np.nanmax(np.abs(norm["treated"] - norm["baseline"])) > 1e-4


def test_the_mean_of_the_controls_is_theirs(seen: tuple[Outcomes, int]) -> None:
    found, _ = seen
    for i, prompt in enumerate(found.prompts):
        for name in ("entropy", "loss"):
            curve = found.series[name]["controls"][i, TASK.counted(prompt)]
            assert curve.sum() == pytest.approx(found.controls[name][:, i].mean(), rel=1e-5)


def test_it_draws_all_curves(seen: tuple[Outcomes, int]) -> None:
    found, layer = seen
    selection = Selection(found.conditions[1].units, rule="")
    figures = {x.name: x for x in Induction().measure(found.split(selection)).figures}
    drawn = figures["all_curves"]
    assert {*drawn.data["row"]} == {"baseline", "treated", "controls", f"{layer}.7", f"{layer}.300"}
    assert "the mean of 2 control sets" in drawn.title and "copies begin at" in drawn.title
    assert all(render(drawn))


def test_a_first_position_that_would_flatten_the_others_is_off_the_axis() -> None:
    position, split = np.arange(1, 9), [4]
    even = {"baseline": (np.linspace(8, 9, 8), np.full(8, 0.1)), "treated": (np.linspace(8.5, 9, 8), np.full(8, 0.1))}
    sink = {name: (np.concatenate([[240.0], mean[1:]]), error) for name, (mean, error) in even.items()}
    drawn = all_curves(position, {"loss (nats)": even, "denominator": sink}, split, 5, 0)
    assert drawn.title.endswith("Off the axis at position 1: denominator up to 240.")
    canvas = Canvas()
    drawn.draw(canvas)
    low, high = canvas.axes[1].get_ylim()
    assert 7.9 < low < min(sink["baseline"][0]) and 9.1 < high < 9.3
    assert max(drawn.data["mean"]) == 240  # the numbers are all there
    assert "Off the axis" not in all_curves(position, {"loss (nats)": even}, split, 5, 0).title


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"repetitions": 500}, "500 repetitions of a span of 2 tokens or more do not fit the .* lower repetitions"),
        ({"separator": ""}, "separator.* at least 1 character"),
        ({"repetitions": 1}, "repetitions.* 2"),
    ],
)
def test_what_cannot_be_is_refused_before_it_runs(params: dict[str, Any], says: str, engine: ClosedFormEngine) -> None:
    from harness.plugin.catalogue import catalogue
    from harness.plugin.components import Task

    with pytest.raises(HarnessError, match=says):
        spec = parse_spec({"name": "induction_synthetic", "corpus": "world", **params}, "--task")
        task = catalogue().build(Task, spec, "--task")
        task.check(engine.model)
