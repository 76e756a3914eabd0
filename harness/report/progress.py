"""Progress on stderr: bars with the time left in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from harness.terminal import Terminal

QUIET_SECONDS = 10.0
"""Without a terminal, seconds between two lines about the same stage."""


class ConsoleReporter:
    """Shows the stages of a run; ``quiet`` shows nothing."""

    def __init__(self, console: Terminal, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        if self.quiet:
            yield lambda n: None
        elif self.console.is_terminal:
            with self._bar(title, total) as advance:
                yield advance
        else:
            with self._lines(title, total) as advance:
                yield advance

    @contextlib.contextmanager
    def _bar(self, title: str, total: int | None) -> Iterator[Callable[[int], None]]:
        columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
        if total is not None:
            columns += [BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn()]
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=total)
            yield lambda n: progress.advance(task, n)

    @contextlib.contextmanager
    def _lines(self, title: str, total: int | None) -> Iterator[Callable[[int], None]]:
        start = last = time.monotonic()
        done = 0

        def advance(n: int) -> None:
            nonlocal done, last
            done += n
            now = time.monotonic()
            if total and now - last >= QUIET_SECONDS and done:
                last = now
                left = (now - start) / done * (total - done)
                self.console.print(f"{title}: {done} of {total}, about {left:.0f} s left")

        yield advance
        self.console.print(f"{title}: {time.monotonic() - start:.1f} s")
