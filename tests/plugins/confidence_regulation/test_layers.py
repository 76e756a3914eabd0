"""Entropy neurons of several layers: chosen as those of one, from the scores of all; what is drawn of them by layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny
from harness_plugins.confidence_regulation.figures.layers import ByLayer, layer_figures
from harness_plugins.confidence_regulation.selectors.entropy import Entropy
from scipy.stats import beta

from harness.conditions.conditions import Selection
from harness.conditions.units import Neuron
from harness.controls.random import draw_controls
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.model.model import Model
from harness.model.weight_scores import unembedding_geometry
from harness.plugin import Figure, Selector
from harness.plugin.catalogue import catalogue
from harness.plugin.components import SelectionContext
from harness.plugin.specs import parse_spec

D_MLP, N_LAYERS = 48, 3
ASKED: dict[str, Any] = {"rule": "tighidet2025", "min_rho": 0.2, "null_dims": 4}


def select(model: Model, **params: Any) -> Selection:
    return Entropy(**ASKED | params).select(SelectionContext(model, HookEngine(model), [], 0))


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny("llama")


@pytest.fixture(scope="module")
def everywhere(model: Model) -> Selection:
    return select(model, layers="all", top=5)


@pytest.mark.parametrize(
    ("layers", "asked"), [("all", [0, 1, 2]), ([2, 0], [0, 2]), ("1-2", [1, 2]), (0, [0]), (-1, [2])]
)
def test_scores_are_those_of_the_layers_one_after_the_other(model: Model, layers: Any, asked: list[int]) -> None:
    found = select(model, layers=layers, top=5)
    alone = [select(model, layer=layer, top=1, min_rho=0) for layer in asked]
    assert found.candidates == tuple(neuron for one in alone for neuron in one.candidates)
    for name in ("rho", "logit_var", "norm"):
        np.testing.assert_array_equal(found.scores[name], np.concatenate([one.scores[name] for one in alone]))
    # The rule, by hand: of the neurons with rho >= min_rho those with the lowest LogitVar.
    rows = zip(found.candidates, found.scores["rho"], found.scores["logit_var"], strict=True)
    best = sorted((variance, str(neuron)) for neuron, rho, variance in rows if rho >= 0.2)[:5]
    assert [str(neuron) for neuron in found.units] == [name for _, name in best]
    assert set(found.details["cosines"]) == {name for _, name in best}


def test_the_last_layer_named_in_a_list_is_the_default_one(model: Model) -> None:
    by_default, listed = select(model, top=4), select(model, top=4, layers=[-1])
    assert listed.units == by_default.units and listed.rule == by_default.rule
    assert listed.details["published_rules"] == by_default.details["published_rules"]
    assert "min_rho" not in by_default.details and layer_figures(listed) == ()


def test_a_planted_neuron_of_the_first_layer_is_found_there_alone() -> None:
    model = tiny("llama")
    null = torch.from_numpy(unembedding_geometry(model).directions[:, -1].copy())
    with torch.no_grad():
        model.hf.model.layers[0].mlp.down_proj.weight[:, 7] = 5 * null.float()
    found = select(model, layers="all", top=1)
    assert found.units == (Neuron(0, 7),)
    assert found.rule.startswith("layers 0 to 2: ") and "acts through later layers" in found.rule
    assert select(model, top=1).units[0].layer == N_LAYERS - 1
    assert "later layers" not in select(model, layers=[2], top=1).rule


def test_controls_are_drawn_from_the_layers_of_the_selected_neurons(model: Model, everywhere: Selection) -> None:
    layers = sorted(neuron.layer for neuron in everywhere.units)
    assert len(set(layers)) > 1  # else this shows nothing
    drawn = draw_controls(model, everywhere, 19, None, "none", [], 8, 0)
    assert all(sorted(neuron.layer for neuron in chosen) == layers for chosen in drawn.sets)


def test_figures_and_table_count_the_neurons_of_every_layer(everywhere: Selection) -> None:
    scores, counts, table = layer_figures(everywhere)
    assert isinstance(scores, Figure) and isinstance(counts, Figure)
    rho = np.asarray(everywhere.scores["rho"]).reshape(N_LAYERS, D_MLP)
    assert table.columns["layer"] == [0, 1, 2] and table.columns["neurons"] == [D_MLP] * N_LAYERS
    assert table.columns["in_null_space"] == counts.data["in_null_space"] == (rho >= 0.2).sum(1).tolist()
    assert table.columns["selected"] == [sum(x.layer == layer for x in everywhere.units) for layer in range(N_LAYERS)]
    np.testing.assert_allclose(table.columns["rho_median"], np.median(rho, axis=1))
    np.testing.assert_allclose(scores.data["rho_q95"], np.quantile(rho, 0.95, axis=1))
    random = np.random.default_rng(0).normal(size=(200_000, 32))
    share = (np.linalg.norm(random[:, -4:], axis=1) / np.linalg.norm(random, axis=1) >= 0.2).mean()
    np.testing.assert_allclose(counts.data["by_chance"], D_MLP * share, rtol=0.01)
    assert share == pytest.approx(beta.sf(0.04, 2, 14), abs=0.005)


def test_dead_neurons_are_no_part_of_a_layers_quantiles(everywhere: Selection) -> None:
    dead = np.asarray([neuron.layer == 1 for neuron in everywhere.candidates])
    scores = {
        name: np.where(dead, 0.0 if name == "norm" else np.nan, column) for name, column in everywhere.scores.items()
    }
    found = ByLayer.of(replace(everywhere, scores=scores)).columns()
    assert found["by_chance"][1] == found["in_null_space"][1] == 0
    assert np.isnan(found["rho_median"][1]) and np.isfinite(found["rho_median"][2])


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"layers": "all"}, "rule confirmed measures effects, in the last layer only"),
        ({"layers": [0], "rule": "mediated"}, "rule mediated measures effects"),
        ({"layers": [0], "layer": 1, "rule": "stolfo2024"}, "give either layer or layers"),
        ({"layers": [], "rule": "stolfo2024"}, "layers"),
        ({"layers": "some", "rule": "stolfo2024"}, "layers"),
    ],
)
def test_layers_that_a_rule_does_not_take_are_refused_before_anything_is_loaded(params: Any, says: str) -> None:
    with pytest.raises(HarnessError, match=says):
        catalogue().build(Selector, parse_spec({"name": "entropy", **params}, "--selector"), "--selector")


def test_layers_that_a_model_does_not_have_are_refused(model: Model) -> None:
    with pytest.raises(HarnessError, match=r"layer 3 does not exist; the model has 3 layers \(0 to 2\)"):
        select(model, layers=[1, 3])
    with pytest.raises(HarnessError, match="only 96 exist"):
        Entropy(rule="stolfo2024", layers=[0, 1], top=97).check(model)
