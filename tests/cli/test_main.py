"""How the command ends: exit code 0 means that the work was done, anything else is said in one sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.cli import listing

Harness = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (SystemExit(0), "something that the command called ended it (exit code 0) before its work was done"),
        (SystemExit(3), "ended it (exit code 3) before its work was done"),
        (BrokenPipeError(), "a connection to another process was closed before the work was done"),
        (BrokenPipeError(32, "Broken pipe"), "a connection to another process was closed"),
        (EOFError(), "waited for input"),
        (PermissionError(13, "Permission denied", "a/b"), "a/b: Permission denied."),
        (OSError(36, "File name too long", "x" * 9999), "...: File name too long."),
        (MemoryError(), "there is not enough memory"),
        (RecursionError(), "nested too deeply"),
        (UnicodeEncodeError("utf-8", "a\ud800", 1, 2, "no"), "'a\\ud800' cannot be written as utf-8"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), "what was read is not utf-8 text"),
    ],
)
def test_whatever_ends_the_work_is_a_sentence_and_no_success(
    raised: BaseException, says: str, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(listing, "installed", fail)
    code, out, err = harness("list")
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and says in err
    assert err.count("\n") == 1 and len(err) < 400


def test_an_interrupt_is_130(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "installed", fail)
    assert harness("list") == (130, "", "interrupted\n")


def test_an_interrupt_during_the_imports_is_130() -> None:
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'harness.cli.app':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from harness.cli.main import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("command", [["list"], ["--version"], ["--help"], ["list", "runs"]])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_behind_standard_output_is_a_sentence(command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "harness", *command], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (2, "error: cannot write to standard output: No space left on device.\n")


def test_a_reader_that_leaves_does_not_end_the_work(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\nimport typer\nfrom harness.cli import main\n"
        "from harness.cli.app import app\n"
        "from harness.files.terminal import Terminal\n"
        "def work():\n"
        "    for _ in range(3):\n        typer.echo('x' * 100_000)\n"
        "    Terminal().print('y' * 100_000)\n"
        "    Path(sys.argv[2]).write_text('done')\n"
        "app.command('work')(lambda path: work())\n"
        "main.main()\n"
    )
    target = tmp_path / "done"
    child = subprocess.Popen(
        [sys.executable, "-c", program, "work", str(target)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()  # the reader leaves at once
    with child.stderr:
        assert (child.wait(), child.stderr.read()) == (0, b"")
    assert target.read_text() == "done"


def test_without_standard_output_the_work_is_done() -> None:
    done = subprocess.run(["sh", "-c", f"{sys.executable} -m harness list >&-"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_argument_that_is_no_text_is_refused() -> None:
    done = subprocess.run([sys.executable, "-m", "harness", "list", b"\xff"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: the argument '\\udcff' is not UTF-8 text.\n")


def test_an_end_within_lm_eval_is_no_success(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(code: int | str | None) -> Callable[[], None]:
        return lambda: sys.exit(code)

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", end(0))
    assert harness("lm-eval", "run", "--tasks", "x")[0] == 2
    assert harness("lm-eval", "run", "--help")[0] == 0
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", end(1))
    assert harness("lm-eval", "validate", "--tasks", "x")[0] == 1
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", end("no"))
    assert harness("lm-eval", "ls")[::2] == (1, "no\n")


def test_what_lm_eval_refuses_is_a_sentence(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(error: Exception) -> Callable[[], None]:
        def evaluate() -> None:
            raise error

        return evaluate

    monkeypatch.setattr(
        "lm_eval.tasks.TaskManager", lambda include_path: SimpleNamespace(all_tasks=["lambada_openai", "piqa"])
    )
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", refuse(ValueError("Tasks not found: lambada_opnai, x")))
    code, _, err = harness("lm-eval", "run", "--tasks", "lambada_opnai,x")
    sentence = (
        'error: lm-eval: Tasks not found: lambada_opnai, x. Did you mean "lambada_openai"? See harness lm-eval ls'
    )
    assert code == 2 and err.startswith(sentence) and "Traceback" not in err
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", refuse(KeyError("model 'hg' not found")))
    told = "error: lm-eval: model 'hg' not found. With --debug, where.\n"
    assert harness("lm-eval", "run", "--model", "hg")[::2] == (2, told)
    with pytest.raises(KeyError):
        harness("lm-eval", "run", "--model", "hg", "--debug")
