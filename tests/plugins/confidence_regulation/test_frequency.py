"""Token-frequency neurons: scores by definition, planted neurons found, nothing found where nothing is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families import tiny, tiny_hf, tokenizer
from harness_plugins.confidence_regulation.selectors.token_frequency import TokenFrequency
from texts import by_definition, context, letters

from harness.conditions.conditions import Selection
from harness.data.token_counts import unigrams
from harness.data.token_sequences import kept, sequences
from harness.errors import HarnessError
from harness.model.model import Model
from harness.model.output_weights import write_directions
from harness.model.weight_scores import frequency_cosines, unembedding_geometry
from harness.model.wrapping import wrap
from harness.plugin import ModelLoader

ASKED: dict[str, Any] = {"sequences": 3, "length": 20, "corpus": letters()}


def select(model: Model, **params: Any) -> Selection:
    return TokenFrequency(**{**ASKED, **params}).select(context(model))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_scores_are_those_of_the_definition(family: str) -> None:
    model = tiny(family)
    selection, some = select(model), [0, 7, 31]
    p = unigrams(model, None, ASKED["corpus"]).probabilities
    expected = by_definition(model, ASKED["corpus"], some, 3, 20, p)
    scores = {name: column[some] for name, column in selection.scores.items()}
    np.testing.assert_allclose(scores["total_effect"], expected["total"], rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(scores["direct_effect"], expected["unigram"], rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(scores["kl_change"], expected["kl"], rtol=2e-3, atol=2e-5)
    fraction = 1 - selection.scores["direct_effect"] / selection.scores["total_effect"]
    np.testing.assert_allclose(selection.scores["frequency_mediated"], fraction)
    read = sequences(model, ASKED["corpus"], 3, 20, 0, part="select", across_documents=True)
    assert selection.details["effect_tokens"] == sum(sum(kept(model, x.tokens)) for x in read) <= 3 * 16


@pytest.mark.parametrize("family", ["gpt2_untied", "llama", "gemma2"])
def test_cosines_with_the_frequency_direction(family: str) -> None:
    """By the whole product W_U w_out."""
    model = tiny(family)
    v = np.random.default_rng(0).normal(size=model.anatomy.d_vocab)
    v -= v.mean()
    w = write_directions(model, 2)
    W = model.readout.folded_unembedding(fold=True, centre=True).double().numpy()
    pushed = w @ W.T
    expected = pushed @ v / np.linalg.norm(pushed, axis=1) / np.linalg.norm(v)
    np.testing.assert_allclose(frequency_cosines(model, unembedding_geometry(model), w, v), expected, rtol=1e-5)
    w[3] = 0
    assert np.isnan(frequency_cosines(model, unembedding_geometry(model), w, v)[3])


PLANTED = (5, 20)


def planted() -> Model:
    """Two neurons push the logits along v_freq and nowhere else: the unembedding holds that direction.

    W_U = random columns, but for one that is v_freq; the others are made orthogonal to it.
    """
    hf = tiny_hf("llama")
    model = wrap(hf, tokenizer(), "llama")
    v = torch.from_numpy(unigrams(model, None, ASKED["corpus"]).log_frequency).float()
    with torch.no_grad():
        W = hf.lm_head.weight
        W -= W.mean(0)
        W -= v[:, None] * (v @ W)[None] / (v @ v)
        W[:, 0] = v * 0.15
        down = hf.model.layers[-1].mlp.down_proj.weight  # [d_model, d_mlp]
        down[0] = 0
        for index in PLANTED:
            down[:, index] = 0
            down[0, index] = 4.0
    return wrap(hf, tokenizer(), "llama")


@pytest.mark.parametrize("rule", ["mediated", "kl_change"])
def test_planted_neurons_are_found(rule: str) -> None:
    selection = select(planted(), rule=rule, top=2)
    assert sorted(neuron.index for neuron in selection.units) == list(PLANTED)
    fraction = selection.scores["frequency_mediated"]
    assert fraction[list(PLANTED)].min() > 0.7
    assert np.delete(fraction, PLANTED).max() < 0.3
    np.testing.assert_allclose(np.abs(selection.scores["v_freq_cosine"][list(PLANTED)]), 1, rtol=1e-5)
    assert f"the 2 with the largest {'frequency-mediated' if rule == 'mediated' else '|mean change'}" in selection.rule


def test_nothing_is_found_where_nothing_was_planted() -> None:
    """Random neurons have no component of note along one direction of many."""
    selection = select(tiny("llama"), top=6)
    assert np.nanmax(selection.scores["frequency_mediated"]) < 0.5
    assert np.abs(selection.scores["v_freq_cosine"]).max() < 0.7


def test_rules_and_quantiles_choose_as_they_say() -> None:
    model = tiny("gpt2")
    for rule, column in (("mediated", "frequency_mediated"), ("kl_change", "kl_change")):
        selection = select(model, rule=rule, effect_quantile=0.5, top=4)
        total, scores = selection.scores["total_effect"], selection.scores[column]
        score = np.where(total >= np.quantile(total, 0.5), np.abs(scores) if rule == "kl_change" else scores, -np.inf)
        assert [x.index for x in selection.units] == np.argsort(-score)[:4].tolist()
    with pytest.raises(HarnessError, match=r"only 13 neurons have a total effect above 0 and from the quantile 0\.9"):
        select(model, effect_quantile=0.9, top=14)
    with pytest.raises(HarnessError, match=r"measured in the last layer \(2\), not in layer 0"):
        select(model, layer=0)
    assert select(model).scores["total_effect"].tolist() == select(model).scores["total_effect"].tolist()


def test_its_figure() -> None:
    selector = TokenFrequency(**ASKED)
    [figure] = selector.figures(selector.select(context(tiny("gpt2"))))
    assert figure.name == "selection_frequency_kl"


def test_the_bundled_model() -> None:
    from harness.plugin.catalogue import catalogue
    from harness.plugin.specs import ComponentSpec

    model = catalogue().build(ModelLoader, ComponentSpec("demo", {}), "--model").load()  # type: ignore[attr-defined]
    selector = TokenFrequency(corpus={"name": "world", "size": 400}, sequences=3, length=64)
    selection = selector.select(context(model))
    assert len(selection.units) == 6 and 0.02 < selection.scores["frequency_mediated"][selection.units[0].index] < 1
    assert "3 sequences of 64 tokens of the corpus world" in selection.rule
