"""Text of facts, models, plugins and users is shown as what it is by every output, and never obeyed."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
from checkout import ROOT
from rich.table import Table
from rich.text import Text

from harness.cli import listing
from harness.files import harmless
from harness.files.terminal import WIDTH, Terminal, install, say, say_json
from harness.plugin.records import Figure
from harness.report import console, page
from harness.report import leaderboard as board
from harness.report.figure_files import control_histogram, csv_bytes, render
from harness.report.latex import export as export_latex
from harness.report.markdown import export as export_markdown
from harness.report.progress import ConsoleReporter
from harness.results.folder import read_record

HOSTILE = {
    "closing tag": "[/]",
    "opening tag": "geo [old]",
    "emoji code": "geo :cat:",
    "colour": "\x1b[31mred\x1b[0m",
    "title": "\x1b]0;owned\x07",
    "C1": "\x9b31mred",
    "override": "abc\u202edef\u2069",
    "raw HTML": "<img src=x onerror=alert(1)>",
    "script": "</script><script>alert(1)</script>",
    "cell": "a|b",
    "lines": "a\n\n# b\r\nc",
    "code": "`rm`",
    "link": "[x](javascript:alert(1))",
    "LaTeX": r"\input{secret} $x_1$ 100% #1 & ~ ^ {",
    "formula": "=HYPERLINK(1)",
    "half": "a\ud800b",
    "dollars": r"$5 and $\frac",
}
"""What each of them is, in the words of the tests' names."""

COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printed(*parts: Any, width: int = 200) -> str:
    terminal = Terminal(file=io.StringIO(), width=width)
    for part in parts:
        terminal.print(part)
    return terminal.file.getvalue()  # type: ignore[attr-defined, no-any-return]  # the StringIO above


def hostile(value: Any, text: str) -> Any:
    """A record all of whose outside text is ``text``; keys, numbers, and what code looks up stay."""
    ours = {"name", "neuron", "pool", "unit", "verdict", "match", "layer_medians", "run_id", "weights_sha256", "file"}
    ours |= {"special"}
    if isinstance(value, dict):
        return {key: item if key in ours else hostile(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item, text) for item in value]
    return f"{value} {text}" if isinstance(value, str) else value


@pytest.fixture(params=HOSTILE, ids=str)
def text(request: pytest.FixtureRequest) -> str:
    return HOSTILE[request.param]


@pytest.fixture
def bad(conflict_run: Path, tmp_path: Path, text: str) -> Path:
    """The run as if every name and sentence in its record were hostile."""
    whole = text.replace("\ud800", "")  # half a character is refused when it is read
    record = hostile(small_runs.record(conflict_run), whole)
    record["figures"] = []
    (tmp_path / "result.json").write_text(json.dumps(record), encoding="utf-8")
    return tmp_path


# -- terminal ----------------------------------------------------------------------------------------------------------


def test_a_terminal_prints_every_text_as_it_is(text: str) -> None:
    table = Table()
    table.add_column(text)
    table.add_row(text)
    found = printed(text, Text(text, style="bold"), table, Text.assemble(("x", "bold"), text))
    assert not COMMANDS.search(found)
    if text.isprintable():
        assert found.count(text) == 5
    shown = printed("a\x1b[1mb")
    assert shown == "a␛[1mb\n"


@pytest.mark.parametrize("width", [80, 200])
def test_report_on_a_terminal(bad: Path, width: int, text: str) -> None:
    terminal = Terminal(file=io.StringIO(), width=width)
    console.show(terminal, read_record(bad), bad)
    found = terminal.file.getvalue()  # type: ignore[attr-defined]  # the StringIO above
    assert not COMMANDS.search(found)
    if text in ("[/]", "geo [old]"):
        assert found.count(text) > 10


