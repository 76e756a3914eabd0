"""The rule confirmed: its comparison by a plain loop, and what it finds where something, or nothing, is to be found."""

from __future__ import annotations

import numpy as np
import planted as garden
import pytest
import torch
from families import tiny
from harness_plugins.confidence_regulation.analysis.confirmation import (
    CHANCE,
    candidates,
    chance_of_rho,
    confirm,
    enough,
    matched,
    norm_path,
    rho_by_chance,
)
from harness_plugins.confidence_regulation.selectors.entropy import Entropy
from harness_plugins.confidence_regulation.texts import Prose
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import ENTROPY, planted

from harness.conditions.conditions import Selection
from harness.data.token_sequences import half
from harness.effects import effects
from harness.engine.activation_summaries import activation_statistics
from harness.engine.closed_form import ClosedFormEngine
from harness.errors import HarnessError
from harness.model.model import Model
from harness.model.weight_rules import PUBLISHED, by_weights, overlap
from harness.model.weight_scores import null_kind, unembedding_geometry
from harness.plugin import Condition, SetNeurons, border
from harness.plugin.catalogue import catalogue
from harness.plugin.components import SelectionContext, Selector
from harness.plugin.specs import parse_spec
from harness.testing import demo_model


def select(model: Model, seed: int = 0, **params: object) -> Selection:
    return Entropy(**params).select(SelectionContext(model, ClosedFormEngine(model, 64), [], seed))  # type: ignore[arg-type]


def chosen(selection: Selection) -> list[int]:
    return sorted(unit.index for unit in selection.units)


# -- the comparison ----------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.integers(8, 200), k=st.integers(1, 6), trivial=st.integers(0, 1))
def test_the_chance_of_a_rho_is_that_of_random_directions(seed: int, d: int, k: int, trivial: int) -> None:
    k += trivial
    w = np.random.default_rng(seed).normal(size=(4000, d - trivial))
    rho = np.sort(np.linalg.norm(w[:, : k - trivial], axis=1) / np.linalg.norm(w, axis=1))
    found = chance_of_rho(rho, d, k, trivial)
    assert np.abs(found - (1 - np.arange(4000) / 4000)).max() < 0.045  # Kolmogorov's bound at 1e-7
    least = rho_by_chance(50, d, k, trivial)
    assert chance_of_rho(np.array([least]), d, k, trivial)[0] == pytest.approx(CHANCE / 50)


def test_nothing_is_more_than_chance_where_nothing_can_be_written() -> None:
    assert chance_of_rho(np.array([0.0, 1.0]), 8, 1, trivial=1).tolist() == [1, 1]
    assert rho_by_chance(10, 8, 1, trivial=1) == 1


def test_three_signs_propose() -> None:
    rng = np.random.default_rng(0)
    norm, logit_var = rng.uniform(1, 2, 100), np.full(100, 1.0)
    first, second, rhos = np.ones(100), np.ones(100), [np.zeros(100), np.zeros(100)]
    first[[3, 4]], second[5] = 1e-9, 1e-9
    norm[[7, 8]], logit_var[[7, 8]] = (3, 0.5), 0.1  # large and quiet; small and quiet
    norm[9], logit_var[9], first[10], norm[10] = 3, 0.6, 1e-9, 0  # not quiet enough; writes nothing
    assert candidates(rhos, [first, second], logit_var, norm, 1).tolist() == [3, 4, 5, 7]
    many = np.full(100, 1e-9)
    rhos[0] = rng.random(100)
    assert candidates(rhos, [many, second], logit_var, norm, 12).tolist() == sorted(
        {*np.argsort(-np.where(norm > 0, rhos[0], -1))[:12].tolist(), 5, 7}
    )


@pytest.mark.parametrize("n", [1, 3, 7, 8, 12, 19])
def test_as_many_others_as_one_candidate_needs(n: int) -> None:
    m = enough(n, 0.05)
    assert 1 / (m + 1) <= 0.05 / n + 1e-12 < 1 / m


