"""The one way to a person's terminal: what is printed there has no markup of outside text and commands nothing."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterable
from types import TracebackType
from typing import IO, Any, TextIO

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from harness.files import harmless

WIDTH = 120
"""Columns where there is no terminal that says how many it has (a pipe, a file), and COLUMNS is not set."""


class Terminal(Console):
    """rich's console that takes every text for what it is: no markup, no emoji codes, no control characters."""

    def __init__(self, *, stderr: bool = False, file: IO[str] | None = None, width: int | None = None, **more: Any):
        super().__init__(stderr=stderr, file=file, width=width, highlight=False, markup=False, emoji=False, **more)
        if width is None and not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = WIDTH

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(harmless.plain(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        if isinstance(renderable, Text):
            shown = renderable.copy()
            shown.plain = harmless.plain(renderable.plain)  # of the same length: styles keep their places
            renderable = shown
        return super().render(renderable, options)


def say(text: object, err: bool = False, end: str = "\n") -> None:
    """Print a line for a person; standard error with ``err``."""
    typer.echo(f"{harmless.plain(str(text))}{end}", nl=False, err=err)


def say_json(value: Any) -> None:
    """Print a value as indented JSON."""
    typer.echo(harmless.json_text(value, indent=2))


def install() -> None:
    """Let Python's own words (warnings, tracebacks) go the same way."""

    def warn(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        text = harmless.plain(warnings.formatwarning(message, category, filename, lineno, line))
        (file or sys.stderr).write(text)

    def trace(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        say("".join(traceback.format_exception(kind, error, where)), err=True, end="")

    warnings.showwarning = warn
    sys.excepthook = trace
