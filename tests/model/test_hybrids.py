"""Hybrids and image-text models: which are taken apart, what an edit does to those, and what the documentation says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from checkout import ROOT
from engines import same_generations, same_scores, some_conditions, some_mixtures, some_prompts
from families import greedy, tokenizer
from hybrids import HYBRIDS, TOWERS, Kind, made

from harness.engine.batched import BatchedEngine
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.model.input_weights import attention_norm, input_norm, read_in
from harness.model.loading import load_hf
from harness.model.model import Model
from harness.model.modules import linear_features
from harness.model.wrapping import wrap

PAGE = ROOT / "docs" / "recipes" / "models.md"
EVERY = HYBRIDS | TOWERS


def documented() -> dict[str, tuple[str, str]]:
    """The table of the page: layers with attention and what runs, or why not, by what models are called."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    return {name: (heads, outcome) for name, heads, outcome in rows}


def taken_apart(name: str, kind: Kind) -> Model:
    return wrap(made(kind), tokenizer(), name)


def with_heads(model: Model) -> tuple[int, ...]:
    anatomy = model.anatomy
    widths = {layer: linear_features(model.attention(layer)[1])[0] for layer in anatomy.with_attention}
    return tuple(layer for layer, width in widths.items() if width == anatomy.n_heads * anatomy.d_head)


@pytest.mark.parametrize("name", EVERY)
def test_the_table_says_what_happens(name: str) -> None:
    heads, outcome = documented()[EVERY[name].known_as]
    try:
        model = taken_apart(name, EVERY[name])
    except HarnessError as error:
        assert heads == "-" and outcome.startswith("no: ")
        assert outcome.removeprefix("no: ") in str(error)
        return
    assert model.anatomy.d_mlp in (48, 96)
    anatomy = model.anatomy
    some = (
        "those with attention" if with_heads(model) == anatomy.with_attention else "those as wide as the last layer's"
    )
    assert heads == ("all" if len(with_heads(model)) == anatomy.n_layers else some)
    try:
        model.check_cache()
    except HarnessError as error:
        assert outcome == "scores, does not generate" and "cannot generate" in str(error)
        return
    assert outcome == "yes"


TAKEN = [name for name in EVERY if documented()[EVERY[name].known_as][0] != "-"]
GENERATES = [name for name in TAKEN if documented()[EVERY[name].known_as][1] == "yes"]


@pytest.mark.parametrize("name", TAKEN)
def test_engines_agree_and_are_the_models_own(name: str) -> None:
    model = taken_apart(name, EVERY[name])
    prompts = some_prompts(0, n=4)
    hooks = HookEngine(model)
    for row in prompts:
        own = model.hf(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1]
        found = model.forward(model.pad([row, [5] * 12])).logits[0, -1]
        assert torch.allclose(found, own, atol=1e-5 * float(own.abs().max()))
    last, mixed = some_conditions(model, 0, n=3), of_neurons(model, 0)
    if model.anatomy.direct_write:
        same_scores(ClosedFormEngine(model).score(prompts, last), hooks.score(prompts, last))
    same_scores(BatchedEngine(model).score(prompts, mixed), hooks.score(prompts, mixed))


def of_neurons(model: Model, seed: int) -> list[Any]:
    """Mixed conditions without those that edit heads where there are none."""
    has = with_heads(model)
    return [
        condition
        for condition in some_mixtures(model, seed, n=8)
        if all(
            ("Head" not in type(e).__name__ and "Attend" not in type(e).__name__) or e.layer in has
            for e in condition.edits
        )
    ]


@pytest.mark.parametrize("name", GENERATES)
def test_greedy_text_is_the_models_own(name: str) -> None:
    model = taken_apart(name, EVERY[name])
    prompts = some_prompts(1, n=3)
    for ids, new in zip(prompts, greedy(model, prompts, 5), strict=True):
        own = model.hf(input_ids=torch.tensor([ids + new[:-1]]), use_cache=False).logits[0]
        assert new == own[len(ids) - 1 :].argmax(-1).tolist()
    conditions = some_conditions(model, 0, n=3)
    engine = ClosedFormEngine if model.anatomy.direct_write else BatchedEngine
    same_generations(engine(model).generate(prompts, conditions, 4), HookEngine(model).generate(prompts, conditions, 4))


def test_layers_without_attention_have_neurons_and_no_heads() -> None:
    model = taken_apart("lfm2", HYBRIDS["lfm2"])
    assert model.anatomy.with_attention == (1,)
    assert model.anatomy.attentions[0] is None and model.anatomy.attention_outputs[2] is None
    assert model.anatomy.d_head == 8
    told = "^layer 2 of lfm2 has no attention, hence no heads; layer 1 has\\.$"
    for ask in (
        lambda: model.attention(2),
        lambda: attention_norm(model, 2),
        lambda: input_norm(model, 2),
        lambda: model.capture_heads(2).__enter__(),
    ):
        with pytest.raises(HarnessError, match=told):
            ask()
    found = read_in(model, 2)
    feed_forward = model.anatomy.layers[2].feed_forward
    assert found.gated and torch.equal(found.w_in.float(), feed_forward.w1.weight)
    assert found.norm.module is model.anatomy.layers[2].ffn_norm


@pytest.mark.parametrize("name", ["gemma3", "qwen2_vl", "llava", "qwen3_5_vl", "granite_hybrid"])
def test_the_loader_takes_the_class_that_the_checkpoint_is_of(name: str, tmp_path: Path) -> None:
    hf = made(EVERY[name])
    hf.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = load_hf(str(tmp_path), device="cpu")
    assert type(model.hf) is type(hf)
    ids = torch.tensor([[5, 70, 9, 200]])
    wanted = hf(input_ids=ids).logits
    assert torch.allclose(model.forward(model.pad(ids.tolist()), logits_to_keep=0).logits, wanted, atol=1e-5)
    assert model.n_positions == 64
