"""The entropy selector: its scores against a slow re-implementation, and what it finds where something was planted."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny, tiny_hf, tokenizer
from harness_plugins.confidence_regulation.selectors.entropy import Entropy
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import by_definition as effects_by_definition
from texts import letters

from harness.conditions.conditions import Selection
from harness.conditions.units import Neuron
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.model.model import Model
from harness.model.output_weights import write_directions
from harness.model.weight_scores import (
    UnembeddingGeometry,
    neuron_scores,
    suggest_null_dims,
    unembedding_geometry,
)
from harness.model.wrapping import wrap
from harness.plugin.components import SelectionContext

D = 32


def select(model: Model, **params: Any) -> Selection:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no NaN may pass through a median, a maximum or a division unseen
        return Entropy(**params).select(SelectionContext(model, HookEngine(model), [], 0))


# -- the definition, by brute force ------------------------------------------------------------------------------------


def f64(weight: torch.Tensor) -> np.ndarray:
    return weight.detach().double().numpy()


# Where each family keeps its gain, its unembedding and its write directions [d_mlp, d_model]; ``shift`` is Gemma's 1.
GAIN: dict[str, Callable[[Any], torch.Tensor]] = {
    "gpt2": lambda hf: hf.transformer.ln_f.weight,
    "gpt2_untied": lambda hf: hf.transformer.ln_f.weight,
    "gpt_neox": lambda hf: hf.gpt_neox.final_layer_norm.weight,
}
WRITES: dict[str, Callable[[Any, int], np.ndarray]] = {
    "gpt2": lambda hf, layer: f64(hf.transformer.h[layer].mlp.c_proj.weight),
    "gpt2_untied": lambda hf, layer: f64(hf.transformer.h[layer].mlp.c_proj.weight),
    "gpt_neox": lambda hf, layer: f64(hf.gpt_neox.layers[layer].mlp.dense_4h_to_h.weight).T,
}
SHIFT = {"gemma": 1.0, "gemma2": 1.0}
LAYERNORM = {"gpt2", "gpt2_untied", "gpt_neox", "cohere"}


def by_definition(family: str, hf: Any, layer: int, k: int) -> dict[str, np.ndarray]:
    """Stolfo et al. 2024 (eq. 3, section 3.4) word for word: every logit of every neuron, the whole SVD of W_U."""
    gain = f64(GAIN.get(family, lambda hf: hf.model.norm.weight)(hf)) + SHIFT.get(family, 0.0)
    W_U = f64(hf.get_output_embeddings().weight) * gain
    W_U = W_U - W_U.mean(axis=0)
    writes = WRITES.get(family, lambda hf, layer: f64(hf.model.layers[layer].mlp.down_proj.weight).T)(hf, layer)
    if family in ("gemma2", "olmo2"):  # what the MLP writes passes a norm of its own
        writes = writes * (f64(hf.model.layers[layer].post_feedforward_layernorm.weight) + SHIFT.get(family, 0.0))
    if family in LAYERNORM:
        W_U = W_U - W_U.mean(axis=1, keepdims=True)
        writes = writes - writes.mean(axis=1, keepdims=True)
    _, singular_values, directions = np.linalg.svd(W_U, full_matrices=False)
    scores: dict[str, list[float]] = {"rho": [], "logit_var": [], "norm": []}
    for w in writes:
        norm = np.sqrt((w**2).sum())
        logits = [(row @ w) / (np.sqrt((row**2).sum()) * norm) for row in W_U]
        inside = [v @ w for v in directions[-k:]]
        scores["rho"].append(np.sqrt(np.square(inside).sum()) / norm)
        scores["logit_var"].append(np.mean(np.square(np.array(logits) - np.mean(logits))))
        scores["norm"].append(norm)
    return {name: np.array(values) for name, values in scores.items()} | {"singular_values": singular_values}


@pytest.mark.parametrize(
    "family", ["gpt2", "gpt2_untied", "gpt_neox", "cohere", "llama", "llama_gqa_tied", "gemma", "gemma2", "olmo2"]
)
@pytest.mark.parametrize("layer", [-1, 0])
def test_scores_are_those_of_the_definition(family: str, layer: int) -> None:
    model, k = tiny(family), 5
    selection = select(model, null_dims=k, layer=layer, rule="stolfo2024", top=4)
    expected = by_definition(family, model.hf, layer % model.anatomy.n_layers, k)
    for name in ("rho", "logit_var", "norm"):
        np.testing.assert_allclose(selection.scores[name], expected[name], rtol=2e-5, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(
        selection.details["singular_values"], expected["singular_values"], rtol=1e-5, atol=1e-6 * expected["norm"].max()
    )
    layer = layer % model.anatomy.n_layers
    best = np.argsort(-expected["rho"])[:4]
    assert selection.units == tuple(Neuron(layer, int(i)) for i in best)
    assert selection.candidates == tuple(Neuron(layer, i) for i in range(model.anatomy.d_mlp))
    assert ("centred over d_model" in selection.details["processing"]) == (family in LAYERNORM)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_rules_choose_as_they_say(family: str) -> None:
    model = tiny(family)
    expected = by_definition(family, model.hf, 2, 6)
    rho, variance, norm = (expected[name] for name in ("rho", "logit_var", "norm"))

    def first(keep: np.ndarray, order: np.ndarray, n: int) -> list[int]:
        return [int(i) for i in np.argsort(np.where(keep, order, np.inf))[:n]]

    def indices(**params: Any) -> list[int]:
        return [neuron.index for neuron in select(model, null_dims=6, **params).units]

    assert indices(rule="tighidet2025", min_rho=0.42, top=3) == first(rho >= 0.42, variance, 3)
    for quantile in (0.75, 0.5):
        chosen = indices(rule="du2025", norm_quantile=quantile, top=3)
        assert chosen == first(norm >= np.quantile(norm, quantile), variance, 3)
    assert indices(rule="stolfo2024", top=3) == first(rho > 0, -rho, 3)


def test_half_precision_weights_are_scored_in_double() -> None:
    model = wrap(tiny_hf("llama", torch.bfloat16), tokenizer(), "llama")
    expected = by_definition("llama", model.hf, 2, 5)
    scores = select(model, null_dims=5, rule="stolfo2024", top=1).scores
    for name in ("rho", "logit_var", "norm"):
        np.testing.assert_allclose(scores[name], expected[name], rtol=2e-5, err_msg=name)


def test_a_large_vocabulary_is_summed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.model import weight_scores

    model = tiny("gpt2")
    whole = unembedding_geometry(model)
    monkeypatch.setattr(weight_scores, "BLOCK_ROWS", 7)  # 300 = 42 * 7 + 6
    parts = unembedding_geometry(model)
    for name in ("singular_values", "moment", "mean"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-6)


# -- what was planted is found -----------------------------------------------------------------------------------------

PLANTED = (3, 17, 30, 41)
NULL = 3
"""d_model = 32: the spectrum's last tenth holds three directions."""