def test_others_are_the_nearest_in_norm() -> None:
    norm = np.array([0.0, 1.0, 1.1, 2.0, 4.0, 4.1, 8.0])
    found = matched(np.array([4, 1]), np.array([1, 4]), norm, 2)
    assert found.tolist() == [[5, 6], [2, 3]] or found.tolist() == [[5, 3], [2, 3]]
    assert found[0, 0] == 5 and matched(np.array([4]), np.array([1, 4]), norm, 99).shape == (1, 4)


def test_p_counts_whoever_does_as_much() -> None:
    does = np.array([0.9, 0.6, 9.0, 0.6, 0.9, 0.1, 0.95])
    proposed, others = np.array([0, 1, 2]), np.array([[3, 4, 5, 6], [3, 4, 5, 6]])
    # As much as 0 do 4 and 6, as 1 also 3: 3/5 and 4/5. 2 is not compared.
    adjusted, passing = confirm(proposed, np.array([0, 1]), others, does, level=0.95)
    np.testing.assert_allclose(adjusted, [1, 1, 1, *[np.nan] * 4])
    assert passing.tolist() == []
    adjusted, passing = confirm(proposed[:2], np.array([0, 1]), others, does, level=0.8)
    np.testing.assert_allclose(adjusted[:2], [0.8, 0.8])  # Benjamini-Hochberg: 2 * 3/5 is more than 4/5
    assert passing.tolist() == [0, 1]
    assert confirm(proposed[:2], np.array([0, 1]), others, does, level=0.79)[1].tolist() == []


def test_the_path_through_the_norm_is_told_where_the_two_pull_apart() -> None:
    """N = 3 against D = 2: TE is 1, so that 1 - DE/TE says -100%."""
    assert norm_path(np.array([3.0, 0, np.nan]), np.array([2.0, 0, np.nan])).tolist()[:2] == [0.6, 0.0]


def test_overlap_of_sets() -> None:
    assert overlap(np.array([1, 2]), np.array([2, 3])) == pytest.approx(1 / 3)
    assert overlap(np.array([], int), np.array([], int)) == 1


# -- what is found -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return garden.write_corpus(tmp_path_factory.mktemp("corpus"))


def by_spec(model: Model, spec: str) -> Selection:
    selector = catalogue().build(Selector, parse_spec(spec, "it"), "it")
    return selector.select(SelectionContext(model, ClosedFormEngine(model, 64), [], 0))


@pytest.mark.parametrize(("family", "loudness"), [("gpt2", 1.0), ("gpt2", garden.QUIET), ("llama", 1.0)])
def test_the_planted_neurons_are_found_and_no_other(family: str, loudness: float, corpus: str) -> None:
    selection = by_spec(planted(family, loudness).model(), f"entropy:corpus={corpus},length=48")
    assert chosen(selection) == list(ENTROPY)
    scores, rows = selection.scores, list(ENTROPY)
    np.testing.assert_allclose(scores["norm_path"][rows], 1, atol=0.02)
    assert (scores["p_adjusted"][rows] <= 0.05).all() and np.isnan(scores["p_adjusted"]).sum() == garden.D_MLP - len(
        ENTROPY
    )
    does = scores["norm_path"] * scores["entropy_through_norm"]
    assert np.argsort(-does[rows]).tolist() == [rows.index(x.index) for x in selection.units]
    assert selection.details["still_chosen"].keys() == {"1", "3", "6"} or "LayerNorm" in selection.details["processing"]
    assert {x["iou"] for x in selection.details["published_rules"].values()} == {1.0}


