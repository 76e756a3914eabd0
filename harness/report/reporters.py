"""Reporters that come with the harness: the terminal, a run's page, the leaderboard, how far a run is
(:mod:`harness.report.live`), Markdown and LaTeX about all runs.

They are told as anybody's are, through the same hook. The first four are told of every run unless a command says
otherwise (``--report no:page``).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PrivateAttr

from harness import hookimpl
from harness.errors import HarnessError
from harness.plugin.reporters import Asked, FinishedRun, Reporter, Work
from harness.report.live import Live

if TYPE_CHECKING:
    from harness.progress import Advance
    from harness.report.progress import ConsoleReporter


class Console(Reporter):
    """How far a run is, on standard error, and the report of each, on standard output."""

    name = "console"
    progress: bool | None = Field(None, description="show how far it is; default: where a person is watching")
    report: Literal["text", "json", "none"] = Field(
        "text", description="what is printed of a finished run: its report, its record as JSON, or nothing"
    )
    _shown: ConsoleReporter | None = PrivateAttr(None)
    _open: dict[Work, tuple[contextlib.ExitStack, Advance]] = PrivateAttr(default_factory=dict)

    @property
    def shown(self) -> ConsoleReporter:
        """Bars in a terminal, lines elsewhere: in the cell of a notebook, too, which takes what is drawn over for
        further lines, though it says that it is a terminal."""
        if self._shown is None:
            from harness.files.terminal import Terminal
            from harness.report.progress import ConsoleReporter

            terminal = Terminal(stderr=True)
            if terminal.is_jupyter:
                cell = Terminal(file=sys.stdout, force_jupyter=False, force_terminal=False)
                self._shown = ConsoleReporter(cell, quiet=self.progress is False)
            else:
                wanted = terminal.is_terminal if self.progress is None else self.progress
                self._shown = ConsoleReporter(terminal, quiet=not wanted)
        return self._shown

    def work_begins(self, work: Work) -> None:
        stack, title = contextlib.ExitStack(), work.title
        if work.node is not None:  # one of several things that go on at once
            more = f" and {len(work.runs) - 1} more" if len(work.runs) > 1 else ""
            title = f"{work.runs[0].name}{more}: {title}" + (f" ({work.node})" if work.node else "")
        self._open[work] = stack, stack.enter_context(self.shown.stage(title, work.total))

    def work_advances(self, work: Work, steps: int) -> None:
        if steps and work in self._open:
            self._open[work][1](steps)

    def work_ends(self, work: Work, done: bool) -> None:
        if work in self._open:
            stack, _ = self._open.pop(work)
            if done:
                stack.close()
            else:
                stack.__exit__(HarnessError, HarnessError("it was not done"), None)

    def noted(self, sentence: str, important: bool) -> None:
        (self.shown.note if important else self.shown.tell)(sentence)

    def finished(self, run: FinishedRun) -> None:
        from harness.files.terminal import Terminal, say, say_json
        from harness.report import console

        if self.report == "none":
            return
        if run.reused and not self.shown.quiet:
            say(f"{run.folder}: this run was finished before; --fresh makes it again.", err=True)
        if self.report == "json":
            say_json(run.record.to_dict())
        else:
            console.show(Terminal(), run.record, run.folder)


class Page(Reporter):
    """A run as one web page that needs no network, ``report.html`` in its folder."""

    name = "page"
    does = "writing the page"

    def finished(self, run: FinishedRun) -> None:
        from harness.report.page import NAME, write_page

        if not (run.reused and (run.folder / NAME).is_file()):
            write_page(run.folder)


class Leaderboard(Reporter):
    """A row a run and measure in ``leaderboard.jsonl`` beside the runs' folders."""

    name = "leaderboard"

    def ready(self, asked: Asked) -> None:
        from harness.results.leaderboard import check

        check(asked.output / "leaderboard.jsonl")

    def finished(self, run: FinishedRun) -> None:
        from harness.results.leaderboard import append, rows_of

        append(run.folder.parent / "leaderboard.jsonl", rows_of(run.record, run.provenance))


class Markdown(Reporter):
    """One page about all runs of a command, with their figures, to commit or to send."""

    name = "markdown"
    positional = "folder"
    folder: Path = Field(description="where README.md, runs.json and the figures are written")
    title: str = Field("Runs", description="title of the page")
    description: str = Field("", description="a sentence under the title")

    def ready(self, asked: Asked) -> None:
        from harness.report.markdown import check

        check(self.folder)

    def ended(self, folders: Sequence[Path]) -> None:
        from harness.report.markdown import write

        if folders:
            write(folders, self.folder, self.title, self.description)


class Latex(Reporter):
    """Tables of all runs of a command, LaTeX (booktabs) and CSV."""

    name = "latex"
    positional = "folder"
    folder: Path = Field(description="where the tables are written")

    def ready(self, asked: Asked) -> None:
        from harness.report.latex import check

        check(self.folder)

    def ended(self, folders: Sequence[Path]) -> None:
        from harness.files.terminal import say
        from harness.report.latex import export

        for table in export(folders, self.folder) if folders else ():
            say(f"wrote {table}", err=True)


@hookimpl
def harness_reporters() -> list[type[Reporter]]:
    return [Console, Page, Leaderboard, Live, Markdown, Latex]
