"""A reporter that writes how far runs are into their unfinished parts, where ``harness view`` looks for it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, PrivateAttr

from harness.errors import HarnessError
from harness.files.wording import counted
from harness.plugin.reporters import BegunRun, FinishedRun, Reporter, Work
from harness.results.folder import UNFINISHED
from harness.results.under_way import FILE, Step, UnderWay


class Live(Reporter):
    """How far runs are, in a small file that `harness view` shows while they are made; it goes when they are finished.

    It stands in the folder of the first of the runs that are worked at, which may be a thousand on the same prompts.
    """

    name = "live"
    seconds: float = Field(1.0, gt=0, description="between two writes while a step goes on")
    _runs: dict[str, tuple[BegunRun, float]] = PrivateAttr(default_factory=dict)
    """Those that have begun and are not finished, by their folders' names, and when they began."""
    _works: list[tuple[Work, Step]] = PrivateAttr(default_factory=list)
    _began: float = PrivateAttr(0.0)
    _next: dict[Path, float] = PrivateAttr(default_factory=dict)
    """When the next write to a run's folder is due, by the monotonic clock."""

    def begun(self, run: BegunRun) -> None:
        if not run.reused:
            now = time.time()
            self._began = self._began or now
            self._runs[run.folder.name] = run, now

    def work_begins(self, work: Work) -> None:
        self._works.append((work, Step(title=work.title, total=work.total, done=0, since=work.since)))
        self._write(work)

    def work_advances(self, work: Work, steps: int) -> None:
        for i, (one, step) in enumerate(self._works):
            if one is work:
                self._works[i] = work, step.model_copy(update={"done": step.done + steps})
        if work.runs and time.monotonic() >= self._next.get(work.runs[0].folder, 0.0):
            self._write(work)

    def work_ends(self, work: Work, done: bool) -> None:
        self._works = [(one, step) for one, step in self._works if one is not work]

    def finished(self, run: FinishedRun) -> None:
        self._runs.pop(run.folder.name, None)

    def failed(self, run: BegunRun, why: str) -> None:
        self._runs.pop(run.folder.name, None)
        if (run.folder / UNFINISHED / FILE).is_file():
            self._put([run], self._began, [], [], why)

    def _write(self, work: Work) -> None:
        """Say it in the folder of the first run that is worked at; nowhere before one has begun."""
        known = [self._runs[run.folder.name] for run in work.runs if run.folder.name in self._runs]
        if not known:
            return
        runs = [run for run, _ in known]
        names = {run.folder.name for run in runs}
        if work.node is None:
            here = [step for one, step in self._works if one.node is None]
            self._put(runs, self._began, here, [name for name in self._runs if name not in names])
        else:  # others are made meanwhile, and have files of their own
            same = [x for x in self._works if x[0].node is not None and x[0].runs[:1] == work.runs[:1]]
            self._put(runs, known[0][1], _together(same), [])

    def _put(
        self, runs: list[BegunRun], began: float, steps: list[Step], waiting: list[str], ended: str | None = None
    ) -> None:
        folder = runs[0].folder
        told = UnderWay(
            runs=[run.folder.name for run in runs],
            waiting=waiting,
            command=runs[0].command,
            steps=steps,
            began=began,
            told=time.time(),
            ended=ended,
            host=socket.gethostname(),
            process=os.getpid(),
        )
        with contextlib.suppress(HarnessError):  # that nobody can watch a run is no reason to end it
            told.write(folder)
        self._next[folder] = time.monotonic() + self.seconds


def _together(works: Sequence[tuple[Work, Step]]) -> list[Step]:
    """What workers elsewhere do for the same runs: where they share the prompts, each does a part of one step."""
    titles: dict[str, list[tuple[Work, Step]]] = {}
    for work, step in works:
        titles.setdefault(step.title, []).append((work, step))
    found = []
    for title, all_ in titles.items():
        steps, nodes = [step for _, step in all_], [work.node for work, _ in all_ if work.node]
        where = f" ({counted(len(nodes), 'worker') if len(nodes) > 1 else nodes[0]})" if nodes else ""
        totals = [step.total for step in steps]
        found.append(
            Step(
                title=title + where,
                total=None if None in totals else sum(x for x in totals if x is not None),
                done=sum(step.done for step in steps),
                since=min(step.since for step in steps),
            )
        )
    return found
