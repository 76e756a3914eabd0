"""Each selector of the field finds what its definition says on a planted model, and not what it cannot know of."""

from __future__ import annotations

import json

import numpy as np
import pytest
from harness_plugins.field_selectors import (
    ContrastiveDifference,
    GradientActivation,
    IntegratedGradients,
    Lape,
    SparseProbe,
)
from harness_plugins.field_selectors.groups import Group
from harness_plugins.field_selectors.lape import activation_probabilities, lape
from hypothesis import given
from hypothesis import strategies as st

from harness.engine import ClosedFormEngine
from harness.errors import HarnessError
from harness.plugin import Selection, SelectionContext, Selector
from harness.plugin.catalogue import catalogue
from harness.plugin.specs import parse_spec
from harness.testing import check_selector, prompts_of, tiny_model


def places_of(selection: Selection) -> set[tuple[int, int]]:
    return {(unit.layer, unit.index) for unit in selection.units}


# -- what the answer depends on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [GradientActivation, IntegratedGradients])
def test_attributions_find_planted_neurons_in_the_order_of_their_strength(cls, planted, prompts, roles):
    found = check_selector(cls, on=planted, prompts=prompts, top=12)
    strong = {at for at, strength in roles.answer.items() if strength >= 0.1}
    assert strong <= places_of(found)
    assert not places_of(found) & {*roles.loud, *roles.silent}
    scores = dict(zip(found.candidates, found.scores["attribution"], strict=True))
    level = {0.4: [], 0.2: [], 0.1: []}
    for unit, score in scores.items():
        if (strength := roles.answer.get((unit.layer, unit.index))) in level:
            level[strength].append(score)
    assert min(level[0.4]) > max(level[0.2]) and min(level[0.2]) > max(level[0.1])


def test_the_share_of_prompts_of_the_paper_ranks_them_too(planted, prompts, roles):
    found = check_selector(IntegratedGradients, on=planted, prompts=prompts, top=3, rank="share")
    assert places_of(found) == {at for at, strength in roles.answer.items() if strength == 0.4}
    share = dict(zip(found.candidates, found.scores["share"], strict=True))
    assert min(share[unit] for unit in found.units) > 0.7


# -- what tells groups of texts apart ----------------------------------------------------------------------------------


def test_differences_of_means_find_what_is_active_and_not_what_acts(planted, prompts, roles):
    """Neurons that are loud at cues come first, though they do nothing: no effect has a say in this choice."""
    found = check_selector(ContrastiveDifference, on=planted, prompts=prompts, top=6, corpus="planted_texts")
    assert places_of(found) == set(roles.loud)
    more = check_selector(ContrastiveDifference, on=planted, prompts=prompts, top=18, corpus="planted_texts")
    assert len(places_of(more) & set(roles.answer)) >= 9
    assert not places_of(more) & set(roles.silent)


def test_labelled_texts_are_told_apart_by_the_neurons_of_their_group(planted, roles, labelled):
    by_data = {"data": str(labelled), "positive": "first", "top": 4}
    found = check_selector(SparseProbe, on=planted, feature="activation", **by_data)
    assert places_of(found) & set(roles.first) and not places_of(found) & set(roles.second)
    assert found.details["accuracy_in_sample"] == 1
    difference = check_selector(ContrastiveDifference, on=planted, **by_data)
    delta = {(u.layer, u.index): x for u, x in zip(difference.candidates, difference.scores["difference"], strict=True)}
    assert min(delta[at] for at in roles.first) > 1 > -1 > max(delta[at] for at in roles.second)
    text = json.loads(labelled.read_text().splitlines()[0])["text"]
    selector = SparseProbe(data=str(labelled))
    assert not selector.reads_prompts() and text in selector._read
    with pytest.raises(HarnessError, match=r'there is no label "frist". Did you mean "first"'):
        selector = SparseProbe(data=str(labelled), positive="frist")
        selector.select(SelectionContext(planted, ClosedFormEngine(planted), (), 0))


