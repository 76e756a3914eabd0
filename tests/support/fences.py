"""Running what the documentation shows: fenced blocks are found, run in order, and their output is compared.

    ```console                      lines after "$ " are commands, the others what they print
    ```console title="needs ..."    not run, but the command line must take it
    ```python                       run; a block ```text after it is what it prints
    ```yaml title="registry.yaml"   any language: written to this file
    ```text, ```bash ...            only shown

In shown output ``...`` stands for anything, on a line of its own for any number of lines. After a change of the output
that is meant: ``UPDATE_GOLDEN=1 python -m pytest tests/project/test_docs.py``, and read what differs.
"""

from __future__ import annotations

import contextlib
import glob
import io
import linecache
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from renewing import renewed

FENCE = re.compile(r'^( *)```(\w*)(?: title="([^"]*)")?[^\n]*\n(.*?)^\1```$', re.M | re.S)

Harness = Callable[..., tuple[int, str, str]]
"""Runs the command line: arguments -> exit code, stdout, stderr."""


@dataclass(frozen=True)
class Fence:
    """A fenced block: its language, its title or "", its text, the line that it begins on, and its indentation."""

    language: str
    title: str
    text: str
    line: int
    indent: str = ""

    @property
    def runs(self) -> bool:
        return self.language == "console" and not self.title

    def commands(self) -> Iterator[tuple[str, str]]:
        """Commands of a console block, each with the output that is shown for it."""
        for part in re.split(r"^\$ ", self.text, flags=re.M)[1:]:
            command, _, output = part.replace("\\\n", " ").partition("\n")
            yield command, output


def fences(path: Path) -> list[Fence]:
    text = path.read_text(encoding="utf-8")
    return [
        Fence(found[2], found[3] or "", textwrap.dedent(found[4]), text.count("\n", 0, found.start()) + 1, found[1])
        for found in FENCE.finditer(text)
    ]


def agrees(shown: str, real: str) -> bool:
    """Whether ``real`` is what is shown, but for ``...`` and spaces at the ends of lines."""
    text = "".join(line.rstrip() + "\n" for line in shown.strip("\n").splitlines())
    parts = [re.escape(part).replace(r"\.\.\.", ".*") for part in re.split(r"(?m)^ *\.\.\.\n", text)]
    # Each part matches where it first can (atomic groups), the last one at the end: one pass over the text.
    skipped = [rf"(?>(?:.*\n)*?{part})" for part in parts[1:-1]] + [rf"(?:.*\n)*?{part}" for part in parts[1:][-1:]]
    lines = (line.rstrip() + "\n" for line in real.strip("\n").splitlines())
    return re.fullmatch(parts[0] + "".join(skipped), "".join(lines)) is not None


def run_page(path: Path, harness: Harness, install: Callable[[str], None]) -> int:
    """Run a page's blocks in the current folder; returns how many commands and blocks of Python were run.

    Args:
        install: makes the package in a folder importable, for ``pip install``.

    Raises:
        AssertionError: something fails, or prints what is not shown; says where, and what it prints.
    """
    blocks, page = fences(path), path.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "page"}
    ran = 0
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        where = f"{path.name}, line {block.line}"
        if block.runs:
            for command, shown in block.commands():
                real = _command(command, shown, harness, install, where)
                if shown.strip() and not agrees(shown, real):
                    page = _renew(page, block, shown, real, f"{where}: {command}\n{real}")
                ran += 1
        elif "." in block.title:
            file = Path(block.title)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            # As notebooks keep their cells: for whoever asks for the source of what is defined here.
            linecache.cache[where] = (
                len(block.text),
                None,
                block.text.splitlines(keepends=True),
                where,
            )  # as notebooks
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block.text, where, "exec"), names)
            if after is not None and after.language == "text" and not agrees(after.text, out.getvalue()):
                page = _renew(page, after, after.text, out.getvalue(), f"{where}:\n{out.getvalue()}")
            ran += 1
    if page != path.read_text(encoding="utf-8"):
        path.write_text(page, encoding="utf-8")
    return ran


def _renew(page: str, block: Fence, shown: str, real: str, wrong: str) -> str:
    """The page with what a command prints now, where that is asked for.

    Raises:
        AssertionError: it is not, or what is printed is too much another text to be put into the old one's place.
    """
    new = renewed(shown, real)
    assert os.environ.get("UPDATE_GOLDEN") and agrees(new, real), wrong
    return page.replace(textwrap.indent(shown, block.indent), textwrap.indent(new, block.indent), 1)


def _command(command: str, shown: str, harness: Harness, install: Callable[[str], None], where: str) -> str:
    """Run one command; returns what it prints on stdout, or on stderr where it prints nothing there."""
    program, *words = shlex.split(command, comments=True)
    arguments = [path for word in words for path in (sorted(glob.glob(word)) if "*" in word else [word])]
    if program == "harness":
        code, out, err = harness(*arguments)
        refused = shown.startswith(("error:", '{\n  "error"'))
        assert code == (2 if refused else 0), f"{where}: {command}\n{out}{err}"
        return out or err
    if program == "pip":
        install(arguments[-1])
        return ""
    assert program == "pytest", f"{where}: {program} is not run here; give the block a title that says what it needs"
    return _pytest(arguments)


def _pytest(arguments: list[str]) -> str:
    """What pytest says of the tests of a page, in this process: a new one would import for longer than it tests. The
    pytest that is under way already listens for what is raised where nobody catches it.

    Raises:
        AssertionError: they fail.
    """
    known, path = set(sys.modules), list(sys.path)
    plugins = ("cacheprovider", "xdist", "timeout", "unraisableexception")
    without = [part for name in plugins for part in ("-p", f"no:{name}")]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            code = pytest.main(["-q", "--rootdir", ".", "-c", os.devnull, *without, *arguments])
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - known:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(os.getcwd()):
                del sys.modules[name]
    assert code == 0, out.getvalue()
    return out.getvalue()
