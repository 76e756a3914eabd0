"""Groups of runs on workers of other processes or machines.

Only the driver writes: it holds the locks of the runs' folders, puts the files that workers send
(:mod:`harness.running.messages`) in place, and tells reporters, so that each run is in the leaderboard once
however often a worker was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.files.owned import path_name
from harness.files.store import canonical, read_json, writing
from harness.files.wording import counted
from harness.plugin.catalogue import catalogue
from harness.results.folder import MARK, PROVENANCE, RECORD, UNFINISHED, RunFolder
from harness.results.provenance import packages
from harness.running import execute
from harness.running.execute import INTERRUPTED, Finished, Share, identity_of
from harness.running.executors import Made, NotMade
from harness.running.messages import Began, Job, Lost, Note, Opened, Piece, Refused, Workers, Working
from harness.running.orders import Order
from harness.running.spec import Resources
from harness.running.working import Heard

if TYPE_CHECKING:
    from harness.plugin.reporters import BegunRun
    from harness.running.plan import Plan
    from harness.running.telling import Telling

COMPLETE = (RECORD, PROVENANCE, MARK)
"""What a worker gets of a run that is complete."""

KEPT = ("prepared.json", "part-*")
"""What it gets of ``unfinished/`` of one that is not."""

PART = ".safetensors"
"""How the file ends that marks a part as finished."""

PREPARED = f"{UNFINISHED}/prepared.json"
"""The prompts of a run under way."""

ENVIRONMENT = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "MKL_CBWR")
"""Variables, beside those that begin with HARNESS_, that a worker takes from the driver. Tokens are not among them:
what is sent can be read by whoever may use the cluster."""


class Elsewhere(Exception):
    """The traceback of a worker, as the cause of what is said here."""


@dataclass(frozen=True)
class Driver:
    """Has groups made by workers.

    Attributes:
        max_retries: how often a group is begun again after its worker was lost, since a part of its prompts has come.
        resources: of every run; what is None is as its specification says, else 1 CPU and no GPU.
        several: whether there are other runs than one that is refused.
        shares: among how many workers the prompts of a run are divided.
        packages: versions that workers must have.
    """

    workers: Workers
    output: Path
    command: str
    fresh: bool
    told: Telling
    max_retries: int
    resources: Resources
    several: bool
    shares: int = 1
    packages: dict[str, str] = field(default_factory=packages)

    async def make(self, groups: Sequence[Sequence[Plan]]) -> list[list[Made]]:
        """What became of all groups, in their order."""
        return list(await asyncio.gather(*(Group(self, list(group)).make() for group in groups)))


def needs(plans: Sequence[Plan], asked: Resources) -> tuple[float, float]:
    """CPUs and GPUs of a group: what the user asks for every run, else the most that one of these needs."""
    each = [plan.spec.resources for plan in plans]
    cpus = asked.cpus if asked.cpus is not None else max([x.cpus for x in each if x.cpus is not None], default=1)
    gpus = asked.gpus if asked.gpus is not None else max([x.gpus for x in each if x.gpus is not None], default=0)
    return cpus, gpus


class _Gone(Exception):
    """A worker was lost, after so many parts had come of it."""

    def __init__(self, parts: int, how: str) -> None:
        super().__init__(how)
        self.parts = parts


class _Refusal(Exception):
    """A group cannot be made."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.sentence)
        self.refused = refused