def planted(family: str, leak: float = 0.0) -> Model:
    """The last directions of W_U are null (up to ``leak``), and four large neurons write only there."""
    hf = tiny_hf(family)
    layernorm = family in LAYERNORM
    down = hf.transformer.h[-1].mlp.c_proj.weight if layernorm else hf.model.layers[-1].mlp.down_proj.weight.T
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        hf.get_output_embeddings().weight[:, -NULL:] *= leak
        for index in PLANTED:
            w = torch.zeros(D)
            w[-NULL:] = 3 * torch.randn(NULL, generator=generator)
            # A LayerNorm removes the mean: what it would spread over all directions is left out from the start.
            down[index] = torch.cat([w[:-NULL], w[-NULL:] - w[-NULL:].mean()]) if layernorm else w
    return wrap(hf, tokenizer(), family)


@pytest.mark.parametrize("rule", ["stolfo2024", "tighidet2025", "du2025"])
@pytest.mark.parametrize("leak", [0.0, 0.02])
@pytest.mark.parametrize("family", ["llama", "gpt2_untied"])
def test_planted_neurons_are_found_without_being_told_where(family: str, leak: float, rule: str) -> None:
    selection = select(planted(family, leak), rule=rule, top=len(PLANTED))
    assert sorted(neuron.index for neuron in selection.units) == list(PLANTED)
    assert selection.details["null_dims"] == NULL
    assert f"null space: {NULL} of {D} directions (the spectrum of W_U drops" in selection.rule
    rho = selection.scores["rho"]
    assert rho[list(PLANTED)].min() > 0.99
    assert np.delete(rho, PLANTED).max() < 0.8