@pytest.mark.parametrize("family", ["gpt2", "gpt2_untied", "llama", "gpt_neox", "gemma2", "qwen2"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_weights_have_none(family: str, seed: int) -> None:
    selection = select(tiny(family, seed=seed), seed)
    assert selection.units == ()
    assert selection.rule.startswith(f"layer {tiny(family).anatomy.n_layers - 1} has no entropy neurons by the rule ")
    assert set(selection.details["published_rules"]) == set(PUBLISHED)


def test_the_organism_has_its_own_and_none_without_them() -> None:
    model = demo_model()
    before = select(model, corpus="world")
    assert len(before.units) == 6 and {x.index for x in before.units} <= set(range(8))
    assert before.scores["norm_path"][chosen(before)].min() > 0.99
    weight = model.hf.gpt_neox.layers[-1].mlp.dense_4h_to_h.weight  # [d, m]
    random = torch.randn(weight[:, :8].shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight[:, :8] = random * weight[:, :8].norm(dim=0) / random.norm(dim=0)
    after = select(model, corpus="world")
    assert after.units == () and " has no entropy neurons by the rule confirmed: " in after.rule


def test_candidates_that_do_not_act_through_the_norm_are_not_taken() -> None:
    """All of a neuron's output weights in one direction of what counts as the null space, which W_U reads well."""
    model = tiny("llama", seed=3)
    geometry = unembedding_geometry(model)
    down = model.hf.model.layers[-1].mlp.down_proj.weight  # [d, m]
    with torch.no_grad():
        down[:, 5] = down.norm(dim=0).median() * torch.from_numpy(geometry.directions[:, -20]).float()
    selection = select(model, null_dims=20)
    assert selection.units == ()
    assert "the nearest of 1 candidate, 2.5, acts to " in selection.rule
    assert "through the final norm, where 50% is the least (on " in selection.rule
    assert np.isfinite(selection.scores["norm_path"]).sum() == 1  # nobody else had to be measured


def test_too_small_a_layer_confirms_nothing(corpus: str) -> None:
    """Fifteen neurons of each candidate's norm: p is 1/16 at best."""
    model = planted("llama").model()
    with torch.no_grad():
        rest = [i for i in range(garden.D_MLP) if i not in (*ENTROPY, *range(50, 65))]
        model.hf.model.layers[-1].mlp.down_proj.weight[:, rest] = 0
    selection = by_spec(model, f"entropy:corpus={corpus},length=48")
    assert selection.units == ()
    assert (
        "than the 15 others nearest in norm: p = 0.0625 after Benjamini-Hochberg, where 0.05 is the most"
        in selection.rule
    )


def test_measured_scores_are_those_of_the_effects() -> None:
    model = demo_model()
    selection = select(model, corpus="world", sequences=2, length=32, method="exact")
    reader = Entropy(corpus="world", sequences=2, length=32)
    from harness_plugins.confidence_regulation.analysis.effects_on_text import text

    from harness.data.token_sequences import kept

    context = SelectionContext(model, ClosedFormEngine(model, 64), [], 0)
    tokens = text(context, reader.corpus, 2, 32, True, 0).tokens  # type: ignore[arg-type]
    means = activation_statistics(model, tokens, [3], 64, 0).mean[3]
    rows = [0, 3]
    found = effects(
        model, tokens, [Condition(f"{i}", (SetNeurons(3, (i,), (float(means[i]),)),)) for i in rows],
        positions=[kept(model, x, newlines=False) for x in tokens],
    )  # fmt: skip
    loss, entropy = found.loss_change, found.entropy_change
    through = np.abs(loss["total"] - loss["frozen_norm"]).mean(1)
    direct = np.abs(loss["frozen_norm"]).mean(1)
    expected = {
        "total_effect": np.abs(loss["total"]).mean(1),
        "direct_effect": direct,
        "norm_path": through / (through + direct),
        "entropy_through_norm": np.abs(entropy["total"] - entropy["frozen_norm"]).mean(1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(selection.scores[name][rows], values, rtol=1e-4, atol=1e-6, err_msg=name)


# -- what a run and a reader are told ----------------------------------------------------------------------------------


def test_a_run_without_entropy_neurons_is_refused_in_a_sentence() -> None:
    model = tiny("llama")
    with pytest.raises(HarnessError) as caught:
        border.select(Entropy(), SelectionContext(model, ClosedFormEngine(model, 64), [], 0))
    said = str(caught.value)
    assert "selected no neuron: layer 2 has no entropy neurons by the rule confirmed: " in said
    assert said.count("\n") == 0 and said.endswith("or take another rule.")


def test_tables_of_rules_and_null_spaces() -> None:
    selection = select(demo_model(), corpus="world", sequences=2, length=32)
    # Others of the same norm are what it was compared with: a confirmed neuron of ordinary norm is not ordinary.
    assert selection.special.keys() == {"rho", "logit_var", "norm_path", "total_effect", "entropy_through_norm"}
    assert select(demo_model(), rule="stolfo2024").special.keys() == {"rho", "logit_var", "norm"}
    tables = {x.name: x for x in Entropy().figures(selection)}
    rules, spaces = tables["selection_rules"], tables["selection_null_space"]
    assert list(rules.columns["rule"]) == list(PUBLISHED)  # type: ignore[union-attr]
    scores = {name: selection.scores[name] for name in ("rho", "logit_var", "norm")}
    theirs = by_weights("du2025", scores, len(selection.units))[0][: len(selection.units)]
    assert rules.columns["iou"][2] == pytest.approx(overlap(np.array(chosen(selection)), theirs), abs=1e-5)  # type: ignore[union-attr]
    assert list(spaces.columns["null_dims"]) == [2, 6, 12, 24]  # type: ignore[union-attr]
    assert list(spaces.columns["still_chosen"]) == [len(selection.units)] * 4  # type: ignore[union-attr]


def test_texts_are_the_models_own_or_prose() -> None:
    found = catalogue()
    assert found.build(Selector, parse_spec("entropy", "s"), "s", "world").corpus.name == "world"  # type: ignore[attr-defined]
    assert found.build(Selector, parse_spec("entropy", "s"), "s").corpus == Prose()  # type: ignore[attr-defined]
    assert Entropy(rule="du2025").corpus is None
    paragraphs = list(Prose().documents())
    assert len(paragraphs) == 32 and 12 <= sum(half(x) == "select" for x in paragraphs) <= 20
    assert all(x == x.strip() and "\n" not in x for x in paragraphs)


def test_a_seed_repeats_it() -> None:
    model = demo_model()
    asked = {"corpus": "world", "sequences": 2, "length": 32}
    first, again = select(model, 5, **asked), select(model, 5, **asked)
    assert first.units == again.units and first.rule == again.rule
    for name, values in first.scores.items():
        np.testing.assert_array_equal(values, again.scores[name], err_msg=name)


# -- why W_U does not read its last direction --------------------------------------------------------------------------


def test_a_coordinate_that_the_final_norm_closes() -> None:
    model = tiny("llama")
    model.readout.gain[:] = 2.0
    model.readout.gain[9] = 0.02
    kind, said = null_kind(model, unembedding_geometry(model))
    assert kind == "closed coordinate" and "coordinate 9 of the residual stream" in said and "closes: 0.02" in said


def test_a_shift_of_all_tokens() -> None:
    model = tiny("llama")
    model.readout.W_U[:, 4] = 1.0  # the same for every token
    model.readout.gain[:] = 1.0
    kind, said = null_kind(model, unembedding_geometry(model))
    assert kind == "common shift" and "moves all tokens alike" in said and ": 100.0% of " in said


def test_rows_that_end_before_the_last_directions() -> None:
    model = tiny("llama")
    model.readout.W_U[:, -3:] = 0
    assert null_kind(model, unembedding_geometry(model))[0] == "neither"
    assert null_kind(tiny("gpt2"), unembedding_geometry(tiny("gpt2")))[0] == "neither"
