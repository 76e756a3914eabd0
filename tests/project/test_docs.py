"""The documentation: the site builds strictly and loads nothing from elsewhere; what its pages show is what happens."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from browser import Opened, chromium, expect
from checkout import ROOT
from fences import Fence, Harness, agrees, fences, run_page
from renewing import renewed
from typer.main import get_command

from harness.cli.app import app
from harness.plugin.base import KINDS, PLURALS
from harness.plugin.catalogue import catalogue
from harness.plugin.hookspecs import HOOKS
from harness.results.leaderboard import COLUMNS

pytestmark = pytest.mark.usefixtures("blank_figures")

DOCS = ROOT / "docs"

PAGES = ["coming-from.md", "errors.md", "install.md", "notation.md", "statistics.md"]
SLOW = [
    "attribution.md",
    "lm-eval.md",
    "reading-a-report.md",
    "recipes/confidence.md",
    "recipes/data.md",
    "recipes/latents.md",
    "recipes/models.md",
    "recipes/neurons.md",
    "recipes/plugin.md",
    "recipes/plugin-executor.md",
    "recipes/plugin-intervention.md",
    "recipes/plugin-metric.md",
    "recipes/plugin-reporter.md",
    "recipes/plugin-task.md",
    "recipes/plugin-unit.md",
    "recipes/python.md",
    "recipes/results.md",
    "recipes/units.md",
    "scale.md",
    "tutorial.md",
]
"""Pages that are run; the others of ``OTHERS`` show no commands, or say what theirs need."""
OTHERS = ["concepts.md", "faq.md", "files.md", "index.md", "papers.md", "releasing.md", "trackers.md", "view.md"]


# -- the site ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; whatever would ask another machine meets a closed door."""
    folder = tmp_path_factory.mktemp("site")
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Loaded(HTMLParser):
    """Collects what a browser fetches for a page by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.found.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.found.append(given.get("href") or "")


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        parser = _Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        assert len(parser.found) > 3
        for address in parser.found:
            assert not re.match(r"(https?:)?//", address), f"{page.name}: {address}"
            target = page.parent / address.split("?")[0].split("#")[0]
            assert target.exists() or address.startswith("data:") or page.name == "404.html", f"{page}: {address}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet


def test_long_reports_are_folded_and_the_search_needs_no_server(site: Path) -> None:
    with chromium() as browser:
        opened = Opened(browser, site / "reports" / "paper-confidence" / "index.html")
        page = opened.page
        assert page.evaluate("document.documentElement.scrollHeight") < 15_000
        inside = page.locator("main details").first
        inside.locator("summary").click()
        expect(inside.locator("table").first).to_be_visible()
        page.click("[data-md-component=search-query]")
        expect(page.locator(".md-search-result__meta")).not_to_contain_text("Initializing")
        page.keyboard.type("entropy neurons")  # as a person does: what is filled in before the index is read is lost
        page.wait_for_selector(".md-search-result__item")
        assert opened.trouble == []


def test_the_reference_has_everything(site: Path) -> None:
    def text(name: str) -> str:
        return (site / "reference" / f"{name}.html").read_text(encoding="utf-8")

    for kind in KINDS:
        page = text(PLURALS[kind])
        for name, cls in catalogue().components[kind].items():
            assert f'<h2 id="{name}">' in page
            assert all(f"<td><code>{parameter}</code></td>" in page for parameter in cls.model_fields), name
    hooks, commands, columns = text("hooks"), text("cli"), text("leaderboard")
    assert all(f'<h2 id="{hook}">' in hooks for hook in HOOKS.values())
    assert all(f"<code>{option}</code>" in commands for option in _options(get_command(app)))
    assert all(f"<code>{column}</code>" in columns for column in COLUMNS)
    python = text("python")
    assert 'id="harness' not in python and 'id="effects"' in python and "<strong>Raises</strong>" in python
    for page in (site / "reference").glob("*.html"):  # no markup of docstrings is left
        assert not re.search(r":(class|func|mod|meth|data|attr):|``", page.read_text(encoding="utf-8")), page.name


def _options(command: object) -> Iterator[str]:
    yield from (option for param in command.params for option in param.opts if option.startswith("-"))  # type: ignore[attr-defined]
    for inner in getattr(command, "commands", {}).values():
        yield from _options(inner)


# -- what pages show ---------------------------------------------------------------------------------------------------


@pytest.fixture
def columns() -> int:
    """Width of the terminal whose output the pages show."""
    return 120


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """``pip install`` of a folder, without its dependencies, into a folder of this test."""
    site = tmp_path / "site-packages"
    before = set(sys.modules)

    def pip(folder: str) -> None:
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), folder.split("[")[0]]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()
        catalogue.cache_clear()

    yield pip
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(site)):
            del sys.modules[name]
    monkeypatch.undo()
    catalogue.cache_clear()


@pytest.mark.parametrize("page", [*PAGES, *(pytest.param(page, marks=pytest.mark.slow) for page in SLOW)])
def test_what_a_page_shows_is_what_happens(
    page: str, harness: Harness, install: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    if page != "recipes/confidence.md":  # the one that reads the data of a figure
        monkeypatch.setattr(
            "harness.running.execute.write_shown", lambda *arguments: None
        )  # takes long, is tested elsewhere
        monkeypatch.setattr("harness.report.page.write_page", lambda *arguments: None)
    assert run_page(DOCS / page, harness, install) > 0  # type: ignore[arg-type]


def test_every_page_with_commands_is_run() -> None:
    """A page of ours is run, or has no command to run; what stands beside its text is text of a shell or a file."""
    own = {*PAGES, *SLOW, *OTHERS}
    for page in OTHERS:
        assert not any(block.runs or block.language == "python" for block in fences(DOCS / page)), page
    assert own <= {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


ALL_PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md"]


@pytest.mark.parametrize("path", ALL_PAGES, ids=lambda path: path.name)
def test_every_command_line_is_valid(path: Path, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of commands that are not run: their options exist, and components of `eval` take their parameters."""
    monkeypatch.chdir(ROOT)  # registry.yaml is here
    for block in fences(path):
        for command in _commands(block):
            words = [word for word in shlex.split(command, comments=True)[1:] if word != "..."]
            _parse(whole(), words, command)
            complete = words[0] == "eval" and {"--task", "--selector"} <= set(words) and "..." not in command
            if complete and block.title:  # not run elsewhere
                code, _, err = harness(*words, "--dry_run")
                assert code == 0, f"{command}\n{err}"


