"""The notebooks of the documentation: their outputs are of their cells, what they show happens, and pages show it.

One is run here, in this process; of all a digest says that nobody has changed cells and left outputs.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import math
import re
import signal
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import harness as package

DOCS = Path(__file__).resolve().parents[2] / "docs"
RUN = "notebooks/attribution"
"""The one that takes seconds."""


@pytest.fixture(scope="module")
def notebooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks", DOCS / "notebooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(name: str) -> Any:
    return json.loads((DOCS / f"{name}.ipynb").read_text(encoding="utf-8"))


NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def same(shown: str, made: str) -> bool:
    """Whether two texts are the same but for spaces and for last digits, which differ between processors."""
    words, others = (" ".join(NUMBER.sub("#", text).split()) for text in (shown, made))
    numbers = zip(*(map(float, NUMBER.findall(text)) for text in (shown, made)), strict=True)
    return words == others and all(math.isclose(x, y, rel_tol=0.02, abs_tol=1e-3) for x, y in numbers)


def test_last_digits_may_differ_and_nothing_else() -> None:
    assert same("p 0.0412 of  600 facts", "p 0.0413 of 600 facts")
    assert not same("p 0.0412 of 600 facts", "p 0.0612 of 600 facts")
    assert not same("less than random: -0.19", "more than random: -0.19")


def test_every_notebook_is_a_page_of_the_navigation(notebooks: ModuleType) -> None:
    found = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.ipynb")}
    assert found == set(notebooks.NOTEBOOKS)
    navigation = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    assert all(f"{name}.md" in navigation for name in notebooks.NOTEBOOKS)


def test_outputs_are_of_the_cells_that_are_there(notebooks: ModuleType) -> None:
    """And of this version, where it is a release: it shows what it does itself. ``make notebooks`` writes them."""
    for name in notebooks.NOTEBOOKS:
        notebook = read(name)
        made = notebook["metadata"].get("harness", {})
        assert made.get("code_sha256") == notebooks.digest_of(notebook), f"{name}: run `make notebooks`"
        assert "dev" in package.__version__ or made["version"] == package.__version__, f"{name}: run `make notebooks`"
        changed = {**notebook, "cells": [*notebook["cells"], {"cell_type": "code", "source": "other"}]}
        assert notebooks.digest_of(changed) != made["code_sha256"]


def test_every_notebook_shows_what_it_did_on_any_machine(notebooks: ModuleType) -> None:
    for name in notebooks.NOTEBOOKS:
        text = (DOCS / f"{name}.ipynb").read_text(encoding="utf-8")
        cells = [cell for cell in read(name)["cells"] if cell["cell_type"] == "code"]
        outputs = [output for cell in cells for output in cell["outputs"]]
        assert len(text) < 300_000, name
        assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)], name
        assert any("image/png" in output.get("data", {}) for output in outputs), name
        for output in outputs:  # nothing failed, nothing was warned of, and progress is lines that stay
            assert output["output_type"] != "error" and output.get("name") != "stderr", name
            shown = notebooks.text_of(output.get("text", ""))
            assert not re.search(r"\x1b|\r|/home/|/root/|/tmp/", shown), name
        [installs] = [cell for cell in cells if notebooks.INSTALLS in notebooks.text_of(cell["source"])]
        assert installs is cells[0] and not installs["outputs"]  # skipped where the harness is


def test_a_page_has_the_text_the_code_and_the_outputs(notebooks: ModuleType) -> None:
    picture = {"image/png": "aGVsbG8=", "text/plain": "<Figure>"}
    cells = [
        {"cell_type": "markdown", "source": ["# A\n", "title"]},
        {
            "cell_type": "code",
            "source": "x = 1",
            "outputs": [{"output_type": "stream", "name": "stdout", "text": "1\n"}],
        },
        {"cell_type": "code", "source": "y", "outputs": [{"output_type": "execute_result", "data": picture}]},
        {
            "cell_type": "code",
            "source": "z",
            "outputs": [{"output_type": "execute_result", "data": {"text/html": "<b>"}}],
        },
    ]
    cells.insert(1, {"cell_type": "code", "source": f'{notebooks.INSTALLS}"harness")', "outputs": []})
    pictures: dict[str, bytes] = {}
    page = "\n\n".join(notebooks._page({"cells": cells}, "folder/name", pictures))
    assert page == (
        "# A\ntitle\n\n```python\nx = 1\n```\n\n```text\n1\n```\n\n```python\ny\n```\n\n![the figure](name-1.png)\n\n"
        '```python\nz\n```\n\n<div class="output">\n<b>\n</div>'
    )
    assert pictures == {"folder/name-1.png": b"hello"}


@pytest.mark.parametrize(
    ("repo_url", "builds", "found"),
    [
        ("https://github.com/one/harness", "", "github/one/harness/blob/main/docs/notebooks/x.ipynb"),
        (None, "two/harness", "github/two/harness/blob/main/docs/notebooks/x.ipynb"),
        ("https://gitlab.com/one/harness", "", None),
        (None, "", None),
    ],
)
def test_the_badge_names_the_repository_where_it_is_known(
    repo_url: str | None, builds: str, found: str | None, notebooks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", builds)
    badge = "".join(notebooks._colab("notebooks/x", SimpleNamespace(repo_url=repo_url)))
    assert (found is None) == (badge == "")
    assert found is None or f"https://colab.research.google.com/{found}" in badge


def ran(source: str, names: dict[str, Any]) -> tuple[str, str | None]:
    """What a cell prints, and what a notebook shows of its last expression, as a table or as text."""
    from IPython.core.formatters import DisplayFormatter

    tree, value = ast.parse(source), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(tree, "cell", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    if value is None:
        return out.getvalue(), None
    forms, _ = DisplayFormatter().format(value)
    return out.getvalue(), forms.get("text/html") or forms["text/plain"]


def test_what_a_notebook_shows_is_what_happens(
    notebooks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib import pyplot

    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "notebook"}
    seen = 0
    for cell in read(RUN)["cells"]:
        source = notebooks.text_of(cell["source"])
        if cell["cell_type"] != "code" or notebooks.INSTALLS in source:
            continue
        printed, value = ran(source, names)
        kept = [x for x in cell["outputs"] if "image/png" not in x.get("data", {})]
        [data] = [x["data"] for x in kept if x["output_type"] == "execute_result"] or [{}]
        text = "".join(notebooks.text_of(x["text"]) for x in kept if x["output_type"] == "stream")
        assert same(text, printed), source
        if data:
            assert value is not None and same(notebooks.text_of(data.get("text/html") or data["text/plain"]), value), (
                source
            )
        seen += len(kept)
    pyplot.close("all")
    assert seen > 4


def test_the_stop_button_leaves_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank_figures: None
) -> None:
    """It is a SIGINT: KeyboardInterrupt in the cell; the same cell, run again, finishes the run."""
    from harness.running import here

    monkeypatch.chdir(tmp_path)
    words = 'task="knowledge_conflict", selector="entropy", intervention="mean", limit=20, controls=5, resamples=100'
    cell = f'import harness\nharness.evaluate("demo", {words}, progress=False).path.name'
    made = here.Here._model
    with monkeypatch.context() as pressed:
        pressed.setattr(here.Here, "_model", lambda *given: (made(*given), signal.raise_signal(signal.SIGINT))[0])
        with pytest.raises(KeyboardInterrupt):
            ran(cell, {})
    assert not list(tmp_path.glob("reports/*/result.json"))
    _, shown = ran(cell, {})
    assert [f"'{path.parent.name}'" for path in tmp_path.glob("reports/*/result.json")] == [shown]
