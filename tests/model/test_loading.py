"""Loading from folders, from the hub's cache and from a hub, and one sentence for each way in which it fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from logging import LogRecord
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from families import BOS, D_VOCAB, tiny_hf, tokenizer
from safetensors.torch import load_file, save_file

from harness.errors import HarnessError
from harness.model.loading import load_hf

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_hf("llama").save_pretrained(folder)
    tokenizer(bos=True).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of the model's folder, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "tiny-llama"))


@pytest.fixture
def refused(folder: Path, capfd: pytest.CaptureFixture[str], logged: list[LogRecord]) -> Callable[..., str]:
    """Load, by default from ``folder``, and return the sentence with which that is refused; nothing else is said."""

    def load(pretrained: object = folder, **options: Any) -> str:
        capfd.readouterr()
        with pytest.raises(HarnessError) as caught:
            load_hf(str(pretrained), **options)
        message = str(caught.value)
        assert capfd.readouterr() == ("", "")
        assert not logged
        assert "\n" not in message
        assert len(message) < 500
        return message

    return load


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def shard(folder: Path) -> None:
    tiny_hf("llama").save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()


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
    shard(folder)
    assert load_hf(str(folder)).anatomy.n_layers == 3


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
    assert "is a file: expected the folder that holds config.json" in refused(folder / "model.safetensors")


def test_a_revision_of_a_folder(refused: Callable[..., str]) -> None:
    assert 'revision "v1" was asked for, but' in refused(revision="v1")


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
            "weights, which would be left out: merge it with peft (merge_and_unload, then save_pretrained into another "
            "folder), or move its files away to run the model without it."
        )
    for file in ("config.json", "model.safetensors"):
        (folder / file).unlink()
    assert "holds an adapter (adapter_config.json, adapter_model.safetensors) and no model: merge it" in refused()


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


# --- the cache of the hub ------------------------------------------------------------------------------------------


MAIN, V1 = "a" * 40, "b" * 40
"""Commits of two revisions."""


@pytest.fixture
def cache(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds acme/tiny at two revisions: v1 is gpt2, main is llama."""
    repository = tmp_path / "hub" / "models--acme--tiny"
    shutil.copytree(original, repository / "snapshots" / MAIN)
    tiny_hf("gpt2").save_pretrained(repository / "snapshots" / V1)
    tokenizer().save_pretrained(repository / "snapshots" / V1)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(MAIN)
    (repository / "refs" / "v1").write_text(V1)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("revision", "commit", "architecture"),
    [(None, MAIN, "LlamaForCausalLM"), ("v1", V1, "GPT2LMHeadModel"), (V1, V1, "GPT2LMHeadModel")],
)
def test_a_revision_resolves_to_its_commit_in_the_cache(
    cache: Path, capfd: pytest.CaptureFixture[str], revision: str | None, commit: str, architecture: str
) -> None:
    model = load_hf("acme/tiny", revision=revision)
    assert (model.name, model.revision, model.commit) == ("acme/tiny", revision, commit)
    assert type(model.hf).__name__ == architecture
    assert capfd.readouterr() == ("", "")


def test_pickles_of_the_hub_are_loaded_only_if_allowed(cache: Path, refused: Callable[..., str]) -> None:
    snapshot = cache / "models--acme--tiny" / "snapshots" / MAIN
    torch.save(load_file(snapshot / "model.safetensors"), snapshot / "pytorch_model.bin")
    (snapshot / "model.safetensors").unlink()
    assert refused("acme/tiny") == (
        "acme/tiny has no safetensors weights; if you trust its pickled ones, allow them with allow_pickle=true."
    )
    assert load_hf("acme/tiny", allow_pickle=True).commit == MAIN


