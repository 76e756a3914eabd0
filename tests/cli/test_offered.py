"""Commands that installed packages add to the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Harness = Callable[..., tuple[int, str, str]]

MODULE = """
import typer

def hello(name: str, loud: bool = False) -> None:
    '''Greet somebody.'''
    print(name.upper() if loud else name)

def fails() -> None:
    raise ValueError("no reason")

several = typer.Typer(help="Two commands.")

@several.command()
def one() -> None:
    '''The first.'''
    print("one")

@several.command()
def two() -> None:
    '''The second.'''
    print("two")

number = 7
"""

ENTRIES = """[harness]
greetings = harness_hello

[harness.commands]
hello = harness_hello:hello
fails = harness_hello:fails
several = harness_hello:several
number = harness_hello:number
gone = harness_hello_gone:main
ends = harness_hello_ends:main
eval = harness_hello:hello
"""


@pytest.fixture
def offering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with commands of all kinds is installed."""
    (tmp_path / "harness_hello.py").write_text(MODULE)
    (tmp_path / "harness_hello_ends.py").write_text("raise SystemExit(3)\n")
    info = tmp_path / "harness_hello-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: harness-hello\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "harness_hello", raising=False)


LEFT_OUT = "warning: left out command 'eval' of harness-hello 1.5: harness has a command of this name itself\n"


def test_commands_are_named_without_being_imported(offering: None, harness: Harness) -> None:
    code, out, err = harness("--help")
    assert code == 0 and err == LEFT_OUT
    assert "Commands of plugins" in out and "compare-models" in out
    assert out.count("Of harness-hello 1.5; see harness hello --help.") == 1
    assert "harness_hello" not in sys.modules


def test_functions_and_apps_are_commands(offering: None, harness: Harness) -> None:
    assert harness("hello", "you", "--loud")[:2] == (0, "YOU\n")
    code, out, _ = harness("hello", "--help")
    assert code == 0 and "Greet somebody." in out and "harness hello" in out
    assert harness("several", "two")[:2] == (0, "two\n")
    code, out, _ = harness("several", "--help")
    assert code == 0 and "The first." in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fails"], "command fails of harness-hello 1.5 raised ValueError: no reason."),
        (
            ["number"],
            "command number of harness-hello 1.5 cannot be loaded (harness_hello:number): expected",
        ),
        (["gone"], "command gone of harness-hello 1.5 cannot be loaded (harness_hello_gone:main): ModuleNotFoundError"),
        (["ends"], "command ends of harness-hello 1.5 cannot be loaded (harness_hello_ends:main): SystemExit: 3"),
    ],
)
def test_what_goes_wrong_is_a_sentence(offering: None, harness: Harness, words: list[str], says: str) -> None:
    code, _, err = harness(*words)
    assert code == 2 and says in err and err.removeprefix(LEFT_OUT).count("\n") == 1


def test_a_wrong_option_is_refused_as_everywhere(offering: None, harness: Harness) -> None:
    code, _, err = harness("hello", "you", "--loudly")
    assert code == 2 and "there is no option" in err


def test_other_packages_can_be_switched_off_and_be_held_strictly(
    offering: None, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_STRICT_PLUGINS", "1")
    code, _, err = harness("--help")
    assert code == 2 and "HARNESS_STRICT_PLUGINS: command 'eval' of harness-hello 1.5: harness has a command" in err
    monkeypatch.setenv("HARNESS_LOAD_PLUGINS", "")
    code, out, err = harness("--help")
    assert (code, err) == (0, "") and "harness-hello" not in out and "compare-models" in out
    assert harness("hello", "you")[0] == 2
    for named in ("harness-hello", "loud, greetings"):  # the distribution, or a plugin of it
        monkeypatch.setenv("HARNESS_LOAD_PLUGINS", named)
        monkeypatch.setenv("HARNESS_STRICT_PLUGINS", "0")
        assert harness("hello", "you")[:2] == (0, "you\n")


def test_two_models_are_compared_by_a_plugins_command(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = harness("compare-models", "--help")
    assert code == 0 and "--tuned" in out and "--format" not in out
    assert "harness compare-models --help" in " ".join(harness("compare", "--help")[1].split())
    monkeypatch.setattr("harness.plugin.entries.entry_points", lambda group: [])
    code, _, err = harness("compare", "--base", "demo", "--tuned=demo-tuned")
    assert code == 2
    assert err == "error: compare: --base is for the command compare-models, which no installed plugin offers.\n"
