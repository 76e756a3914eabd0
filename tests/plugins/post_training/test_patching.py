"""Activation patching: what a loop over all cells gives; where nothing and everything is; correlation of two maps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness_plugins.context_copying.task.knowledge_conflict import KnowledgeConflict
from harness_plugins.post_training.analysis import patching
from harness_plugins.post_training.analysis.pairs import Pair, fact_pairs
from harness_plugins.post_training.analysis.patching import Localisation, correlation, localise
from harness_plugins.post_training.figures.patching import patching_map

from harness.errors import HarnessError
from harness.model.model import Model
from harness.model.tokens import first_token
from harness.testing import demo_model, tiny_model
from harness.testing.common import check_shown


def some_pairs(model: Model, seed: int = 0) -> list[Pair]:
    """Pairs of random tokens of three lengths, which differ in the places 2 to 3."""
    rng = np.random.default_rng(seed)
    pairs = []
    for n in (5, 7, 7, 6, 5):
        clean, other = (rng.permutation(200)[:n] for _ in range(2))
        corrupted = np.where((np.arange(n) >= 2) & (np.arange(n) < 4), other, clean)
        pairs.append(Pair(tuple(clean.tolist()), tuple(corrupted.tolist()), tuple(rng.permutation(200)[:2].tolist())))
    return pairs


@torch.no_grad()
def naive(model: Model, pair: Pair) -> np.ndarray:
    """Recovery [n_layers, n_tokens] by one pass of the bare ``transformers`` model for every cell."""

    def difference(tokens: tuple[int, ...]) -> float:
        logits = model.hf(input_ids=torch.tensor([tokens])).logits[0, -1].double().log_softmax(-1)
        return float(logits[pair.answers[0]] - logits[pair.answers[1]])

    layers = list(model.anatomy.layers)
    seen: list[torch.Tensor] = []

    def hidden(output: Any) -> torch.Tensor:
        found: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return found

    hooks = [x.register_forward_hook(lambda m, a, output: seen.append(hidden(output).clone())) for x in layers]
    best = difference(pair.clean)
    for hook in hooks:
        hook.remove()
    worst = difference(pair.corrupted)
    found = np.zeros((len(layers), len(pair.clean)))
    for (layer, token), _ in np.ndenumerate(found):

        def put(module: Any, args: Any, output: Any, layer: int = layer, token: int = token) -> None:
            hidden(output)[0, token] = seen[layer][0, token]

        hook = layers[layer].register_forward_hook(put)
        found[layer, token] = (difference(pair.corrupted) - worst) / (best - worst)
        hook.remove()
    return found


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "falcon_new", "bloom", "opt"])
@pytest.mark.parametrize("batch_size", [64, 10])
def test_every_cell_is_what_one_pass_for_it_gives(
    family: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patching, "LEAST", 1e-3)
    model = tiny_model(family)
    pairs = some_pairs(model)
    told: list[int] = []
    found = localise(model, pairs, batch_size, told.append)
    assert len(told) >= model.anatomy.n_layers and sum(told) == len(pairs) * model.anatomy.n_layers
    assert found.recovery.shape == (5, model.anatomy.n_layers, 7)
    for i, pair in enumerate(pairs):
        n = len(pair.clean)
        tolerance = 1e-4 / min(1.0, abs(found.effect[i]))
        np.testing.assert_allclose(found.recovery[i, :, 7 - n :], naive(model, pair), atol=tolerance)
        assert np.isnan(found.recovery[i, :, : 7 - n]).all()
        np.testing.assert_array_equal(found.roles[i, 7 - n :], pair.roles)
    np.testing.assert_allclose(found.recovery[:, -1, -1], 1.0, atol=1e-3)  # nothing comes after the last layer
    assert np.abs(found.recovery[:, -1, :-1][np.isfinite(found.recovery[:, -1, :-1])]).max() < 1e-3


def test_roles_are_counted_from_the_tokens_that_differ() -> None:
    pair = Pair((1, 2, 3, 4, 5, 6, 7), (1, 9, 3, 8, 5, 6, 7), (1, 2))
    assert pair.subject == (1, 4) and pair.roles.tolist() == [-1, 0, 1, 2, 3, 3, 4]
    assert Pair((1, 2, 3), (1, 9, 3), (1, 2)).roles.tolist() == [-1, 2, 4]
    assert Pair((1, 2), (1, 9), (1, 2)).roles.tolist() == [-1, 4]
    for clean, corrupted, answers in (((1, 2), (1,), (1, 2)), ((1, 2), (1, 2), (1, 2)), ((1, 2), (1, 3), (4, 4))):
        with pytest.raises(ValueError, match="a pair is two different prompts"):
            Pair(clean, corrupted, answers)


def test_means_by_role_leave_out_what_is_not_there() -> None:
    recovery = np.array([[[0.2, 0.4, 0.6, 1.0]], [[np.nan, 0.0, 0.5, 0.8]]])
    found = Localisation("m", recovery, np.array([[0, 1, 1, 4], [-1, -1, 2, 4]]), np.ones(2))
    np.testing.assert_allclose(found.by_role[0, 0], [0.2, 0.5, np.nan, np.nan, 1.0])
    np.testing.assert_allclose(found.map[0], [0.2, 0.5, 0.5, np.nan, 0.9])


def test_runs_that_hardly_differ_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    pairs = some_pairs(model)
    monkeypatch.setattr(patching, "LEAST", 1e9)
    with pytest.raises(HarnessError, match="in none of 5 pairs do the clean and the corrupted run of gpt2 differ by"):
        localise(model, pairs)
    effects = np.abs([float(x) for x in _effects(model, pairs, monkeypatch)])
    monkeypatch.setattr(patching, "LEAST", float(np.sort(effects)[2]))
    kept = np.isfinite(localise(model, pairs).recovery).any((1, 2))
    np.testing.assert_array_equal(kept, effects >= np.sort(effects)[2])


def _effects(model: Model, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr(patching, "LEAST", 0.0)
    return localise(model, pairs).effect


def test_facts_of_one_relation_make_pairs_that_the_model_knows(small_facts: Path) -> None:
    model, facts = demo_model(), KnowledgeConflict.model_validate({"data": str(small_facts)}).facts()
    pairs = fact_pairs([model], facts, n=8, seed=1)
    texts = {tuple(tokens): fact for fact, tokens in zip(facts, model.encode([x.query for x in facts]), strict=True)}
    used = [prompt for pair in pairs for prompt in (pair.clean, pair.corrupted)]
    assert 3 <= len(pairs) <= 8 and len(set(used)) == len(used)
    for pair in pairs:
        both = [texts[prompt] for prompt in (pair.clean, pair.corrupted)]
        assert {fact.relation.name for fact in both} == {pair.group} and len(pair.clean) == len(pair.corrupted)
        assert pair.answers == tuple(first_token(model, fact.query, fact.object) for fact in both)
        for prompt, answer in zip((pair.clean, pair.corrupted), pair.answers, strict=True):
            with torch.no_grad():
                assert int(model.hf(input_ids=torch.tensor([prompt])).logits[0, -1].argmax()) == answer
    assert pairs == fact_pairs([model, model], facts, n=8, seed=1)
    found = localise(model, pairs)
    assert (found.effect > 0).all()  # each prompt prefers its own answer
    assert correlation(found, found).r == pytest.approx(1.0)
    check_shown([patching_map(found)], "patching")
    with pytest.raises(HarnessError, match="different tokenisers"):
        fact_pairs([model, dataclasses.replace(tiny_model("gpt2"), name="tiny")], facts)
    with pytest.raises(HarnessError, match="patching: of 1 fact demo knows"):
        fact_pairs([model], facts[:1])


def made(values: np.ndarray) -> Localisation:
    """A localisation with these values by role, [n_pairs, n_layers, 5]."""
    return Localisation("m", values, np.tile(np.arange(5), (len(values), 1)), np.ones(len(values)))


def test_the_correlation_of_two_maps_and_its_interval_over_pairs() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(1, 3, 5))
    a, b = (truth + rng.normal(scale=0.5, size=(30, 3, 5)) for _ in range(2))
    found = correlation(made(a), made(b), seed=1, resamples=500)
    wanted = np.corrcoef(a.mean(0).ravel(), b.mean(0).ravel())[0, 1]
    assert found.r == pytest.approx(wanted) and found.n_pairs == 30 and found.interval is not None
    draws = []
    for _ in range(500):  # the same by a loop, with other draws
        rows = rng.integers(30, size=30)
        draws.append(np.corrcoef(a[rows].mean(0).ravel(), b[rows].mean(0).ravel())[0, 1])
    np.testing.assert_allclose([found.interval.low, found.interval.high], np.quantile(draws, [0.025, 0.975]), atol=0.02)
    assert correlation(made(a), made(-a)).r == pytest.approx(-1.0)
    assert correlation(made(a), made(np.zeros_like(a))).r is None


def test_a_pair_counts_only_where_both_models_have_it() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 3, 5))
    missing = b.copy()
    missing[2] = np.nan
    rest = [0, 1, 3, 4, 5]
    found = correlation(made(a), made(missing))
    assert found.n_pairs == 5 and found.r == pytest.approx(correlation(made(a[rest]), made(b[rest])).r)
    with pytest.raises(HarnessError, match="of different pairs, or the models have different numbers of"):
        correlation(made(a), made(b[:5]))
