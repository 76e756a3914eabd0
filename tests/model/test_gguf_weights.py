"""GGUF files: found as a file, in a folder, in a package, whole or in parts; dequantised once, exactly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import HarnessError
from harness.model import load_hf
from harness.model.gguf_weights import MARK, converted, in_folder, of_package
from harness.plugin import ModelLoader

gguf = pytest.importorskip("gguf")

LAYERS, D, MLP, HEADS, VOCAB = 2, 64, 96, 4, 64
TOKENS = [*(chr(ord("A") + i) for i in range(VOCAB - 4)), "Ġ", "he", "Ġa", "<|end|>"]


def written(path: Path, seed: int = 0, quantised: bool = True) -> dict[str, np.ndarray]:
    """A tiny Llama as llama.cpp writes it, and its tensors as their blocks say they are, by GGUF's names."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(D)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(D // HEADS)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (VOCAB - 1) + [3])
    writer.add_token_merges(["h e", "Ġ a"])
    writer.add_bos_token_id(VOCAB - 1)
    writer.add_eos_token_id(VOCAB - 1)
    shapes = {"token_embd.weight": (VOCAB, D), "output.weight": (VOCAB, D), "output_norm.weight": (D,)}
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.attn_{x}.weight": (D, D) for x in ("q", "k", "v", "output")}
        shapes |= {f"blk.{i}.ffn_{x}.weight": (MLP, D) for x in ("gate", "up")}
        shapes |= {
            f"blk.{i}.ffn_down.weight": (D, MLP),
            f"blk.{i}.attn_norm.weight": (D,),
            f"blk.{i}.ffn_norm.weight": (D,),
        }
    meant = {}
    for name, shape in shapes.items():
        values = rng.normal(size=shape).astype(np.float32) * 0.3 + (len(shape) == 1)
        if quantised and len(shape) == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            blocks = gguf.quants.quantize(values, kind)
            meant[name] = gguf.quants.dequantize(blocks, kind)
            writer.add_tensor(name, blocks, raw_dtype=kind)
        else:
            meant[name] = values
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(folder))
    return folder / "gguf"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    return path, written(path)


