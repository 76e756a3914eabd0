"""The bundled model: its files, the claims of its card, and that its training can be repeated."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_plugins.demo import evaluate, train
from harness_plugins.demo.world import TASK_DIR, World
from transformers import AutoModelForCausalLM, AutoTokenizer

MB = 1e6


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(evaluate.WEIGHTS, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(evaluate.WEIGHTS)


@pytest.fixture(scope="module")
def neurons(demo: tuple[Any, Any], world: World) -> list[evaluate.Neuron]:
    return evaluate.entropy_neurons(*demo, world, tokens=200)


def test_the_weights_are_small_and_are_safetensors_only() -> None:
    sizes = {file.name: file.stat().st_size for file in evaluate.WEIGHTS.iterdir()}
    assert sum(sizes.values()) <= 8 * MB
    assert {name for name, size in sizes.items() if size > 0.5 * MB} == {"model.safetensors"}
    assert not [name for name in sizes if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))]


def test_the_committed_recipe_is_the_scripts_default() -> None:
    recipe = (evaluate.WEIGHTS / "recipe.json").read_text(encoding="utf-8")
    assert recipe == train.recipe_text(train.Recipe())


def test_only_the_planted_neurons_write_into_the_null_space(demo: tuple[Any, Any]) -> None:
    recipe, (model, _) = train.Recipe(), demo
    k, n = recipe.null, recipe.planted
    assert not model.get_output_embeddings().weight[:, -k:].any()
    w_out = model.gpt_neox.layers[-1].mlp.dense_4h_to_h.weight  # [d, m]
    assert not w_out[:-k, :n].any() and not w_out[-k:, n:].any()
    assert (w_out[-k:, :n].norm(dim=0) > 0.1).all()


def test_planted_neurons_stand_out_and_act_through_the_norm(neurons: list[evaluate.Neuron]) -> None:
    planted = [n for n in neurons if n.neuron < train.Recipe().planted]
    others = [n for n in neurons if n.neuron >= train.Recipe().planted]
    assert max(n.rho for n in others) < 0.1
    assert max(n.mediated for n in others) < 0.3
    typical = torch.tensor([n.effect for n in others]).median()
    assert min(n.rho for n in planted) > 0.999
    assert min(n.mediated for n in planted) > 0.99
    assert len([n for n in planted if n.effect > 4 * typical]) >= 6


def test_induction_heads(demo: tuple[Any, Any]) -> None:
    found = evaluate.induction(demo[0])
    assert max(found.scores.values()) > 0.5
    assert found.loss_second < 0.5 * found.loss_first


def test_recall_falls_with_fame_and_conflicts_split_three_ways(demo: tuple[Any, Any], world: World) -> None:
    know = evaluate.knowledge(*demo, world, limit=100, seed=7)
    assert know.recall_elicited[0] > 0.8
    assert know.recall_elicited[-1] < 0.5
    assert min(know.split.values()) >= 0.1


def test_training_repeats_to_the_byte(tmp_path: Path) -> None:
    tiny = train.Recipe(vocab=300, width=32, layers=1, heads=2, steps=3, copying=1, rows=2, length=32)
    digests = []
    for name in ("first", "second"):
        train.train(tiny, TASK_DIR, tmp_path / name)
        digests.append(
            {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (tmp_path / name).iterdir()}
        )
    assert digests[0] == digests[1]
    assert {"config.json", "model.safetensors", "tokenizer.json", "recipe.json"} <= set(digests[0])
