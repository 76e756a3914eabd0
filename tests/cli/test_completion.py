"""What a shell is offered, asked as shells ask: nothing heavy is imported for it, and nothing goes wrong aloud."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Complete = Callable[..., list[str]]
HEAVY = ("torch", "transformers", "datasets", "lm_eval", "scipy", "pandas", "matplotlib", "tokenizers")
REGISTRY = """\
models:
  small: {name: hf, pretrained: ./small}
runs:
  values: {task: dfa, selector: random, intervention: [mean, zero]}
suites:
  verse: {runs: [values]}
"""


@pytest.fixture
def complete(harness: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Complete:
    """What bash is offered for the last of some words, in a folder with a registry."""
    from typer.main import get_command

    from harness.cli.app import app

    (tmp_path / "registry.yaml").write_text(REGISTRY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def offered(*words: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", " ".join(["harness", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        monkeypatch.setenv("_HARNESS_COMPLETE", "complete_bash")
        monkeypatch.setattr("harness.cli.app.app", lambda **more: get_command(app)(prog_name="harness", **more))
        code, out, err = harness()
        assert (code, err) == (0, "")
        return out.split()

    return offered


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("eval", "--selector", "entro"), ["entropy"]),
        (("eval", "-s", "entropy:top=6,null"), ["entropy:top=6,null_dims="]),
        (("plan", "--intervention", "mean_m"), ["mean_minus_sigma"]),
        (("eval", "--metric", "calib"), ["calibration"]),
        (("eval", "--model", "sm"), ["small"]),
        (("run", "values", "--report", "markdown:fol"), ["markdown:folder="]),
        (("eval", "--set", "contr"), ["controls="]),
        (("arena", "--selectors", "lape,entro"), ["lape,entropy"]),
        (("run", "v"), ["verse", "values"]),
        (("run", "verse", "values.m"), ["values.mean"]),
        (("list", "selec"), ["selectors", "selected_neurons"]),
        (("list", "unit"), ["units"]),
        (("inspect", "dem"), ["demo"]),
        (("leader",), ["leaderboard"]),
        (("eval", "--hold"), ["--hold_out", "--hold-out"]),
    ],
)
def test_names_are_completed(words: tuple[str, ...], found: list[str], complete: Complete) -> None:
    offered = complete(*words)
    assert set(found) <= set(offered) and all(word.startswith(words[-1]) for word in offered)


def test_a_registry_that_is_broken_offers_nothing(complete: Complete, tmp_path: Path) -> None:
    (tmp_path / "registry.yaml").write_text("runs: [", encoding="utf-8")
    assert complete("run", "v") == []


def test_a_shell_that_asks_waits_for_nothing_heavy() -> None:
    """In a process of its own, as a shell starts it."""
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('HEAVY', sorted(set(sys.modules) & set({HEAVY!r}))))\n"
        "sys.argv = ['harness']\nfrom harness.cli.main import main\nmain()\n"
    )
    asked = {"_HARNESS_COMPLETE": "complete_bash", "COMP_WORDS": "harness eval --selector entro", "COMP_CWORD": "3"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **asked})
    assert "HEAVY []" in done.stdout and done.stderr == ""