def spectrum(*tail: float, d: int = 200) -> np.ndarray:
    return np.array([*np.linspace(10, 5, d - len(tail)), *tail])


@pytest.mark.parametrize(
    ("values", "trivial", "k", "why"),
    [
        (spectrum(), 0, 2, "1% of d_model = 200"),  # nothing drops
        (spectrum(1, 1, 1), 0, 3, "drops by a factor of 5 before its last 3 directions"),
        (spectrum(2.5, 1, 1), 0, 2, "drops by a factor of 2.5"),  # the largest of two drops
        (spectrum(4), 0, 2, "no drop of a factor of 1.5"),  # 5 / 4 is none
        (spectrum(*[1] * 20), 0, 20, "drops by a factor of 5"),  # just inside the last tenth
        (spectrum(*[1] * 21), 0, 2, "no drop"),  # just outside of it
        (spectrum(0, 0, 0), 0, 3, "drops by a factor of 5e+07"),  # exact zeros are no division by zero
        (spectrum(1, 1, 0), 1, 3, "drops by a factor of 5 "),  # a LayerNorm's constant direction hides nothing
        (spectrum(0), 1, 2, "no drop"),  # ... and is no finding by itself
        (spectrum(0), 0, 1, "drops by a factor of 5e+07"),
        (spectrum(0, d=4), 1, 2, "1% of d_model = 4"),  # more than the constant direction, however small the model
        (spectrum(d=4), 0, 1, "1% of d_model = 4"),
    ],
)
def test_null_dims_are_suggested_from_the_spectrum(values: np.ndarray, trivial: int, k: int, why: str) -> None:
    suggested, said = suggest_null_dims(values, trivial)
    assert suggested == k
    assert why in said


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_the_constant_direction_of_a_layernorm_is_not_taken_for_a_null_space(family: str) -> None:
    """It is null in every such model, and centred neurons do not write into it: rho would be 0 for all of them."""
    selection = select(tiny(family), rule="stolfo2024", top=1)
    assert selection.details["singular_values"][-1] < 1e-6
    assert selection.details["null_dims"] >= 2
    assert np.median(selection.scores["rho"]) > 0.05


# -- dead neurons, thresholds, bounds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["stolfo2024", "tighidet2025", "du2025"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_neurons_that_write_nothing_are_never_chosen(family: str, rule: str) -> None:
    hf = tiny_hf(family)
    down = hf.transformer.h[-1].mlp.c_proj.weight if family == "gpt2" else hf.model.layers[-1].mlp.down_proj.weight.T
    dead = range(0, len(down), 2)
    with torch.no_grad():
        down[list(dead)] = 0
        if family == "gpt2":  # a constant row is nothing to a LayerNorm
            down[0], down[2] = 0.3, 1e3
    model = wrap(hf, tokenizer(), family)
    living = len(down) - len(dead)
    asked = {"rule": rule, "min_rho": 0.0, "norm_quantile": 0.0, "null_dims": 4}
    selection = select(model, top=living, **asked)
    assert not {neuron.index for neuron in selection.units} & set(dead)
    assert np.isnan(selection.scores["rho"][list(dead)]).all()
    assert np.isnan(selection.scores["logit_var"][list(dead)]).all()
    assert np.isfinite(selection.scores["rho"][1::2]).all()
    with pytest.raises(HarnessError, match=f"only {living} neurons pass the rule {rule}, {living + 1} were asked"):
        select(model, top=living + 1, **asked)


