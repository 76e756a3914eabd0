"""Loading from the hub's cache and from a hub: pinned to a commit, with a token, and one sentence where it fails."""

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
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from families import tiny_hf, tokenizer
from safetensors.torch import load_file

from harness.model.loading import load_hf

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
        '"acme/data" has no config.json on the hub: it is no transformers model (GGUF files are named with gguf_file=, '
        "adapters with peft= beside the model that they are of).",
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
