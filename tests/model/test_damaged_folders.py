"""Folders that are damaged, incomplete, or hold more than the model is loaded from: one sentence for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checkpoints import DOWN, change_config, change_weights, shard
from families import D_VOCAB, tiny_hf, tokenizer
from safetensors.torch import load_file, save_file

from harness.errors import HarnessError
from harness.model.loading import load_hf

# --- damaged folders -----------------------------------------------------------------------------------------------


def test_missing_config(folder: Path, refused: Callable[..., str]) -> None:
    (folder / "config.json").unlink()
    assert refused() == f"model folder {folder} has no config.json."


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_damaged_config(folder: Path, refused: Callable[..., str], text: str) -> None:
    (folder / "config.json").write_text(text)
    assert refused().startswith(f"{folder}/config.json is damaged: ")


def test_unknown_model_type(folder: Path, refused: Callable[..., str]) -> None:
    change_config(folder, model_type="lllama")
    assert "has model type `lllama` but Transformers does not recognize this architecture" in refused()


def test_not_a_causal_language_model(folder: Path, refused: Callable[..., str]) -> None:
    transformers.T5Config(vocab_size=D_VOCAB).save_pretrained(folder)
    assert refused() == f"{folder} is not a causal language model that transformers knows."


@pytest.mark.parametrize("keep", [0, 5, 2000, -1])
def test_truncated_weights(folder: Path, refused: Callable[..., str], keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert refused().startswith(f"{file} is damaged or truncated: ")


def test_a_truncated_shard(folder: Path, refused: Callable[..., str]) -> None:
    shard(folder)
    last = sorted(folder.glob("*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-1])
    assert refused().startswith(f"{last} is damaged or truncated: ")


def test_a_missing_shard(folder: Path, refused: Callable[..., str]) -> None:
    shard(folder)
    last = sorted(folder.glob("*.safetensors"))[-1]
    last.unlink()
    assert refused().endswith(f"is incomplete: {last.name}, named in model.safetensors.index.json, is missing.")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_index_of_shards(folder: Path, refused: Callable[..., str], text: str) -> None:
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(text)
    assert refused().startswith(f"{folder}/model.safetensors.index.json is damaged: ")


def test_no_weights(folder: Path, refused: Callable[..., str]) -> None:
    (folder / "model.safetensors").unlink()
    assert refused() == f"model folder {folder} has no weights: expected model.safetensors."


def test_missing_tensors(folder: Path, refused: Callable[..., str]) -> None:
    change_weights(folder, lambda weights: weights.pop(DOWN))
    assert refused().endswith(f"are incomplete: 1 tensor of the architecture is missing ({DOWN}).")


def test_tensors_of_other_shapes(folder: Path, refused: Callable[..., str]) -> None:
    change_weights(folder, lambda weights: weights.update({DOWN: torch.zeros(32, 47)}))
    assert refused().endswith(f'the shapes of its config.json: "{DOWN}" is [32, 47], expected [32, 48].')


def test_weights_that_are_not_numbers(folder: Path, refused: Callable[..., str]) -> None:
    change_weights(folder, lambda weights: weights[DOWN][3].fill_(float("nan")))
    assert refused() == f'the weights of {folder} are damaged: "{DOWN}" holds 48 values that are NaN or infinite.'


# --- code that comes with a model ----------------------------------------------------------------------------------


def test_a_transformers_that_does_not_say_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its random weights would be taken for the checkpoint's."""
    real = transformers.AutoModelForCausalLM.from_pretrained

    def silent(*args: Any, **options: Any) -> Any:
        hf, info = real(*args, **options)
        return hf, {key: value for key, value in info.items() if key != "missing_keys"}

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", silent)
    with pytest.raises(HarnessError, match=r"^whether the weights of .* are whole cannot be told: .* missing_keys; "):
        load_hf(str(folder))


BIAS = "model.layers.0.mlp.down_proj.bias"


def test_tensors_without_a_place_are_refused_or_told(folder: Path, refused: Callable[..., str]) -> None:
    """MLP biases beside a config that has none: without them it is another model."""
    before = load_hf(str(folder))
    digest = before.weights_digest  # now: its weights may lie in the file that changes
    change_weights(folder, lambda weights: weights.update({BIAS: torch.ones(32), "v_head.weight": torch.ones(1, 32)}))
    message = refused()
    assert f"hold 2 tensors that the model of its config.json has no place for ({BIAS}, v_head.weight)" in message
    assert message.endswith("mend config.json, or leave them out with allow_unused=true.")
    model = load_hf(str(folder), allow_unused=True)
    assert model.unused == (BIAS, "v_head.weight") and model.provenance()["unused_tensors"] == [BIAS, "v_head.weight"]
    assert model.weights_digest == digest and before.provenance()["unused_tensors"] == []
    change_config(folder, mlp_bias=True)
    assert "incomplete" in refused(allow_unused=True)  # the other biases


@pytest.mark.parametrize("family", ["gptj", "gpt_neo", "gpt_neox", "gpt2", "llama", "opt", "bloom"])
def test_buffers_that_old_checkpoints_hold_are_left_out(tmp_path: Path, family: str) -> None:
    """Causal masks and rotary frequencies follow from the configuration; older versions saved them."""
    hf = tiny_hf(family)
    hf.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    attention = {
        "gptj": "transformer.h.0.attn",
        "gpt2": "transformer.h.0.attn",
        "gpt_neo": "transformer.h.0.attn.attention",
        "gpt_neox": "gpt_neox.layers.0.attention",
        "llama": "model.layers.0.self_attn",
        "opt": "model.decoder.layers.0.self_attn",
        "bloom": "transformer.h.0.self_attention",
    }[family]
    buffers = {
        f"{attention}.bias": torch.ones(1, 1, 8, 8).tril().bool(),
        f"{attention}.masked_bias": torch.tensor(-1e9),
        f"{attention}.rotary_emb.inv_freq": torch.ones(4),
    }
    change_weights(tmp_path, lambda weights: weights.update(buffers))
    model = load_hf(str(tmp_path))
    assert model.unused == ()
    wanted = dict(hf.named_parameters())
    assert all(torch.equal(weight, wanted[name]) for name, weight in model.hf.named_parameters())


def test_an_adapter_is_never_left_out(folder: Path, refused: Callable[..., str]) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"}))
    save_file({"base_model.model.lora_A.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")
    for options in ({}, {"allow_unused": True}):
        assert refused(**options) == (
            f"model folder {folder} holds an adapter (adapter_config.json, adapter_model.safetensors) beside its own "
            "weights, which would be left out: move its files to another folder, and name that with peft= to have it "
            "merged."
        )
    for file in ("config.json", "model.safetensors"):
        (folder / file).unlink()
    assert (
        "holds an adapter (adapter_config.json, adapter_model.safetensors) and no model: name the model that it is of"
        in refused()
    )


def test_pickles_are_loaded_only_if_allowed(folder: Path, refused: Callable[..., str]) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert "holds only pickled weights (pytorch_model.bin), which can run code when loaded" in refused()
    model = load_hf(str(folder), allow_pickle=True)
    assert torch.equal(model.w_out(1), weights[DOWN].T)


def test_safetensors_are_preferred_to_pickles(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    load_hf(str(folder))


def test_python_code_runs_only_if_allowed(
    folder: Path, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    change_config(
        folder,
        model_type="own",
        architectures=["OwnForCausalLM"],
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    )
    assert refused().endswith("comes with its own Python code; if you trust it, allow it with trust_remote_code=true.")
    assert type(load_hf(str(folder), trust_remote_code=True).hf).__name__ == "OwnForCausalLM"
