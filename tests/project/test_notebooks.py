"""The notebooks of the documentation: what they show is what happens, and their pages show all of it."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import blank
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def notebooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks", DOCS / "notebooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(cell: Any, text_of: Any) -> list[tuple[str, set[str], str]]:
    """What a cell has printed and returned: the stream or kind, its forms, and its text but for progress."""
    outputs = []
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        lines = text_of(output.get("text") or data.get("text/html") or data.get("text/plain") or "").splitlines()
        said = [line for line in lines if not re.search(r"\d s$|\d s left$|\d (min|h) in all$", line)]
        outputs.append((output.get("name", output["output_type"]), set(data), "\n".join(said)))
    return outputs


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
    assert {path.stem for path in DOCS.rglob("*.ipynb")} == set(notebooks.NOTEBOOKS)
    navigation = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    assert all(f"{name}.md" in navigation for name in notebooks.NOTEBOOKS)


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
    pictures: dict[str, bytes] = {}
    page = "\n\n".join(notebooks._page({"cells": cells}, "name", pictures))
    assert page == (
        "# A\ntitle\n\n```python\nx = 1\n```\n\n```text\n1\n```\n\n```python\ny\n```\n\n![the figure](name-1.png)\n\n"
        '```python\nz\n```\n\n<div class="output">\n<b>\n</div>'
    )
    assert pictures == {"name-1.png": b"hello"}


@pytest.fixture
def kernels_draw_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of kernels are blank pictures."""
    start = tmp_path / "ipython" / "profile_default" / "startup"
    start.mkdir(parents=True)
    (start / "figures.py").write_text(blank.FIGURES, encoding="utf-8")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


@pytest.mark.slow
@pytest.mark.usefixtures("kernels_draw_nothing")
@pytest.mark.parametrize("name", ["tutorial-python"])
def test_what_a_notebook_shows_is_what_happens(name: str, notebooks: ModuleType, tmp_path: Path) -> None:
    """Every cell runs in a kernel of its own and shows what is committed; nothing is written to stderr."""
    kept = json.loads((DOCS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    made = notebooks.executed(name, tmp_path).cells
    for before, after in zip(kept, made, strict=True):
        for kept_one, made_one in zip(shown(before, notebooks.text_of), shown(after, notebooks.text_of), strict=True):
            assert kept_one[:2] == made_one[:2] and same(kept_one[2], made_one[2]), before["source"]
        assert not any(output.get("name") == "stderr" for output in after.get("outputs", ()))
    [progress] = [x for cell in made for x in cell.get("outputs", ()) if "drawing figures" in x.get("text", "")]
    assert "\x1b" not in progress.text and "\r" not in progress.text


@pytest.mark.slow
@pytest.mark.usefixtures("kernels_draw_nothing")
def test_the_stop_button_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    """An interrupt of a real kernel is KeyboardInterrupt in the cell; the same cell, run again, finishes the run."""
    from jupyter_client.manager import start_new_kernel

    words = 'task="knowledge_conflict", selector="entropy", intervention="mean", limit=20, controls=5, resamples=100'
    cell = f'import harness\nprint(harness.evaluate("demo", {words}).path.name)'
    manager, client = start_new_kernel(cwd=str(tmp_path))
    try:
        asked = client.execute(cell)
        while "loading the model" not in client.get_iopub_msg(timeout=300)["content"].get("text", ""):
            pass
        manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=300))["parent_header"]["msg_id"] != asked:
            pass  # the kernel's word of itself comes first
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert not list(tmp_path.glob("reports/*/result.json"))
        while (again := client.execute(cell, reply=True, timeout=600)["content"])["status"] == "aborted":
            pass  # a kernel drops what it is asked right after an error
        assert again["status"] == "ok"
        assert len(list(tmp_path.glob("reports/*/result.json"))) == 1
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
