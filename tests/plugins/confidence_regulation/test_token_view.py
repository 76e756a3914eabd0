"""One sequence token by token: chosen by its place, its numbers those of the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from harness_plugins.confidence_regulation.figures import token_view
from harness_plugins.confidence_regulation.figures.token_view import lay_out
from harness_plugins.confidence_regulation.metrics import Effects
from harness_plugins.confidence_regulation.tasks.mediation import Mediation
from harness_plugins.demo import Demo
from hypothesis import given
from hypothesis import strategies as st
from slow_confidence import Slow, entropy, held, log_softmax

from harness.conditions.conditions import BASELINE, Condition, Selection, SetNeurons
from harness.conditions.units import Neuron
from harness.engine import ClosedFormEngine
from harness.report.figure_files import render


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(5, 40))
def test_tokens_follow_each_other_and_stay_in_their_lines(widths: list[int], room: int) -> None:
    places = list(lay_out(widths, room))
    taken = [(row, column + i) for (row, column), width in zip(places, widths, strict=True) for i in range(width)]
    assert taken == sorted(taken) and len(set(taken)) == len(taken)
    for (row, column), width, before in zip(places[1:], widths[1:], places, strict=False):
        assert column + width <= room or column == 0
        assert row in (before[0], before[0] + 1)


def test_the_first_sequence_is_shown_with_the_changes_of_its_predictions() -> None:
    engine = ClosedFormEngine(Demo().load())
    neurons, values = (Neuron(3, 7), Neuron(3, 300)), (0.5, -1.0)
    conditions = [
        BASELINE,
        Condition("treated", (SetNeurons(3, (7, 300), values),), units=neurons),
        Condition("control-0", (SetNeurons(3, (5, 6), values),), role="control"),
    ]
    task = Mediation(corpus="world", sequences=2, length=24, view=16, others=0)
    assert "view" not in Mediation(corpus="world").identity()["params"]
    prepared = task.prepare(engine, None, 0)
    first, second = prepared.prompts
    assert "view" not in second.fields and len(first.fields["view"]) == 16
    assert "".join(first.fields["view"]).strip() in engine.model.tokenizer.decode(list(first.tokens)).strip()
    found = task.observe(engine, prepared.prompts, conditions)
    figures = {x.name: x for x in Effects().measure(found.split(Selection(neurons, rule=""))).figures}
    data, slow = figures["token_view"].data, Slow(engine.model.hf)
    before, after = (slow.run(first.tokens, x) for x in (None, {3: held([7, 300], np.array(values))}))
    p, q = log_softmax(before.logits), log_softmax(after.logits)
    places = np.arange(1, 16)
    targets = np.array(first.tokens)[places]
    known = ~np.isnan(np.asarray(data["change of loss (nats)"])[1:])
    assert known.sum() > 8  # the first predictions do not count
    expected = {
        "change of entropy (nats)": (entropy(q) - entropy(p))[places - 1],
        "change of loss (nats)": (p - q)[places - 1, targets],
    }
    for name, column in expected.items():
        np.testing.assert_allclose(np.asarray(data[name])[1:][known], column[known], atol=2e-5)
    activation = np.asarray(data["activation of 3.7"])[1:]
    np.testing.assert_allclose(activation[known], before.neurons[3][places - 1, 7][known], atol=1e-5)
    assert np.isnan(activation[~known]).all()
    assert "the first of the evaluated sequences" in figures["token_view"].title
    assert all(render(figures["token_view"]))


def test_any_text_can_be_drawn() -> None:
    figure = token_view(["", "\n", " $x_", "a" * 300, "\u4e2d", "<|end|>"], {"change": np.full(6, np.nan)}, "by hand")
    assert all(render(figure)) and list(figure.data["token"])[1] == "\n"
    with pytest.raises(ValueError, match="6 tokens"):
        token_view(["a"] * 6, {"change": np.zeros(5)}, "by hand")