def test_what_is_not_in_the_cache_is_refused_at_once_when_offline(cache: Path, refused: Callable[..., str]) -> None:
    start = time.monotonic()
    assert refused("acme/tiny", revision="v2").startswith(
        'model "acme/tiny" at revision "v2" is not in the local cache, and the hub may not be asked (HF_HUB_OFFLINE)'
    )
    assert refused("acme/other").startswith('model "acme/other" is not in the local cache')
    assert refused("gpt2", local_files_only=True).startswith('model "gpt2" is not in the local cache')
    assert time.monotonic() - start < 2


def test_an_adapter_in_the_cache_is_refused(cache: Path, refused: Callable[..., str]) -> None:
    [snapshot] = cache.glob(f"models--acme--tiny/snapshots/{V1}")
    (snapshot / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"}))
    assert 'model "acme/tiny" holds an adapter (adapter_config.json) beside its own weights' in refused(
        "acme/tiny", revision="v1"
    )


# --- a hub ---------------------------------------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """Serves a folder as acme/tiny at main and v1; other names fail as the hub lets them fail."""

    folder: Path
    tokens: set[str | None]
    asked: set[tuple[str, str]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        status, headers, body = self.answer()
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_GET = do_HEAD

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        parts = self.path.split("?")[0].strip("/").split("/")
        if len(parts) != 5 or parts[2] != "resolve":
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        self.server.tokens.add(self.headers.get("Authorization"))
        _, name, _, revision, file = parts
        self.server.asked.add((revision, file))
        commit = {"main": MAIN, MAIN: MAIN, "v1": V1, V1: V1}.get(revision)
        if name == "gated":
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if name == "nothing":
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if commit is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        path = self.server.folder / file
        if name == "data" or not path.is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{file}"'}, path.read_bytes()


@pytest.fixture
def hub(original: Path) -> Iterator[Hub]:
    with Hub(("127.0.0.1", 0), _Answers) as server:
        server.folder, server.tokens, server.asked = original, set(), set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


SCRIPT = """
import json, sys
from harness.errors import HarnessError
from harness.model.loading import load_hf

for name, revision in json.loads(sys.argv[1]):
    try:
        model = load_hf(name, revision=revision)
        print(model.revision, model.commit)
    except HarnessError as error:
        print(error)
"""


def load_from(hub: Hub, home: Path, *wanted: tuple[str, str | None], token: str = "") -> tuple[list[str], str]:
    """Lines that a process prints which loads (name, revision) pairs from the hub, and its stderr."""
    # The libraries read these variables when they are imported: hence another process.
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_TOKEN": token} if token else {}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(wanted)], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines(), done.stderr


def test_a_hub_is_asked_with_the_token_and_pinned_to_a_commit(hub: Hub, tmp_path: Path) -> None:
    lines, stderr = load_from(
        hub,
        tmp_path,
        ("acme/tiny", "v1"),
        ("acme/tiny", "v9"),
        ("acme/gated", None),
        ("acme/nothing", None),
        ("acme/data", None),
        token="hf_secret",
    )
    assert hub.tokens == {"Bearer hf_secret"}
    # Once the revision is resolved, every file is asked for at that commit, even if the branch moves meanwhile.
    assert {revision for revision, file in hub.asked if file != "config.json"} == {V1}
    assert lines == [
        f"v1 {V1}",
        'model "acme/tiny" has no revision "v9" on the hub.',
        'model "acme/gated" is gated, and your token has no access to it: accept its licence at '
        "https://huggingface.co/acme/gated.",
        'model "acme/nothing" was not found: there is no local folder of that name and no such model on the hub '
        "(a private one needs HF_TOKEN).",
        '"acme/data" has no config.json on the hub: it is no transformers model (an adapter has to be merged into its '
        "model first).",
    ]
    assert stderr == ""


def test_a_gated_model_without_a_token(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    lines, _ = load_from(hub, tmp_path, ("acme/gated", None))
    assert lines == [
        'model "acme/gated" is gated: accept its licence at https://huggingface.co/acme/gated and set HF_TOKEN '
        "(or `hf auth login`)."
    ]
    assert hub.tokens == {None}