def package(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """An importable package with data, whose code must not run."""
    (folder / name / "data").mkdir(parents=True)
    (folder / name / "__init__.py").write_text("raise RuntimeError('a package that ships weights was imported')\n")
    for file, content in files.items():
        (folder / name / "data" / file).write_bytes(content)


def test_weights_are_what_the_blocks_say(tiny: Any) -> None:
    path, meant = tiny
    model = load_hf(str(path), device="cpu")
    state = model.hf.state_dict()
    for ours, theirs in {
        "model.embed_tokens.weight": "token_embd.weight",
        "lm_head.weight": "output.weight",
        "model.norm.weight": "output_norm.weight",
        "model.layers.1.mlp.down_proj.weight": "blk.1.ffn_down.weight",
        "model.layers.0.mlp.gate_proj.weight": "blk.0.ffn_gate.weight",
        "model.layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
    }.items():
        np.testing.assert_array_equal(state[ours].numpy(), meant[theirs])
    assert all(x.dtype == torch.float32 for x in state.values())
    assert model.tokenizer.convert_ids_to_tokens(model.encode(["he a"])[0]) == ["he", "Ġa"]


def test_results_say_that_weights_were_quantised_and_how(tiny: Any) -> None:
    path, _ = tiny
    told = load_hf(str(path), device="cpu").provenance()["gguf"]
    assert told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert told["file"] == path.name and told["types"] == {"F32": 5, "Q8_0": 16}


def test_a_file_is_converted_once(tiny: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = tiny
    folder, facts = converted([path])
    monkeypatch.setattr("harness.model.gguf_weights._convert", lambda *_: pytest.fail("converted again"))
    assert converted([path]) == (folder, facts)
    assert folder.parent == cache and (folder / "model.safetensors").is_file()


def test_what_a_killed_process_has_left_is_made_again(tiny: Any) -> None:
    path, _ = tiny
    folder, facts = converted([path])
    (folder / MARK).unlink()
    (folder / "model.safetensors").write_bytes(b"half")
    assert converted([path]) == (folder, facts)
    assert load_hf(str(path), device="cpu").anatomy.n_layers == LAYERS


def test_another_file_of_the_same_name_is_another_model(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    written(path, seed=1)
    first = converted([path])[0]
    path.unlink()
    written(path, seed=2)
    assert converted([path])[0] != first


def test_a_folder_and_the_name_of_a_file_in_it(tiny: Any, tmp_path: Path) -> None:
    path, _ = tiny
    (tmp_path / "a.gguf").write_bytes(path.read_bytes())
    assert in_folder(tmp_path, None, "it") == [tmp_path / "a.gguf"]
    assert load_hf(str(tmp_path), device="cpu").name == str(tmp_path)
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(HarnessError, match=r"holds several GGUF files; name one with gguf_file=: a\.gguf, b\.gguf"):
        load_hf(str(tmp_path), device="cpu")
    assert load_hf(str(tmp_path), device="cpu", gguf_file="a.gguf").anatomy.d_model == D
    with pytest.raises(HarnessError, match=r'no GGUF file "c\.gguf"\. Did you mean'):
        load_hf(str(tmp_path), device="cpu", gguf_file="c.gguf")


def test_a_folder_of_safetensors_stays_one(tiny: Any, tmp_path: Path) -> None:
    folder, _ = converted([tiny[0]])
    (folder / "other.gguf").write_bytes(b"GGUF")
    assert load_hf(str(folder), device="cpu").provenance().get("gguf") is None


@pytest.mark.parametrize("first", [0, 1])
def test_a_package_ships_parts_in_packages_beside_it(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    path, meant = tiny
    whole = path.read_bytes()
    cuts = [whole[i : i + len(whole) // 3 + 1] for i in range(0, len(whole), len(whole) // 3 + 1)]
    sums = f"{hashlib.sha256(whole).hexdigest()}  m.gguf\n".encode()
    package(tmp_path, "tiny_weights", {"SHA256SUMS": sums})
    for i, cut in enumerate(cuts):
        package(tmp_path, f"tiny_weights_part{i + 1}", {f"m.gguf.part{i + first:02d}": cut})
    monkeypatch.syspath_prepend(tmp_path)
    model = load_hf(package="tiny_weights", device="cpu")
    np.testing.assert_array_equal(model.hf.lm_head.weight.numpy(), meant["output.weight"])
    assert model.name == "tiny_weights"
    assert model.provenance()["package"] == "tiny_weights" and model.provenance()["gguf"]["file"] == "m.gguf"
    (tmp_path / "tiny_weights_part3" / "data" / f"m.gguf.part{2 + first:02d}").write_bytes(cuts[2][:-1] + b"!")
    with pytest.raises(HarnessError, match=r"m\.gguf is damaged or incomplete: its sha256 is"):
        load_hf(package="tiny_weights", device="cpu")
    (tmp_path / "tiny_weights_part2" / "data" / f"m.gguf.part{1 + first:02d}").unlink()
    with pytest.raises(HarnessError, match=rf"the package tiny_weights is incomplete: part {1 + first} of m\.gguf"):
        of_package("tiny_weights")


def test_where_the_package_is_not_installed_pretrained_serves(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the record says which it was."""
    folder, _ = converted([tiny[0]])
    named = {"package": "tiny_or_hub", "pretrained": str(folder)}
    plain = load_hf(**named, device="cpu")  # type: ignore[arg-type]
    assert plain.name == str(folder) and "package" not in plain.provenance()
    package(tmp_path, "tiny_or_hub", {"m.gguf": tiny[0].read_bytes()})
    monkeypatch.syspath_prepend(tmp_path)
    served = load_hf(**named, device="cpu")  # type: ignore[arg-type]
    assert served.name == served.provenance()["package"] == "tiny_or_hub"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"package": "no_such_weights"}, 'no Python package "no_such_weights" is installed'),
        ({"package": "no such"}, "expected the name of a Python package"),
        ({"package": "json"}, "the package json holds no GGUF file"),
        ({"package": "json", "pretrained": "gpt2"}, "the package json holds no GGUF file"),
        ({}, "needs pretrained=, .* or package="),
        ({"package": "json", "revision": "main"}, "is of one version"),
    ],
)
def test_what_is_wrong_with_a_package_is_a_sentence(given: dict[str, str], told: str) -> None:
    with pytest.raises(HarnessError, match=told):
        load_hf(**given)  # type: ignore[arg-type]


def test_damaged_and_other_files_are_refused(tiny: Any, tmp_path: Path, cache: Path) -> None:
    path, _ = tiny
    (tmp_path / "text.gguf").write_text("no weights")
    with pytest.raises(HarnessError, match=r"text\.gguf is no GGUF file"):
        load_hf(str(tmp_path / "text.gguf"), device="cpu")
    (tmp_path / "cut.gguf").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(HarnessError, match=r"cut\.gguf could not be loaded"):
        load_hf(str(tmp_path / "cut.gguf"), device="cpu")
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(path.read_bytes())
    with pytest.raises(HarnessError, match="llama-gguf-split --merge"):
        load_hf(str(tmp_path / "m-00001-of-00002.gguf"), device="cpu")
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(HarnessError, match="expected a GGUF file, or the folder"):
        load_hf(str(tmp_path / "weights.bin"), device="cpu")
    assert [x.suffix for x in cache.iterdir()] == [".lock"], "nothing half-made is left"


def test_a_run_says_it(tiny: Any, tmp_path: Path) -> None:
    """Through the loader, as a user names it."""
    from harness.plugin.catalogue import catalogue
    from harness.plugin.specs import parse_spec

    with pytest.raises(HarnessError, match="pretrained"):
        catalogue().build(ModelLoader, parse_spec("hf", "--model"), "--model")
    loader = catalogue().build(ModelLoader, parse_spec(f"hf:pretrained={tiny[0]}", "--model"), "--model")
    assert json.dumps(loader.load().provenance()["gguf"])  # type: ignore[attr-defined]