@dataclass
class Group:
    """Runs on the same prompts, from their first attempt to their end.

    Attributes:
        forgotten: folders that were cleared because the user asked for ``fresh`` ones.
        folders: the folder of each run as the first worker named it.
        opened: the folders that workers have begun, and whether each was complete before.
        locks: of these folders; held until the group has come to its end.
        begun: what reporters were told of each.
        prepared: is set when the prompts are there.
    """

    driver: Driver
    plans: list[Plan]
    forgotten: set[str] = field(default_factory=set)
    folders: dict[str, str] = field(default_factory=dict)
    opened: dict[str, bool] = field(default_factory=dict)
    begun: dict[str, BegunRun] = field(default_factory=dict)
    locks: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    prepared: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        """The runs' names, for messages."""
        return ", ".join(plan.spec.name for plan in self.plans)

    async def make(self) -> list[Made]:
        """Make the runs; those that fail are reported at once, too."""
        with self.locks:
            try:
                if self.driver.shares > 1:
                    await self._divided()
                if not self._complete():
                    await self._tried(None)
                return self.finished()
            except _Refusal as refusal:
                for name in self.opened:
                    RunFolder(self.driver.output / name).abandon()
                refused = refusal.refused
            except asyncio.CancelledError:
                for run in self._unfinished():
                    self.driver.told.failed(run, INTERRUPTED)
                raise
        if self.opened and len(self.plans) > 1:  # one of them is to blame, and the others shall not suffer
            alone = [Group(self.driver, [plan], self.forgotten, self.folders, begun=self.begun) for plan in self.plans]
            return [run for group in alone for run in await group.make()]
        return self._not_made(refused)

    async def _divided(self) -> None:
        """Have several workers run parts of the prompts: the first begins alone, and makes the prompts for all."""
        if any(PREPARED in files for files in self.kept().values()):
            self.prepared.set()
        tasks = [asyncio.create_task(self._tried((0, self.driver.shares)))]
        ready = asyncio.create_task(self.prepared.wait())
        try:
            await asyncio.wait([*tasks, ready], return_when=asyncio.FIRST_COMPLETED)
            if not tasks[0].done():
                several = range(1, min(self.driver.shares, self._parts()))
                tasks += [asyncio.create_task(self._tried((i, self.driver.shares))) for i in several]
            await asyncio.gather(*tasks)
        finally:
            for task in (*tasks, ready):
                task.cancel()
            await asyncio.gather(*tasks, ready, return_exceptions=True)

    def _parts(self) -> int:
        """Into how many parts the prompts fall, at most: some may be held out."""
        found = (self.driver.output.glob(f"{plan.spec.name}-????????/{PREPARED}") for plan in self.plans)
        n = max(len(read_json(path)["prompts"]) for paths in found for path in paths)
        return math.ceil(n / execute.PART)

    def _unfinished(self) -> list[BegunRun]:
        """Runs of these that have begun and are not complete."""
        own = {plan.spec.name for plan in self.plans}
        return [run for run in self.begun.values() if run.name in own and not RunFolder(run.folder).complete]

    def _complete(self) -> bool:
        done = [name for name in self.opened if RunFolder(self.driver.output / name).complete]
        return len(done) == len(self.plans)

    async def _tried(self, share: Share | None) -> None:
        """Have a worker make the runs, or a share of their prompts, and another one if it is lost; until that has
        happened too often since a part has come.

        Raises:
            _Refusal: they cannot be made.
        """
        most, retry = self.driver.max_retries, 0
        while True:
            try:
                return await self._attempt(share)
            except _Gone as gone:
                retry = 1 if gone.parts else retry + 1
                lost = f"its worker was lost ({gone})"
            if retry > most:
                raise _Refusal(Refused(f"{lost}, {counted(retry, 'time')}; no more is tried."))
            self.driver.told.tell(f"{self.name}: {lost}; it continues elsewhere (retry {retry} of {most})")

    async def _attempt(self, share: Share | None) -> None:
        """One job.

        Raises:
            _Gone: its worker is.
            _Refusal: it says that it cannot be done.
        """
        parts, heard, done = 0, Heard(self.driver.told), False
        heard.waits(self._unfinished())
        cpus, gpus = needs(self.plans, self.driver.resources)
        job = Job(self.order(share), self.kept(), cpus, gpus, self.name)
        try:
            async with contextlib.aclosing(self.driver.workers.run(job)) as messages:
                async for message in messages:
                    if isinstance(message, Refused):
                        raise _Refusal(message)
                    if isinstance(message, Note):
                        self.driver.told.note(message.sentence)
                    elif isinstance(message, Opened):
                        self.open(message)
                    elif isinstance(message, Began):
                        self.begin(message)
                    elif isinstance(message, Working):
                        heard.says(message, [self.begun[run] for run in message.runs if run in self.begun])
                    else:
                        self.put(message)
                        parts += message.last and message.path.endswith(PART)
            done = True
        except Lost as error:
            raise _Gone(parts, str(error)) from error
        except HarnessError as error:
            raise _Refusal(Refused(str(error))) from error
        finally:
            heard.ends(done)

    def _not_made(self, refused: Refused) -> list[Made]:
        if self.driver.several:
            self.driver.told.note(f"{self.name}: not made: {refused.sentence}")
        for run in self.begun.values():
            if run.name in [plan.spec.name for plan in self.plans]:
                self.driver.told.failed(run, refused.sentence)
        error = HarnessError(refused.sentence)
        if refused.detail:
            error.__cause__ = Elsewhere(refused.detail)
        return [NotMade(plan.spec.name, error) for plan in self.plans]

    def finished(self) -> list[Made]:
        """Tell of the runs that they are whole."""
        made: list[Made] = []
        for name in self.opened:
            run = self.driver.told.finished(self.begun[name])
            if not run.reused:
                self.driver.told.tell(f"{run.name}: finished, {run.folder}")
            made.append(Finished(run.folder, run.record, run.reused))
        return made

    def order(self, share: Share | None = None) -> str:
        """What a worker is asked, as JSON."""
        names = {*ENVIRONMENT, *(name for name in os.environ if name.startswith("HARNESS_"))}
        return Order(
            specs=tuple(plan.spec for plan in self.plans),
            command=self.driver.command,
            folder=str(Path.cwd()),
            environment={name: os.environ[name] for name in sorted(names & os.environ.keys())},
            packages=self.driver.packages,
            identities=tuple(json.loads(canonical(identity_of(plan, None))) for plan in self.plans),
            plugins=tuple(catalogue().files.values()),
            share=share,
        ).model_dump_json()

    def kept(self) -> dict[str, dict[str, Path]]:
        """What folders of these runs hold that a worker needs to go on: by folder, and path in it."""
        kept = {}
        for plan in self.plans:
            for path in self.driver.output.glob(f"{plan.spec.name}-????????"):
                if self.driver.fresh and path.name not in self.forgotten:
                    continue
                done = self._settled(path)
                files = [path / x for x in COMPLETE] if done else [x for y in KEPT for x in (path / UNFINISHED).glob(y)]
                kept[path.name] = {file.relative_to(path).as_posix(): file for file in files}
        return kept

    def _settled(self, path: Path) -> bool:
        """Whether the run of a folder is complete, now that what a killed command still owed it is made."""
        from filelock import FileLock, Timeout

        folder = RunFolder(path)
        if folder.recorded:
            with contextlib.suppress(Timeout), FileLock(self.driver.output / f".{path.name}.lock", timeout=0):
                folder.settle()
        return folder.complete

    def open(self, message: Opened) -> None:
        """Lock the folder of a run that a worker has begun, and make it ready.

        Raises:
            HarnessError: the run is not one of these, or another process has it.
        """
        from filelock import FileLock, Timeout

        name = message.run.rpartition("-")[0]
        if not any(re.fullmatch(re.escape(plan.spec.name) + "-[0-9a-f]{8}", message.run) for plan in self.plans):
            raise HarnessError(f"node {message.node} makes {message.run}, which it was not asked for.")
        if self.folders.setdefault(name, message.run) != message.run:
            raise HarnessError(f"node {message.node} has another model, or another device, than a node before it.")
        if message.run in self.opened:  # by another worker, whose files are there
            return
        path = self.driver.output / message.run
        with writing(path):
            try:
                self.locks.enter_context(FileLock(self.driver.output / f".{message.run}.lock", timeout=0))
            except Timeout:
                raise HarnessError(f"{path}: another process is making this run.") from None
        if not message.complete:
            RunFolder(path).open(self.driver.fresh and message.run not in self.forgotten)
            self.forgotten.add(message.run)
        self.opened[message.run] = message.complete

    def begin(self, message: Began) -> None:
        """Tell that a run has begun, the first time that it has."""
        if message.run in self.opened and message.run not in self.begun:
            plan = next(plan for plan in self.plans if message.run.rpartition("-")[0] == plan.spec.name)
            folder, reused = self.driver.output / message.run, self.opened[message.run]
            self.begun[message.run] = self.driver.told.begun(plan, message.run_id, folder, self.driver.command, reused)

    def put(self, piece: Piece) -> None:
        """Write a part of a file beside its place, and put the file there when it is whole."""
        for part in (piece.run, *piece.path.split("/")):
            path_name(part, f"a file that a worker sends, {piece.path!r}")
        if piece.run not in self.opened:
            raise HarnessError(f"a worker sends a file of {piece.run}, which it was not asked for.")
        path = self.driver.output / piece.run / piece.path
        partial = path.with_name(f".{path.name}.partial")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("ab" if piece.offset else "wb") as file:
                file.write(piece.data)
                if piece.last:
                    file.flush()
                    os.fsync(file.fileno())
            if piece.last:
                os.replace(partial, path)
        if piece.last and piece.path == PREPARED:
            self.prepared.set()
        if piece.last and piece.path == MARK:
            RunFolder(path.parent).clear()