def test_a_sparse_probe_takes_one_of_several_that_say_the_same(planted, prompts, roles):
    found = check_selector(SparseProbe, on=planted, prompts=prompts, top=2, corpus="planted_texts", C=0.03)
    weights = found.scores["weight"]
    assert 0 < (weights != 0).sum() < len(roles.loud) + len(roles.answer)
    assert places_of(found) <= {*roles.loud, *roles.answer}


def test_lape_finds_the_neurons_of_a_group_of_texts(planted, roles, labelled):
    """Planted ones are silent in the other group; neurons with an effect on the answer are none of these."""
    found = check_selector(Lape, on=planted, data=str(labelled), active=0.6, top=8)
    assert places_of(found) == {*roles.first, *roles.second}
    assert max(found.scores["lape"][found.candidates.index(unit)] for unit in found.units) < 0.05


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=6))
def test_lape_is_an_entropy(p):
    found = lape(np.array(p))
    assert (found >= -1e-12).all() and (found <= np.log(3) + 1e-9).all()


def test_lape_of_some_probabilities():
    p = np.array([[0.5, 0.5], [0.3, 0.0], [0.0, 0.0], [0.1, 0.3]])
    expected = [np.log(2), 0, np.log(2), -0.25 * np.log(0.25) - 0.75 * np.log(0.75)]
    assert lape(p) == pytest.approx(expected)


def test_a_gated_neuron_is_active_where_its_gate_is_above_zero():
    model = tiny_model("llama")
    tokens = prompts_of(model, 5)
    context = SelectionContext(model, ClosedFormEngine(model, 2), (), 0)
    found = activation_probabilities(context, Group("x", tokens), [1])
    seen = []
    handle = model.hf.model.layers[1].mlp.gate_proj.register_forward_hook(lambda _m, _a, out: seen.append(out[0] > 0))
    for ids in tokens:
        model.forward(model.pad([ids]))
    handle.remove()
    counts = np.concatenate([x[len(model.prefix) :].numpy() for x in seen])
    assert found == pytest.approx(counts.mean(0))


# -- what two models share ---------------------------------------------------------------------------------------------


def built(written: str, corpus: str | None = "planted_texts") -> Selector:
    return catalogue().build(Selector, parse_spec(written, "--selector"), "--selector", corpus)


def test_universal_neurons_are_those_that_two_seeds_share(planted, roles):
    """Group neurons are planted in both; of other neurons the second model has none that is alike."""
    selector = built("universal_neurons:other={name: planted, seed: 2},top=12")
    selector.check(planted)
    found = selector.select(SelectionContext(planted, ClosedFormEngine(planted), (), 0))
    assert {*roles.first, *roles.second} <= places_of(found)
    row = [found.candidates.index(unit) for unit in found.units if (unit.layer, unit.index) in roles.first]
    assert found.scores["correlation"][row].min() > 0.9


def test_universal_neurons_need_one_tokenizer(planted):
    with pytest.raises(HarnessError, match=r"universal_neurons: demo and planted have different tokenizers"):
        built("universal_neurons:other=demo").check(planted)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_texts_must_be_named_where_the_model_has_none():
    with pytest.raises(HarnessError, match=r"name labelled texts \(data=FILE\), or texts to compare"):
        built("lape", corpus=None)
    assert built("lape").corpus.name == "planted_texts"


def test_a_file_that_does_not_label_is_refused(tmp_path, planted):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "abc", "label": "x"}\n{"text": "abd"}\n')
    context = SelectionContext(planted, ClosedFormEngine(planted), (), 0)
    with pytest.raises(HarnessError, match=r"texts.jsonl, line 2: expected something in both columns, text and label"):
        Lape(data=str(path)).select(context)
    path.write_text('{"text": "abc", "label": "x"}\n{"text": "abd", "label": "x"}\n')
    with pytest.raises(HarnessError, match=r"lape needs two labels or more, with two texts each"):
        Lape(data=str(path)).select(context)