def test_a_layer_of_dead_neurons_is_refused_in_words() -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.hf.model.layers[-1].mlp.down_proj.weight[:] = 0
    with pytest.raises(HarnessError, match="no neuron of layer 2 writes anything"):
        select(model, null_dims=2, top=1, rule="stolfo2024")


def test_too_few_neurons_above_the_threshold_are_counted() -> None:
    model = tiny("llama")
    rho = by_definition("llama", model.hf, 2, 6)["rho"]
    passing = int((rho >= 0.5).sum())
    assert 0 < passing < 40
    assert len(select(model, rule="tighidet2025", null_dims=6, min_rho=0.5, top=passing).units) == passing
    with pytest.raises(HarnessError) as caught:
        select(model, rule="tighidet2025", null_dims=6, min_rho=0.5, top=passing + 1)
    said = str(caught.value)
    assert f"only {passing} neurons pass the rule tighidet2025, {passing + 1} were asked for" in said
    assert f"the highest rho is {rho.max():.3f}" in said
    assert "min_rho" in said
    with pytest.raises(HarnessError, match="only 12 neurons pass the rule du2025, 13 were asked") as caught:
        select(model, null_dims=6, rule="du2025", top=13)
    assert "norm_quantile" in str(caught.value) and "min_rho" not in str(caught.value)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"null_dims": D}, r"null_dims=32 must be below d_model = 32"),
        ({"null_dims": 100}, r"null_dims=100 must be below d_model = 32"),
        ({"layer": 3}, r"layer 3 does not exist; the model has 3 layers \(0 to 2\)"),
        ({"layer": -4}, r"layer -4 does not exist"),
        ({"top": 49}, r"top=49 neurons were asked for, but only 48 exist"),
    ],
)
def test_parameters_out_of_the_models_bounds(params: dict[str, int], says: str) -> None:
    with pytest.raises(HarnessError, match=says):
        select(tiny("llama"), **params)


def test_the_layer_is_counted_from_both_ends() -> None:
    model = tiny("llama")
    asked: dict[str, Any] = {"rule": "stolfo2024", "top": 5, "null_dims": 4}
    for layer in range(3):
        front, back = select(model, layer=layer, **asked), select(model, layer=layer - 3, **asked)
        assert front.units == back.units
        assert {neuron.layer for neuron in front.units} == {layer} == {front.details["layer"]}
        assert front.rule.startswith(f"layer {layer}: ")
    assert select(model, layer=0, **asked).units[0].index != select(model, layer=2, **asked).units[0].index


# -- algebra -----------------------------------------------------------------------------------------------------------


