"""Loading from folders: what is found there, options, and one sentence for each way in which it fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import change_config, change_weights, shard
from families import BOS, tiny_hf, tokenizer

from harness.model.loading import load_hf

# --- folders -------------------------------------------------------------------------------------------------------


def test_a_folder_is_loaded_as_it_was_saved(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = load_hf(str(folder))
    assert capfd.readouterr() == ("", "")
    wanted = tiny_hf("llama").state_dict()
    assert model.hf.state_dict().keys() == wanted.keys()
    assert all(torch.equal(weight, wanted[name]) for name, weight in model.hf.state_dict().items())
    assert model.encode(["a"])[0][0] == BOS
    assert (model.name, model.revision, model.commit) == (str(folder), None, None)
    assert not model.hf.training
    assert not any(parameter.requires_grad for parameter in model.hf.parameters())


def test_shards_are_loaded(folder: Path) -> None:
    whole = load_hf(str(folder))
    shard(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert load_hf(str(folder)).weights_digest == whole.weights_digest


@pytest.mark.parametrize("stated", [True, False], ids=["said to be tied", "untied"])
def test_embeddings_that_differ_are_read_as_they_run(folder: Path, stated: bool) -> None:
    """Some checkpoints say that embedding and unembedding are one, and have two."""
    change_config(folder, tie_word_embeddings=stated)
    model = load_hf(str(folder), device="cpu")
    assert not torch.equal(model.readout.W_U, model.hf.get_input_embeddings().weight)
    assert torch.equal(model.readout.W_U, tiny_hf("llama").lm_head.weight)
    assert model.provenance()["tied_embeddings"] is False
    with model.capture_residual() as captured, torch.no_grad():
        own = model.hf(input_ids=torch.tensor([[5, 70, 9]])).logits
    residual = captured.residual
    found = model.readout.logits(residual, model.readout.denominator(residual))
    assert torch.allclose(found, own, atol=1e-5 * float(own.abs().max()))


def test_embeddings_that_are_saved_twice_are_one(folder: Path) -> None:
    change_config(folder, tie_word_embeddings=True)
    change_weights(folder, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    model = load_hf(str(folder), device="cpu")
    assert model.provenance()["tied_embeddings"] is True
    assert model.readout.W_U.data_ptr() == model.hf.get_input_embeddings().weight.data_ptr()


def test_rows_of_the_vocabulary_beyond_the_tokenizers_stay(folder: Path) -> None:
    """Real models round the number up to a multiple of 64 or so; their logits count in every softmax."""
    model = load_hf(str(folder), device="cpu")
    assert len(model.tokenizer) == 260 and model.anatomy.d_vocab == model.readout.W_U.shape[0] == 300
    assert len(model.token_texts) == 300 and set(model.token_texts[260:]) == {""}
    model.readout.W_U[290] *= 50  # what is most likely may have no text
    tops = {int(model.forward(model.pad([[i, 7]])).logits[0, -1].argmax()) for i in range(20)}
    assert 290 in tops


def test_a_name_and_a_bos_policy_of_ones_own(folder: Path) -> None:
    model = load_hf(str(folder), name="mine", add_bos=False)
    assert model.name == "mine"
    assert model.prefix == ()


def test_home_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    (folder.parent / "words").mkdir()
    tokenizer().save_pretrained(folder.parent / "words")
    assert load_hf("~/tiny-llama", tokenizer="~/words").prefix == ()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_dtypes(folder: Path, dtype: str) -> None:
    assert load_hf(str(folder), dtype=dtype).dtype == getattr(torch, dtype)


def test_the_default_dtype_is_float32_and_auto_is_the_checkpoints(folder: Path) -> None:
    tiny_hf("llama", torch.bfloat16).save_pretrained(folder)
    assert load_hf(str(folder)).dtype == torch.float32
    assert load_hf(str(folder), dtype="auto").dtype == torch.bfloat16


def test_options_reach_transformers(folder: Path) -> None:
    assert load_hf(str(folder), attn_implementation="eager").hf.config._attn_implementation == "eager"
    assert load_hf(str(folder), device_map="cpu").device == torch.device("cpu")
    assert load_hf(str(folder), device="cpu").device == torch.device("cpu")


def test_a_missing_folder_is_told_with_the_nearest_name(folder: Path, refused: Callable[..., str]) -> None:
    missing = folder.parent / "tiny-lama"
    assert refused(missing) == f'model folder "{missing}" does not exist. Did you mean "tiny-llama"?'
    assert refused("/no/such/place") == 'model folder "/no/such/place" does not exist.'


def test_a_relative_folder_that_could_be_a_hub_id(
    folder: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent.parent)
    assert refused(f"{folder.parent.name}/tiny-lama").endswith(
        'there is no local folder of that name either. Did you mean "tiny-llama"?'
    )


def test_a_file_instead_of_a_folder(folder: Path, refused: Callable[..., str]) -> None:
    assert "is a file: expected a GGUF file, or the folder that holds config.json" in refused(
        folder / "model.safetensors"
    )


def test_a_revision_of_a_folder(refused: Callable[..., str]) -> None:
    assert 'revision "v1" was asked for, but' in refused(revision="v1")


# --- the tokeniser -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt", "gemma"])
def test_a_missing_tokeniser_is_noticed(family: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    """transformers makes an empty one for many families, which reads every text as no tokens at all."""
    tiny_hf(family).save_pretrained(tmp_path / family)
    assert refused(tmp_path / family) == (
        f'no tokeniser was found in "{tmp_path / family}": name another with tokenizer=...'
    )


def test_the_tokeniser_may_be_elsewhere(folder: Path, original: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert load_hf(str(folder), tokenizer=str(original)).prefix == (BOS,)


def test_a_missing_folder_of_the_tokeniser(folder: Path, refused: Callable[..., str]) -> None:
    missing = folder.parent / "tiny-lama"
    assert refused(tokenizer=str(missing)) == (
        f'tokeniser "{missing}": there is no such folder. Did you mean "tiny-llama"?'
    )


def test_a_damaged_tokeniser(folder: Path, refused: Callable[..., str]) -> None:
    (folder / "tokenizer.json").write_text("{")
    assert refused().startswith(f'the tokeniser of "{folder}" could not be loaded: ')


# --- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "flaot32"}, 'unknown dtype "flaot32": expected one of float32, .* Did you mean "float32"?'),
        ({"dtype": "bf16"}, 'Did you mean "bfloat16"?'),
        ({"device": "cdua"}, 'unknown device "cdua": expected auto, cpu, .* Did you mean "cuda"?'),
        ({"device": "cuda:one"}, 'unknown device "cuda:one"'),
        ({"device": "cpu:1"}, 'unknown device "cpu:1"'),
        ({"attn_implementation": "flash"}, 'could not be loaded: Specified `attn_implementation="flash"`'),
        ({"device_map": "autoo"}, "could not be loaded: .* found autoo"),
    ],
)
def test_misspelt_options(refused: Callable[..., str], options: dict[str, str], message: str) -> None:
    found = refused(**options)
    for part in message.split(" .* "):
        assert part in found


def test_devices_that_are_not_there(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert 'device "cuda" was asked for, but there is no usable CUDA GPU here; use device=cpu.' in refused(
        device="cuda"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "there are only 2 GPUs here" in refused(device="cuda:2")
