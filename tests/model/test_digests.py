"""Digests name a model by what is in it; provenance says it in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, SHAPES, tiny, tiny_hf, tokenizer

from harness.model import digests as identity
from harness.model.loading import load_hf
from harness.model.model import Model
from harness.model.wrapping import wrap


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_hf("llama").save_pretrained(path)
    tokenizer(bos=True).save_pretrained(path)
    return str(path)


@pytest.fixture
def model(folder: str) -> Model:
    return load_hf(folder)


# --- weights -------------------------------------------------------------------------------------------------------


def test_digests_are_stable_across_loads_and_use(folder: str, model: Model) -> None:
    again = load_hf(folder, name="another name")
    model.forward(model.pad(model.encode(["a", "abc"])))
    model.tokenizer(["abc"], truncation=True, max_length=2)
    assert len(model.weights_digest) == len(model.tokenizer_digest) == 64
    assert (again.weights_digest, again.tokenizer_digest) == (model.weights_digest, model.tokenizer_digest)


def test_the_weights_digest_is_over_the_state_dict(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is cut into parts."""
    monkeypatch.setattr(identity, "CHUNK", 7)
    assert identity.weights_digest(model.hf) == model.weights_digest


@pytest.mark.parametrize("position", [0, -1])
@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "lm_head.weight"])
def test_one_weight_changes_the_digest(model: Model, name: str, position: int) -> None:
    before = identity.weights_digest(model.hf)
    weight = model.hf.get_parameter(name).view(-1)
    weight[position] = torch.nextafter(weight[position], torch.tensor(9.0))
    assert identity.weights_digest(model.hf) != before


def test_two_weights_that_change_places_change_the_digest(model: Model) -> None:
    before = identity.weights_digest(model.hf)
    first, second = model.hf.model.layers[0].mlp, model.hf.model.layers[1].mlp
    first.down_proj, second.down_proj = second.down_proj, first.down_proj
    assert identity.weights_digest(model.hf) != before


def test_the_dtype_changes_the_digest(folder: str, model: Model) -> None:
    digests = {load_hf(folder, dtype=dtype).weights_digest for dtype in ("bfloat16", "float16", "float64")}
    assert len(digests | {model.weights_digest}) == 4


def test_a_transposed_shape_changes_the_digest() -> None:
    """Equal bytes in another shape are other weights."""
    layers = [torch.nn.Linear(4, 6, bias=False), torch.nn.Linear(6, 4, bias=False)]
    for layer in layers:
        torch.nn.init.ones_(layer.weight)
    assert identity.weights_digest(layers[0]) != identity.weights_digest(layers[1])


def test_another_name_changes_the_digest() -> None:
    layer = torch.nn.Linear(4, 6)
    digests = {identity.weights_digest(torch.nn.ModuleDict({name: layer})) for name in ("up", "down")}
    assert len(digests) == 2


# --- the tokeniser -------------------------------------------------------------------------------------------------


def add_a_word(words: Any) -> None:
    words.add_tokens(["zebra"])


def add_a_special_token(words: Any) -> None:
    words.add_special_tokens({"sep_token": "<unk>"})


def lower_case(words: Any) -> None:
    from tokenizers import normalizers

    words.backend_tokenizer.normalizer = normalizers.Lowercase()


@pytest.mark.parametrize("change", [add_a_word, add_a_special_token, lower_case])
def test_another_tokeniser_changes_its_digest_alone(change: Callable[[Any], None]) -> None:
    hf = tiny_hf("gpt2")
    words = tokenizer()
    change(words)
    plain, changed = wrap(hf, tokenizer(), "tiny"), wrap(hf, words, "tiny")
    assert plain.tokenizer_digest != changed.tokenizer_digest
    assert plain.weights_digest == changed.weights_digest


def test_the_bos_policy_is_part_of_the_tokenisers_digest() -> None:
    with_bos, without = tiny("gpt2", add_bos=True), tiny("gpt2", add_bos=False)
    assert with_bos.tokenizer_digest != without.tokenizer_digest
    assert without.tokenizer_digest == tiny("gpt2").tokenizer_digest


def test_padding_and_truncation_are_not() -> None:
    model = tiny("gpt2")
    before = identity.tokenizer_digest(model.tokenizer, ())
    model.tokenizer.backend_tokenizer.enable_truncation(5)
    model.tokenizer.backend_tokenizer.enable_padding(length=7)
    assert identity.tokenizer_digest(model.tokenizer, ()) == before


# --- provenance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", SHAPES)
def test_provenance_is_json(family: str) -> None:
    model = tiny(family)
    record = model.provenance()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["id"] == family
    assert record["model_type"] == model.hf.config.model_type
    assert record["norm"] == FAMILIES[family].norm
    assert record["weights_sha256"] == model.weights_digest


def test_provenance_says_what_was_loaded(folder: str) -> None:
    record = load_hf(folder, dtype="bfloat16", name="mine").provenance()
    expected = {
        "id": "mine",
        "revision": None,
        "commit": None,
        "architecture": "LlamaForCausalLM",
        "model_type": "llama",
        "dtype": "bfloat16",
        "attn_implementation": "sdpa",
        "n_layers": 3,
        "d_model": 32,
        "d_mlp": 48,
        "n_vocab": 300,
        "tied_embeddings": False,
        "adds_bos": True,
        "first_tokens": ["<s>"],
        "first_token_policy": "every prompt begins with <s>",
        "pad_id": 258,
        "end_tokens": [258],
    }
    assert {key: record[key] for key in expected} == expected
    assert record["parameters"] == sum(weight.numel() for weight in tiny_hf("llama").parameters())
    assert load_hf(folder, device="cpu").provenance()["device"] == "cpu"


def test_tied_embeddings_are_told() -> None:
    tied = {
        family: tiny(family).provenance()["tied_embeddings"] for family in ("gpt2", "gpt2_untied", "llama_gqa_tied")
    }
    assert tied == {"gpt2": True, "gpt2_untied": False, "llama_gqa_tied": True}


def test_nothing_is_written_into_the_folder(folder: str) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in Path(folder).iterdir()}
    load_hf(folder).provenance()
    assert {file.name: file.stat().st_mtime_ns for file in Path(folder).iterdir()} == before
