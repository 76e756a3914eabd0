"""A reporter that writes how far runs are into their unfinished parts, where ``harness view`` looks for it."""

from __future__ import annotations

import contextlib
import os
import socket
import time

from pydantic import Field, PrivateAttr

from harness.errors import HarnessError
from harness.plugin.reporters import BegunRun, FinishedRun, Reporter, Work
from harness.results.folder import UNFINISHED
from harness.results.under_way import FILE, Step, UnderWay


class Live(Reporter):
    """How far runs are, in a small file that `harness view` shows while they are made; it goes when they are finished.

    It stands in the folder of the first of the runs that are worked at, which may be a thousand on the same prompts.
    """

    name = "live"
    seconds: float = Field(1.0, gt=0, description="between two writes while a step goes on")
    _runs: dict[str, BegunRun] = PrivateAttr(default_factory=dict)
    """Those that have begun and are not finished, by their folders' names."""
    _works: list[tuple[Work, Step]] = PrivateAttr(default_factory=list)
    _began: float = PrivateAttr(0.0)
    _next: float = PrivateAttr(0.0)
    """When the next write is due, by the monotonic clock."""

    def begun(self, run: BegunRun) -> None:
        if not run.reused:
            self._began = self._began or time.time()
            self._runs[run.folder.name] = run

    def work_begins(self, work: Work) -> None:
        self._works.append((work, Step(title=work.title, total=work.total, done=0, since=time.time())))
        self._write()

    def work_advances(self, work: Work, steps: int) -> None:
        for i, (one, step) in enumerate(self._works):
            if one is work:
                self._works[i] = work, step.model_copy(update={"done": step.done + steps})
        if time.monotonic() >= self._next:
            self._write()

    def work_ends(self, work: Work, done: bool) -> None:
        self._works = [(one, step) for one, step in self._works if one is not work]

    def finished(self, run: FinishedRun) -> None:
        self._runs.pop(run.folder.name, None)

    def failed(self, run: BegunRun, why: str) -> None:
        self._runs.pop(run.folder.name, None)
        if (run.folder / UNFINISHED / FILE).is_file():
            self._put(run, [run], why)

    def _write(self) -> None:
        """Say it in the folder of the first run that is worked at; nowhere before one has begun."""
        runs = [run for work, _ in self._works[-1:] for run in work.runs if run.folder.name in self._runs]
        if runs:
            self._put(runs[0], runs)

    def _put(self, where: BegunRun, runs: list[BegunRun], ended: str | None = None) -> None:
        names = [run.folder.name for run in runs]
        told = UnderWay(
            runs=names,
            waiting=[] if ended else [name for name in self._runs if name not in set(names)],
            command=where.command,
            steps=[step for _, step in self._works],
            began=self._began,
            told=time.time(),
            ended=ended,
            host=socket.gethostname(),
            process=os.getpid(),
        )
        with contextlib.suppress(HarnessError):  # that nobody can watch a run is no reason to end it
            told.write(where.folder)
        self._next = time.monotonic() + self.seconds
