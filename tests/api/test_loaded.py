"""A loaded model answers questions about one's own texts as data frames, from what engines say."""

from __future__ import annotations

import numpy as np
import pytest

import harness as public
from harness.conditions.conditions import BASELINE
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError

TEXTS = ["The capital of France is", "Paris"]
TEXT = "The capital of France is Paris."


@pytest.fixture(scope="module")
def model() -> public.LoadedModel:
    return public.load_model("demo", device="cpu")


def test_it_is_the_model_that_its_loader_gives(model: public.LoadedModel) -> None:
    again = public.LoadedModel.of(model)
    assert isinstance(again, public.Model) and again.hf is model.hf and again.anatomy is model.anatomy


def test_activations_of_a_layer(model: public.LoadedModel) -> None:
    seen = model.neurons(TEXTS)
    assert seen.shape == (sum(map(len, model.encode(TEXTS))), model.anatomy.d_mlp)
    assert seen.columns[0] == "3.0" and list(seen.index.names) == ["prompt", "position", "token"]
    with model.capture_neurons(1) as captured:
        model.forward(model.pad(model.encode([TEXT])))
    np.testing.assert_array_equal(model.neurons(TEXT, layer=1).to_numpy(), captured[1][0].numpy())


def test_scores_are_those_of_the_engine_with_the_untouched_model_first(model: public.LoadedModel) -> None:
    condition = public.zero("1.2")
    found = model.scores(TEXTS, condition)
    wanted = HookEngine(model).score(model.encode(TEXTS), [BASELINE, condition])
    assert list(dict.fromkeys(found["condition"])) == ["baseline", "zero 1.2"]
    np.testing.assert_allclose(found["entropy"], wanted.entropy.ravel(), atol=1e-5)
    assert "".join(found["token"][: len(wanted.token)]) == "".join(
        model.token_texts[token] for row in model.encode(TEXTS) for token in row[1:]
    )
    assert list(model.scores(TEXT)["condition"].unique()) == ["baseline"]


def test_effects_of_single_neurons(model: public.LoadedModel) -> None:
    effects = model.effects(TEXT, neurons=["3.7", "1.2"])
    frame, n_tokens = effects.frame, len(model.encode([TEXT])[0]) - 1
    assert len(frame) == 2 * n_tokens and str(frame["neuron"].dtype) == "string"
    scores = model.scores(TEXT, [public.zero("3.7"), public.zero("1.2")])
    baseline = np.tile(scores["loss"][:n_tokens], 2)
    np.testing.assert_allclose(frame["loss_change"], scores["loss"][n_tokens:] - baseline, atol=1e-12)
    by_neuron = effects.by_neuron
    assert by_neuron.loc["3.7", "loss_change"] == pytest.approx(frame["loss_change"][:n_tokens].mean())
    assert by_neuron.loc["1.2", "entropy_size"] == pytest.approx(frame["entropy_change"][n_tokens:].abs().mean())
    assert by_neuron["loss_size"].is_monotonic_decreasing and "3.7" in effects._repr_html_()
    assert set(model.effects("Paris is", layer=-4).by_neuron.index) == {f"0.{i}" for i in range(model.anatomy.d_mlp)}


def test_a_neuron_held_where_it_is_has_no_effect(model: public.LoadedModel) -> None:
    values = model.neurons(TEXT)["3.7"].to_numpy()[:-1]
    place = int(np.abs(values).argmax())
    moved, kept = (model.effects(TEXT, neurons="3.7", value=x).frame for x in (0.0, float(values[place])))
    assert abs(kept["entropy_change"][place]) < 1e-5 < abs(moved["entropy_change"][place])


def test_statistics_are_of_the_layers_and_texts_that_are_named(model: public.LoadedModel) -> None:
    found, seen = model.statistics(TEXTS, [0, -1]), model.neurons(TEXTS)
    assert set(found.mean) == {0, 3} and found.n == len(seen)
    np.testing.assert_allclose(found.mean[3], seen.to_numpy(float).mean(0), atol=1e-6)
    np.testing.assert_allclose(found.std[3], seen.to_numpy(float).std(0, ddof=1), atol=1e-6)


def test_a_layer_that_is_not_there(model: public.LoadedModel) -> None:
    for ask in (model.neurons, model.effects, model.statistics):
        with pytest.raises(HarnessError, match="layer: expected -4 to 3, got 9"):
            ask(TEXT, layer=9)