def geometry(W: np.ndarray) -> UnembeddingGeometry:
    unit = W / np.linalg.norm(W, axis=1, keepdims=True)
    _, values, vectors = np.linalg.svd(W, full_matrices=False)
    return UnembeddingGeometry(values, vectors.T, unit.T @ unit / len(unit), unit.mean(0), 0, "")


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-6, 1e6), k=st.integers(1, 7))
def test_scores_under_scaling_sign_and_more_null_dims(seed: int, scale: float, k: int) -> None:
    rng = np.random.default_rng(seed)
    of = geometry(rng.normal(size=(50, 8)))
    w = rng.normal(size=(6, 8))
    factors = scale * rng.choice([-1, 1], size=(6, 1)) * rng.uniform(0.5, 2, size=(6, 1))
    plain, scaled = neuron_scores(of, w, k), neuron_scores(of, w * factors, k)
    np.testing.assert_allclose(scaled["rho"], plain["rho"], rtol=1e-9)
    np.testing.assert_allclose(scaled["logit_var"], plain["logit_var"], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(scaled["norm"], plain["norm"] * np.abs(factors[:, 0]), rtol=1e-12)
    assert ((plain["rho"] >= 0) & (plain["rho"] <= 1 + 1e-12)).all()
    assert (neuron_scores(of, w, k + 1)["rho"] >= plain["rho"]).all()
    np.testing.assert_allclose(neuron_scores(of, w, 8)["rho"], 1.0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_logit_var_does_not_see_the_lengths_of_the_unembeddings_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    W, w = rng.normal(size=(50, 8)), rng.normal(size=(6, 8))
    lengths = rng.uniform(0.1, 10, size=(50, 1))
    plain, other = neuron_scores(geometry(W), w, 3), neuron_scores(geometry(W * lengths), w, 3)
    np.testing.assert_allclose(other["logit_var"], plain["logit_var"], rtol=1e-9)
    assert not np.allclose(other["rho"], plain["rho"], rtol=1e-3)


def test_write_directions_of_the_model_are_not_changed() -> None:
    model = tiny("gpt2")
    before = model.w_out(2).clone()
    write_directions(model, 2)
    unembedding_geometry(model)
    assert torch.equal(model.w_out(2), before)
    assert torch.equal(model.readout.W_U, tiny_hf("gpt2").lm_head.weight)


# -- measured: the LayerNorm-mediated fraction -------------------------------------------------------------------------

MEASURED: dict[str, Any] = {
    "rule": "mediated", "sequences": 3, "length": 20, "corpus": letters(), "null_dims": 3, "method": "exact"
}  # fmt: skip


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_measured_effects_are_those_of_the_definition(family: str) -> None:
    model, some = tiny(family), [0, 7, 31]
    scores = select(model, **MEASURED, top=3).scores
    expected = effects_by_definition(model, MEASURED["corpus"], some, 3, 20)
    np.testing.assert_allclose(scores["total_effect"][some], expected["total"], rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(scores["direct_effect"][some], expected["norm"], rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(scores["norm_mediated"], 1 - scores["direct_effect"] / scores["total_effect"])


def test_the_measured_rule_chooses_as_it_says_and_finds_what_was_planted() -> None:
    model = tiny("gpt2")
    selection = select(model, **MEASURED, top=4, effect_quantile=0.5)
    total, fraction = selection.scores["total_effect"], selection.scores["norm_mediated"]
    best = np.argsort(-np.where(total >= np.quantile(total, 0.5), fraction, -np.inf))[:4]
    assert [neuron.index for neuron in selection.units] == best.tolist()
    assert re.search(r"on \d\d tokens of 3 sequences of 20 tokens of the corpus texts; null space", selection.rule)
    found = select(planted("llama"), **MEASURED, top=len(PLANTED), effect_quantile=0.0)
    assert sorted(neuron.index for neuron in found.units) == list(PLANTED)
    assert found.scores["norm_mediated"][list(PLANTED)].min() > 0.99
    fast = select(planted("llama"), **MEASURED | {"method": "fast"}, top=len(PLANTED), effect_quantile=0.0)
    np.testing.assert_allclose(fast.scores["total_effect"], found.scores["total_effect"], atol=1e-3)


def test_what_the_measured_rule_needs() -> None:
    with pytest.raises(ValueError, match="the published rules look at weights"):
        Entropy(rule="stolfo2024", corpus=letters())
    with pytest.raises(HarnessError, match=r"measured in the last layer \(2\), not in layer 1"):
        select(tiny("gpt2"), **MEASURED, layer=1)
    with pytest.raises(HarnessError, match=r"neurons pass the rule mediated, 128 were asked for\. Lower effect_"):
        select(tiny("gpt2"), **MEASURED, top=128)


def test_cosines_with_every_singular_direction() -> None:
    """They add up to the norm, and those of the null space to rho."""
    selection = select(tiny("llama"), rule="stolfo2024", null_dims=5, top=3)
    rho = {str(x): selection.scores["rho"][x.index] for x in selection.units}
    assert list(selection.details["cosines"]) == list(rho)
    for neuron, cosines in selection.details["cosines"].items():
        assert len(cosines) == D and min(cosines) >= 0
        assert sum(c * c for c in cosines) == pytest.approx(1, abs=1e-4)
        assert np.sqrt(sum(c * c for c in cosines[-5:])) == pytest.approx(rho[neuron], abs=1e-4)


def test_its_figures() -> None:
    selection = select(tiny("llama"), rule="stolfo2024", null_dims=5, top=3)
    names = [figure.name for figure in Entropy().figures(selection)]
    assert names == ["norm_logit_var", "singular_values", "selection_rules", "selection_null_space"]
