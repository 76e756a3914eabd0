"""Progress on stderr: bars with the time left in a terminal, a line every few seconds elsewhere.

What takes long is said as soon as a few steps of it have been timed, not when it is over.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as Bar
from rich.text import Text

from harness.files.terminal import Terminal

QUIET_SECONDS = 10.0
"""Without a terminal, seconds between two lines about the same stage."""

LONG_SECONDS = 60.0
"""A stage that will take longer says so when its first steps are done."""

FIRST_SECONDS = 1.0
"""How long steps are timed before the whole is estimated from them."""


class ConsoleReporter:
    """Shows the stages of a run, also such that lie in one another; ``quiet`` shows nothing."""

    def __init__(self, console: Terminal, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet
        self._bars: Progress | None = None
        self._stages = 0

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

    def note(self, sentence: str) -> None:
        """Tell it, also where no progress is shown."""
        self.console.print(f"note: {sentence}", style="yellow", soft_wrap=True)

    def tell(self, sentence: str) -> None:
        """Tell it, where progress is shown."""
        if not self.quiet:
            self.console.print(sentence, soft_wrap=True)

    @contextlib.contextmanager
    def _bar(self, title: str, total: int | None) -> Iterator[Callable[[int], None]]:
        with self._shown() as bars:
            task, clock = bars.add_task(title, total=total), _Clock(total)

            def advance(n: int) -> None:
                bars.advance(task, n)
                if (seconds := clock.advance(n)) is not None:
                    self.console.print(f"{title}: about {duration(seconds)} in all")

            try:
                yield advance
            finally:
                bars.remove_task(task)

    @contextlib.contextmanager
    def _shown(self) -> Iterator[Progress]:
        """The bars of all stages, until the last one ends: a terminal has room for one display."""
        if self._bars is None:
            known = map(_Known, (BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn()))
            columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), *known
            self._bars = Progress(*columns, console=self.console, transient=True)
            self._bars.start()
        self._stages += 1
        try:
            yield self._bars
        finally:
            self._stages -= 1
            if not self._stages:
                self._bars.stop()
                self._bars = None

    @contextlib.contextmanager
    def _lines(self, title: str, total: int | None) -> Iterator[Callable[[int], None]]:
        clock, last = _Clock(total), time.monotonic()

        def advance(n: int) -> None:
            nonlocal last
            whole, now = clock.advance(n), time.monotonic()
            if whole is not None:
                self.console.print(f"{title}: about {duration(whole)} in all")
            elif total and now - last >= QUIET_SECONDS:
                last = now
                left = clock.whole(now) - (now - clock.start)
                self.console.print(f"{title}: {clock.done} of {total}, about {left:.0f} s left")

        yield advance
        self.console.print(f"{title}: {time.monotonic() - clock.start:.1f} s")


class _Known(ProgressColumn):
    """Another column where the number of steps is known, nothing elsewhere."""

    def __init__(self, column: ProgressColumn) -> None:
        super().__init__()
        self.column = column

    def render(self, task: Bar) -> RenderableType:
        return Text("") if task.total is None else self.column(task)


class _Clock:
    """Times the steps of a stage."""

    def __init__(self, total: int | None) -> None:
        self.total, self.done, self.start, self._told = total, 0, time.monotonic(), False

    def whole(self, now: float) -> float:
        """Seconds that the stage takes in all, from the steps that are done."""
        return (now - self.start) / max(self.done, 1) * (self.total or 0)

    def advance(self, n: int) -> float | None:
        """Count steps; once, the seconds that the whole will take, if they are many."""
        self.done += n
        now = time.monotonic()
        if self._told or not self.total or now - self.start < FIRST_SECONDS or self.done >= self.total:
            return None
        self._told = True
        return whole if (whole := self.whole(now)) > LONG_SECONDS else None


def duration(seconds: float) -> str:
    """Minutes or hours in words."""
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
