"""Reporters: whom runs are told to. The terminal, the page and the leaderboard are told as anybody's reporter is.

What happens, in this order, in one command::

    ready(asked)                       every run is planned, nothing is loaded: refuse here what cannot work
    work_begins(work) ...              what takes a while, from here on: begins, advances, ends; one may lie in another,
                                       and on workers elsewhere several go on at once
    begun(run)                         its model is loaded: the run has an identity and a folder
    noted(sentence, important)         a sentence for whoever waits
    finished(run) or failed(run, why)  its folder is whole, whatever becomes of a reporter; or it was not made
    ended(folders)                     no run is left to make

A reporter is no part of a run's identity and changes none of its bytes. One that raises is named in a note and told no
more until the next run begins; the others are told on, and the command ends with exit code 2 when all runs are made.
The same command tells a finished run again (:attr:`BegunRun.reused`): what a network has lost is sent then.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.plugin.base import Component

if TYPE_CHECKING:
    from harness.results.provenance import Provenance
    from harness.results.record import RunRecord


@dataclass(frozen=True)
class AskedRun:
    """A run as it is asked for.

    Attributes:
        components: what :meth:`harness.plugin.Component.identity` gives of the ``model``, ``task``, ``selector`` and
            ``intervention``, and of each of ``metrics``, with the distribution that it comes from.
        settings: controls, match, hold_out, margins, engine, seed, limit, batch_size, resamples.
    """

    name: str
    description: str
    components: Mapping[str, Any]
    settings: Mapping[str, Any]

    def written(self, kind: str) -> dict[str, Any]:
        """One of the components as it is written: ``{"name": "entropy", "top": 6}``."""
        found = self.components[kind]
        return {"name": found["name"], **found["params"]}


@dataclass(frozen=True)
class Asked:
    """What a command is asked for: its runs, the folder that theirs will lie in, and what was typed."""

    runs: tuple[AskedRun, ...]
    output: Path
    command: str


@dataclass(frozen=True)
class BegunRun:
    """A run that has begun.

    Attributes:
        run_id: sha256 (hex) of everything that its results depend on: the same run has the same one anywhere.
        folder: where it is; what is in it is whole when the run is finished.
        reused: it was finished by an earlier command and is told again.
    """

    asked: AskedRun
    run_id: str
    folder: Path
    command: str
    reused: bool

    @property
    def name(self) -> str:
        """What the user calls it; :attr:`folder` is called this and the first characters of :attr:`run_id`."""
        return self.asked.name


@dataclass(frozen=True)
class FinishedRun(BegunRun):
    """A run whose folder is whole: ``result.json`` is ``record``, the other files are beside it."""

    record: RunRecord
    provenance: Provenance


@dataclass(frozen=True, eq=False)
class Work:
    """Something that takes a while.

    Attributes:
        total: how many steps it has, where that is known.
        runs: whose it is: of runs on the same prompts some is done for all at once; of none before they have begun.
        node: where it is done by a worker of another process or machine; "" while one is waited for; None: here.
        since: when it began, in seconds since 1970.
    """

    title: str
    total: int | None
    runs: tuple[BegunRun, ...]
    node: str | None = None
    since: float = field(default_factory=time.time)


class Reporter(Component):
    """Is told of runs, and shows, writes or sends what it is told.

    Its fields are settings, as of every component; what it must remember between two calls is a private attribute
    (``_sent: list[str] = PrivateAttr(default_factory=list)``). All methods are called from one thread. The methods do
    nothing here: override those that matter.
    """

    kind = "reporter"
    does: ClassVar[str | None] = None
    """What is shown as a stage while :meth:`finished` works, "writing the page"; None: it takes no time."""

    def ready(self, asked: Asked) -> None:
        """Refuse, before anything is loaded, what cannot work: a package that is not there, a folder that cannot be
        written, a name that is none.

        Raises:
            HarnessError: names the parameter or the package; no run is made then.
        """

    def begun(self, run: BegunRun) -> None:
        """A run has begun; also one that was finished before, which is told again."""

    def work_begins(self, work: Work) -> None:
        """Something that takes a while has begun."""

    def work_advances(self, work: Work, steps: int) -> None:
        """So many more of its steps are done; none where a worker elsewhere says that it is there. Called often: be
        quick."""

    def work_ends(self, work: Work, done: bool) -> None:
        """It is over; not ``done`` where an error or an interruption has ended it."""

    def noted(self, sentence: str, important: bool) -> None:
        """A sentence for whoever waits; ``important`` where it should be shown though no progress is."""

    def finished(self, run: FinishedRun) -> None:
        """A run's folder is whole."""

    def failed(self, run: BegunRun, why: str) -> None:
        """A run that had begun was not finished: what its error says, or that it was interrupted."""

    def ended(self, folders: Sequence[Path]) -> None:
        """The command makes no further run; ``folders``: of those that are finished, in the order they were told."""