def _commands(block: Fence) -> Iterator[str]:
    """Commands of the harness in a block, prompts removed and continued lines joined."""
    lines = iter(block.text.replace("\\\n", " ").splitlines())
    for line in lines:
        if re.match(r"(\$ )?harness( |$)", line):
            command = line.removeprefix("$ ")
            while len(re.findall('"', command)) % 2:
                command += " " + next(lines)
            yield command


@cache
def whole() -> object:
    """The command line with all its commands: to make it anew for each of hundreds of lines takes long."""
    return get_command(app)


def _parse(command: object, words: list[str], whole: str) -> None:
    """Let the command line parse the words, down to the subcommand.

    Raises:
        AssertionError: there is no such command, or option.
    """
    while getattr(command, "commands", None) and words and not words[0].startswith("-"):
        try:
            _, command, words = command.resolve_command(typer.Context(command), words)  # type: ignore
        except Exception as error:
            raise AssertionError(f"{whole}: {error}") from error
        command = getattr(command, "own", command)  # a plugin's is loaded
    try:
        command.make_context("harness", list(words), resilient_parsing=True)  # type: ignore[attr-defined]
    except Exception as error:
        raise AssertionError(f"{whole}: {error}") from error
    if command.context_settings.get("ignore_unknown_options"):  # type: ignore[attr-defined]
        return  # the rest is for another program
    known = set(_options(command)) | {x for param in command.params for x in param.secondary_opts}  # type: ignore[attr-defined]
    assert {word for word in words if re.match(r"--[a-z]", word)} <= known | {"--help", "--version"}, whole


def test_the_record_has_the_keys_that_are_documented(harness: Harness, tmp_path: Path) -> None:
    page = (DOCS / "files.md").read_text(encoding="utf-8").split("## result.json")[1]
    cells = [re.findall(r"^\| (`[^|]*) \|", part, re.M) for part in page.split("A measure:")]
    run, measure = ({key for cell in part for key in re.findall(r"`(\w+)`", cell)} for part in cells)
    arguments = ["--limit", 60, "--controls", 3, "--resamples", 100, "--quiet", "--json", "-o", tmp_path]
    with pytest.MonkeyPatch.context() as undrawn:
        undrawn.setattr("harness.running.execute.write_shown", lambda *arguments: None)
        undrawn.setattr("harness.report.page.write_page", lambda *arguments: None)
        code, out, _ = harness("eval", "-t", "knowledge_conflict", "-s", "entropy", "-i", "mean", *arguments)
    record = json.loads(out)
    assert code == 0 and run == set(record)
    assert measure == {key for one in record["measures"] for key in one}


@pytest.mark.parametrize(
    ("shown", "real", "same"),
    [
        ("a\nb", "a \nb\n", True),
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("a\n...\nd", "a\nd", True),
        ("p 0.0... end", "p 0.0123 end", True),
        ("a\nb", "a\nc", False),
        ("a", "a\nb", False),
        ("a\n...\nd", "a\nb\nc", False),
        ("p 0.0... end", "p 0.0123\nend", False),
        ("a.c", "abc", False),
    ],
)
def test_what_counts_as_the_same(shown: str, real: str, same: bool) -> None:
    assert agrees(shown, real) is same


def test_a_page_that_lies_is_found(tmp_path: Path, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPDATE_GOLDEN", raising=False)
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"

    def tried(text: str) -> None:
        page.write_text(text, encoding="utf-8")
        run_page(page, harness, lambda folder: None)

    tried("```console\n$ harness --version\n...\n```\n```python\nprint(1)\n```\n```text\n1\n```\n")
    for lie in (
        "```console\n$ harness --version\n17.4\n```\n",
        "```console\n$ harness --versions\n```\n",
        "```console\n$ rm -r x\n```\n",
        "```python\nprint(1)\n```\n\n```text\n2\n```\n",
    ):
        with pytest.raises(AssertionError):
            tried(lie)


def test_shown_output_is_renewed_with_its_gaps() -> None:
    shown = "a 1.5 x\n...\nentropy   0.5 ... p .01\nmore      2\n...\nend 3\n"
    real = "a 1.7 x\nb\nentropy   0.61 (0.2) p .02\nnew       3\nmore      5\nleft out\nend 4\n"
    new = renewed(shown, real)
    assert new == "a 1.7 x\n...\nentropy   0.61 ... p .02\nnew       3\nmore      5\n...\nend 4\n"
    assert agrees(new, real) and not agrees(shown, real) and renewed(new, real) == new
