"""What a worker elsewhere does: as it says it there (:class:`Steps`), as reporters are told it here (:class:`Heard`).

Numbers and seconds go from one to the other, no time of day: clocks of two machines differ.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.plugin.reporters import BegunRun, Work
from harness.running.messages import Doing, Working

if TYPE_CHECKING:
    from harness.progress import Advance
    from harness.running.telling import Telling

WAITING = "waiting for a worker"


@dataclass
class _Step:
    number: int
    title: str
    total: int | None
    runs: tuple[str, ...]
    done: int = 0
    began: float = field(default_factory=time.monotonic)

    def advance(self, steps: int) -> None:
        self.done += steps


class Steps:
    """The stages that a worker is in. One thread works, another one looks."""

    def __init__(self, node: str) -> None:
        self.node = node
        self._open: list[_Step] = []
        self._numbers = itertools.count()

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None, runs: Sequence[BegunRun]) -> Iterator[Advance]:
        """Within the block, this is done for the runs."""
        step = _Step(next(self._numbers), title, total, tuple(run.folder.name for run in runs))
        self._open.append(step)
        try:
            yield step.advance
        finally:
            self._open.remove(step)

    def now(self) -> Working | None:
        """What is done now, if it is for runs that have begun."""
        steps, now = tuple(self._open), time.monotonic()
        if not steps or not steps[-1].runs:
            return None
        doing = (Doing(x.number, x.title, x.total, x.done, now - x.began) for x in steps)
        return Working(steps[-1].runs, self.node, tuple(doing))


class Heard:
    """Tells reporters what one worker says that it does, from its beginning to its end."""

    def __init__(self, told: Telling) -> None:
        self._told = told
        self._open: list[tuple[int, Work]] = []
        self._done: dict[Work, int] = {}

    def waits(self, runs: Sequence[BegunRun]) -> None:
        """Runs that have begun wait for a worker."""
        if runs:
            self._begin(-1, Work(WAITING, None, tuple(runs), ""))

    def says(self, said: Working, runs: Sequence[BegunRun]) -> None:
        """What it does for these runs now."""
        numbers = [(number, step.number) for (number, _), step in zip(self._open, said.steps, strict=False)]
        there = next((i for i, (one, other) in enumerate(numbers) if one != other), len(numbers))
        self._end(there, True)
        for step in said.steps[there:]:
            since = time.time() - step.seconds
            self._begin(step.number, Work(step.title, step.total, tuple(runs), said.node, since))
        for (_, work), step in zip(self._open, said.steps, strict=True):
            self._told.advances(work, max(step.done - self._done[work], 0))
            self._done[work] = step.done

    def ends(self, done: bool) -> None:
        """It says no more: it has come to its end, or is lost."""
        self._end(0, done)

    def _begin(self, number: int, work: Work) -> None:
        self._open.append((number, work))
        self._done[work] = 0
        self._told.begins(work)

    def _end(self, kept: int, done: bool) -> None:
        while len(self._open) > kept:
            _, work = self._open.pop()
            del self._done[work]
            self._told.ends(work, done)
