"""What the README and CONTRIBUTING say of commands, components and the example plugin is true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from typer.main import get_command

from harness.cli.app import app
from harness.plugin import Selector
from harness.plugin.base import PLURALS
from harness.plugin.catalogue import catalogue
from harness.plugin.specs import parse_spec
from harness.running.registry import load_registry

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_components_is_complete() -> None:
    """Every component has its name in the README's table, and the table names no other."""
    found = catalogue()
    for kind, components in found.components.items():
        own = {name for name, cls in components.items() if found.origins[cls].distribution == "neuron-harness"}
        [row] = [line for line in README.splitlines() if line.startswith(f"| {PLURALS[kind]} |")]
        named = {name for name in re.findall(r"`([a-z_-]+)`", row)}
        assert named == own, kind


def test_options_that_the_readme_names_exist() -> None:
    group: Any = get_command(app)
    commands = [*group.commands.values(), *(command.own for command in group.offered.values())]
    known = {option for command in commands for param in command.params for option in param.opts}
    assert set(re.findall(r"(?<![\w-])(--[a-z_]+)", README)) - {"--check"} <= known


def test_commands_of_the_readme_parse() -> None:
    """Every `harness eval` line is validated as far as possible without a model."""
    lines = [line for line in README.splitlines() if line.startswith("harness eval")]
    assert len(lines) >= 3
    for line in lines:
        words = [word for word in shlex.split(line.split("#")[0]) if word != "..."]
        parser = get_command(app).commands["eval"]  # type: ignore[attr-defined]
        context = parser.make_context("eval", words[2:], resilient_parsing=True)
        if context.params["selector"]:
            spec = parse_spec(context.params["selector"], "--selector")
            assert catalogue().build(Selector, spec, "--selector").name == spec.name


def test_runs_that_the_readme_names_exist() -> None:
    registry = load_registry(ROOT / "registry.yaml")
    named = set(re.findall(r"(?:`|^)harness run ([a-z][a-z0-9-]*)", README, re.M))
    named |= set(re.findall(r"`(confidence-[a-z-]+)`", README))
    assert named <= {*registry.runs, *registry.suites}
    assert "paper-confidence" in named


def test_the_plugin_of_contributing_is_the_example() -> None:
    """The class in CONTRIBUTING.md is that of tests/plugin_example, which a test installs and runs."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.S)
    names: dict[str, object] = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    selector = names["Loudest"]
    example = (ROOT / "tests" / "plugin_example" / "harness_loudest.py").read_text(encoding="utf-8")
    assert selector.name == "loudest" and "class Loudest(Selector)" in example  # type: ignore[attr-defined]
    assert names["harness_selectors"]() == [selector]  # type: ignore[operator]


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
    assert f"make {target}" in README


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank_figures: None
) -> None:
    """On the bundled model and a neuron of its last layer, with fewer controls."""
    shown: list[str] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("webbrowser.open", shown.append)
    [code] = re.findall(r"```python\n(.*?)```", README, re.S)
    names: dict[str, Any] = {}
    for word, ours in (('"gpt2"', '"demo"'), ('"11.2378"', '"3.0"'), ("limit=200", "limit=200, controls=9")):
        assert word in code
        code = code.replace(word, ours)
    *lines, last = code.strip().splitlines()
    exec("\n".join(lines), names)
    assert shown == [(names["run"].path / "report.html").resolve().as_uri()]
    scores = eval(last, names)
    untouched, without = (rows for _, rows in scores.groupby("condition", sort=False))
    assert untouched["token"].tolist() == without["token"].tolist()
    assert (untouched["entropy"].to_numpy() != without["entropy"].to_numpy()).any()