def test_progress_and_messages(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ({"force_terminal": True, "color_system": None}, {}):
        terminal = Terminal(file=io.StringIO(), width=200, **options)
        with ConsoleReporter(terminal).stage(text, 2) as advance:
            advance(1)
        found = terminal.file.getvalue()  # type: ignore[attr-defined]  # the StringIO above
        assert "\x1b]0" not in found and "\x1b[31m" not in found and "\x9b" not in found and "\u202e" not in found
        if text in ("[/]", "geo [old]") and not options:
            assert text in found
    say(text)
    say(text, err=True)
    out, err = capsys.readouterr()
    assert out == err and not COMMANDS.search(out)
    say_json({text: text})
    out, _ = capsys.readouterr()
    assert json.loads(out) == {text: text} and not COMMANDS.search(out)


def test_pythons_own_words(text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    install()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        install()
        warnings.warn(text, stacklevel=1)
    error = ValueError(text)
    sys.excepthook(ValueError, error, None)
    assert not COMMANDS.search(capsys.readouterr().err)


def test_errors_of_a_command_are_shown_and_not_obeyed() -> None:
    command = [sys.executable, "-m", "harness", "eval", "-t", "\x1b[31m[/]\u202e", "-s", "entropy", "-i", "mean"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2 and "␛[31m[/]\N{REPLACEMENT CHARACTER}" in found.stderr
    assert not COMMANDS.search(found.stderr)


def test_width_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert Terminal(file=io.StringIO()).width == WIDTH == 120
    monkeypatch.setenv("COLUMNS", "70")
    assert Terminal(file=io.StringIO()).width == 70
    monkeypatch.delenv("COLUMNS")
    found = subprocess.run([sys.executable, "-m", "harness", "list"], capture_output=True, text=True, check=True)
    assert 100 < max(map(len, found.stdout.splitlines())) <= 120


def test_listing(text: str) -> None:
    from harness.plugin.catalogue import Catalogue, Origin

    catalogue = Catalogue()
    text = text.replace("\ud800", "")  # Python has no class of such a name
    found = small_runs.catalogue()
    [cls] = [x for name, x in found.components["selector"].items() if name == "random"]
    named = type("Named", (cls,), {"__doc__": f"{text} is what it is.", "name": f"random {text}"})
    catalogue.components["selector"][named.name] = named
    catalogue.origins[named] = Origin(text, text, text)
    catalogue.plugins.append(catalogue.origins[named])
    for what in (None, "selectors", "plugins", named.name):
        terminal = Terminal(file=io.StringIO(), width=400)
        listing.show(terminal, catalogue, what, lambda: None)  # type: ignore[arg-type, return-value]  # not asked
        shown = terminal.file.getvalue()  # type: ignore[attr-defined]  # the StringIO above
        assert not COMMANDS.search(shown)
        if text in ("[/]", "geo [old]", "geo :cat:"):
            assert text in shown


# -- files -------------------------------------------------------------------------------------------------------------


def test_page(bad: Path, text: str) -> None:
    found = page.write_page(bad).read_text(encoding="utf-8")
    body = found.partition("<body>")[2].partition("<script")[0]
    assert not COMMANDS.search(body)
    assert "<img" not in body and "<script" not in body and "alert(1)<" not in body


def test_markdown_page(bad: Path, tmp_path: Path, text: str) -> None:
    found = export_markdown([bad], tmp_path / "page", text, text)[0].read_text(encoding="utf-8")
    assert not COMMANDS.search(found)
    assert "<" not in found and "](javascript" not in found.replace("\\]", "")
    assert not re.search(r"(?<!\\)`", found)
    tables = [line for line in found.splitlines() if line.startswith("|")]
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    assert set(columns) <= {columns[0], *columns[1:]} and len(set(columns[2:])) <= len(set(columns))
    assert "\n# b" not in found


def test_latex(bad: Path, tmp_path: Path) -> None:
    for path in export_latex([bad], tmp_path / "tables"):
        found = path.read_text(encoding="utf-8")
        assert not COMMANDS.search(found) and "\\input{" not in found
        caption = found.partition("\\caption{")[2].partition("\n\\label")[0]
        assert "\n" not in caption, "a paragraph cannot end in a caption"
        plain = re.sub(r"\\[&%$#_{}]", "", found)
        assert plain.count("{") == plain.count("}") and plain.count("$") % 2 == 0


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_begins_no_formula(sign: str) -> None:
    found = csv_bytes({f"{sign}name": [f"{sign}1+cmd|' /C calc'!A0", f"{sign}SUM(A1)"]}).decode()
    for row in csv.reader(io.StringIO(found)):
        assert row[0][0] in "'␍"


def test_numbers_stay_numbers() -> None:
    columns = {"x": [-1.5, float("-inf"), -3, 2], "text": ["-1.5", "+2e-3", "-7", "5"], "y": np.array([-0.25] * 4)}
    rows = list(csv.reader(io.StringIO(csv_bytes(columns).decode())))
    assert rows == [
        ["x", "text", "y"], ["-1.5", "-1.5", "-0.25"], ["-inf", "+2e-3", "-0.25"], ["-3", "-7", "-0.25"],
        ["2", "5", "-0.25"],
    ]  # fmt: skip


def test_leaderboard(conflict_run: Path, text: str) -> None:
    file = conflict_run.parent / "leaderboard.jsonl"
    [row, *_] = [json.loads(x) for x in file.read_text(encoding="utf-8").splitlines()]
    row = {**row, "model": text, "selector": text, "run": text}
    columns = ["model", "selector", "run", "value"]
    for found in (board.csv_text([row], columns), board.markdown([row], columns), board.json_text([row], columns)):
        assert not COMMANDS.search(found)
    assert "<" not in board.markdown([row], columns)
    assert len(re.findall(r"(?<!\\)\|", board.markdown([row], columns).splitlines()[-1])) == len(columns) + 1
    [cells] = list(csv.DictReader(io.StringIO(board.csv_text([row], columns))))
    assert not cells["model"].startswith("=")
    if not COMMANDS.search(text):
        assert json.loads(board.json_text([row], columns))[0]["model"] == text


def test_figures(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png, svg = render(control_histogram("h", 0.5, np.linspace(0, 1, 20), text, text))

        def paint(canvas: Any) -> None:  # as somebody does who knows nothing of this
            canvas.subplots().set(xlabel=text, title=r"$\rho$")

        assert png and svg and render(Figure("f", "f", {}, paint))


def test_a_price_is_no_formula() -> None:
    assert harmless.figure("$5 and $6") == r"\$5 and \$6"


# -- nothing else prints -----------------------------------------------------------------------------------------------

SCRIPTS = {"train.py", "evaluate.py", "world.py"}
"""Made the bundled models; not part of any command."""


def test_nothing_else_prints() -> None:
    """Only harness/files/terminal.py makes consoles and writes to standard output; only harness/files/harmless.py
    writes CSV and
    reads templates; markup of rich is used nowhere."""
    root = ROOT
    files = [x for folder in ("harness", "plugins") for x in sorted((root / folder).rglob("*.py"))]
    found = []
    for path in files:
        if path.name in ("terminal.py", "harmless.py") or (path.name in SCRIPTS and "demo" in path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if path.name in ("main.py", "stopping.py") and called == "print" and "harmless.line" in ast.unparse(node):
                continue
            if called in ("print", "Console", "csv.writer", "csv.DictWriter", "jinja2.Environment", "Text.from_markup"):
                found.append(f"{path.relative_to(root)}:{node.lineno}: {called}")  # type: ignore[attr-defined]
            if called in ("typer.echo", "typer.secho", "click.echo", "sys.stdout.write", "sys.stderr.write"):
                found.append(f"{path.relative_to(root)}:{node.lineno}: {called}")  # type: ignore[attr-defined]
            if isinstance(node, ast.ImportFrom) and node.module == "rich.markup":
                found.append(f"{path.relative_to(root)}:{node.lineno}: rich.markup")
    assert not found, found


def test_a_record_is_not_changed_by_being_shown(conflict_run: Path) -> None:
    record = read_record(conflict_run)
    before = record.model_copy(deep=True)
    printed()
    console.show(Terminal(file=io.StringIO(), width=120), record, conflict_run)
    assert record == before
