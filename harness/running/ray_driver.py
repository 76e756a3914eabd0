"""Fan groups of runs out over a Ray cluster.

Only the driver writes: it holds the locks of the runs' folders, puts the files that nodes send (:mod:`ray_worker`) in
place, and enters finished runs into the leaderboard, so that each is there once however often a node was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.files.owned import path_name
from harness.files.store import canonical, check_writable, writing
from harness.plugin.catalogue import catalogue
from harness.results.folder import MARK, PROVENANCE, RECORD, UNFINISHED, RunFolder
from harness.results.provenance import packages
from harness.running.execute import Finished, identity_of
from harness.running.executors import NotMade
from harness.running.ray_cluster import connected, first_line
from harness.running.ray_worker import AHEAD, Began, Note, Opened, Order, Piece, Refused, work
from harness.running.spec import Resources

if TYPE_CHECKING:
    from harness.files.terminal import Terminal
    from harness.plugin.reporters import BegunRun
    from harness.running.plan import Plan
    from harness.running.telling import Telling

FINISHED = (RECORD, PROVENANCE, MARK)
"""What a worker gets of a run that is complete."""

MAX_RETRIES = 3
"""How often a group is begun again after its worker was lost."""

ENVIRONMENT = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "MKL_CBWR")
"""Variables, beside those that begin with HARNESS_, that a worker takes from the driver. Tokens are not among them:
what is sent can be read by whoever may use the cluster."""


@dataclass(frozen=True)
class OnRay:
    """Each group is a Ray task on whichever node has room for it.

    Attributes:
        address: of a running cluster ("auto", "host:6379"); None: as RAY_ADDRESS says, else one is started here.
        resources: of every run; what is None is as its spec says, else 1 CPU and no GPU.
        max_retries: how often a group is begun again after its worker was lost.
    """

    console: Terminal
    quiet: bool = False
    address: str | None = None
    resources: Resources = field(default_factory=Resources)
    max_retries: int = MAX_RETRIES

    def execute(
        self, groups: Sequence[Sequence[Plan]], output: Path, command: str, fresh: bool, told: Telling
    ) -> Iterator[list[Finished | NotMade]]:
        """See :class:`harness.running.executors.Executor`; a run that fails is reported, and the others go on."""
        check_writable(output)
        told.ready([plan for group in groups for plan in group], output, command)
        work = [_Group(self, list(group), output, command, fresh, told) for group in groups]
        with connected(self.address) as where:
            for needs in {group.needs for group in work}:
                self._find_room(*needs, where)
            made = asyncio.run(_all(work))
        yield from made

    def _find_room(self, cpus: float, gpus: float, where: str) -> None:
        """Say what would be waited for: a node that is large enough.

        Raises:
            HarnessError: the cluster is this machine alone, and cannot grow.
        """
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            return
        needs = f"a node with {cpus:g} CPUs and {gpus:g} GPUs for one run"
        if where == "local":
            raise HarnessError(f"--executor ray: this machine is not {needs}; see --cpus-per-run and --gpus-per-run.")
        self.say(f"waiting for {needs}: the cluster has none now")

    def say(self, text: str) -> None:
        """Show a line of progress."""
        if not self.quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def complain(self, runs: str, error: str, detail: str = "") -> None:
        """Show an error, also where no progress is shown."""
        self.console.print(f"{detail}error: {runs}: {error}", highlight=False, markup=False, soft_wrap=True)


async def _all(groups: Sequence[_Group]) -> list[list[Finished | NotMade]]:
    return await asyncio.gather(*(group.make() for group in groups))


class _Lost(Exception):
    """The worker is gone, not by its own fault."""


@dataclass
class _Group:
    """Runs on the same prompts, from their first attempt to their end.

    Attributes:
        forgotten: folders that were cleared because the user asked for ``fresh`` ones.
        opened: the runs' folders as the worker of the last attempt named them, and whether each was complete before.
        begun: what reporters were told of each, by its folder.
        folders: the folder of each run as the first attempt named it.
    """

    executor: OnRay
    plans: list[Plan]
    output: Path
    command: str
    fresh: bool
    told: Telling
    forgotten: set[str] = field(default_factory=set)
    opened: dict[str, bool] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    begun: dict[str, BegunRun] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The runs' names, for messages."""
        return ", ".join(plan.spec.name for plan in self.plans)

    @property
    def needs(self) -> tuple[float, float]:
        """CPUs and GPUs: what the user asks for every run, else the most that one of these needs."""
        asked, each = self.executor.resources, [plan.spec.resources for plan in self.plans]
        cpus = asked.cpus if asked.cpus is not None else max([x.cpus for x in each if x.cpus is not None], default=1)
        gpus = asked.gpus if asked.gpus is not None else max([x.gpus for x in each if x.gpus is not None], default=0)
        return cpus, gpus

    async def make(self) -> list[Finished | NotMade]:
        """Make the runs; those that fail are reported at once, too."""
        say, lost = self.executor.say, "its worker was lost"
        for retry in range(self.executor.max_retries + 1):
            if retry:
                say(f"{self.name}: {lost}; it continues elsewhere (retry {retry} of {self.executor.max_retries})")
            try:
                refused = await self._attempt()
            except _Lost as error:
                lost = f"its worker was lost ({error})"
                continue
            if refused is None:
                return self._finished()
            if self.opened and len(self.plans) > 1:  # one of them is to blame, and the others shall not suffer
                alone = [replace(self, plans=[plan]) for plan in self.plans]
                return [run for group in alone for run in await group.make()]
            return self._not_made(refused)
        return self._not_made(Refused(f"{lost}, {self.executor.max_retries + 1} times; no more is tried."))

    def _not_made(self, refused: Refused) -> list[Finished | NotMade]:
        self.executor.complain(self.name, refused.sentence, refused.detail)
        for run in self.begun.values():
            if run.name in [plan.spec.name for plan in self.plans]:
                self.told.failed(run, refused.sentence)
        return [NotMade(plan.spec.name, HarnessError(refused.sentence)) for plan in self.plans]

    def _finished(self) -> list[Finished | NotMade]:
        made: list[Finished | NotMade] = []
        for name in self.opened:
            run = self.told.finished(self.begun[name])
            if not run.reused:
                self.executor.say(f"{run.name}: finished, {run.folder}")
            made.append(Finished(run.folder, run.record, run.reused))
        return made

    async def _attempt(self) -> Refused | None:
        """One task; returns what it said if it failed.

        Raises:
            _Lost: its worker died, or the worker's node.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        cpus, gpus = self.needs
        task = ray.remote(work).options(
            num_returns="streaming",
            max_retries=0,  # ours know what is finished
            num_cpus=cpus,
            num_gpus=gpus,
            _generator_backpressure_num_objects=AHEAD,
        )
        self.opened = {}
        stream = task.remote(self._order(), self._kept())
        with contextlib.ExitStack() as locks:
            try:
                async for reference in stream:
                    message = await reference
                    if isinstance(message, Refused):
                        return self._abandoned(message)
                    if isinstance(message, Note):
                        self.told.note(message.sentence)
                    elif isinstance(message, Opened):
                        self._open(message, locks)
                    elif isinstance(message, Began):
                        self._begin(message)
                    else:
                        self._put(message)
            except HarnessError as error:
                return self._abandoned(Refused(str(error)))
            except RayTaskError as error:
                return self._abandoned(Refused(first_line(error.cause), f"{error}\n"))
            except RayError as error:
                raise _Lost(type(error).__name__) from error
            finally:
                ray.cancel(stream, force=True)  # of a task that has ended, nothing
        return None

    def _order(self) -> str:
        names = {*ENVIRONMENT, *(name for name in os.environ if name.startswith("HARNESS_"))}
        return Order(
            specs=tuple(plan.spec for plan in self.plans),
            command=self.command,
            folder=str(Path.cwd()),
            environment={name: os.environ[name] for name in sorted(names & os.environ.keys())},
            packages=packages(),
            identities=tuple(json.loads(canonical(identity_of(plan, None))) for plan in self.plans),
            plugins=tuple(catalogue().files.values()),
        ).model_dump_json()

    def _kept(self) -> dict[str, dict[str, Any]]:
        """What folders of these runs hold that a worker needs to go on; see :data:`harness.running.ray_worker.Kept`."""
        import ray

        kept = {}
        for plan in self.plans:
            for path in self.output.glob(f"{plan.spec.name}-????????"):
                if self.fresh and path.name not in self.forgotten:
                    continue
                done = self._settled(path)
                files = [path / x for x in FINISHED] if done else (path / UNFINISHED).glob("[!.]*")
                kept[path.name] = {str(file.relative_to(path)): ray.put(file.read_bytes()) for file in files}
        return kept

    def _settled(self, path: Path) -> bool:
        """Whether the run of a folder is complete, now that what a killed command still owed it is made."""
        from filelock import FileLock, Timeout

        folder = RunFolder(path)
        if folder.recorded:
            with contextlib.suppress(Timeout), FileLock(self.output / f".{path.name}.lock", timeout=0):
                folder.settle()
        return folder.complete

    def _open(self, message: Opened, locks: contextlib.ExitStack) -> None:
        from filelock import FileLock, Timeout

        if message.run in self.opened:
            return
        name = message.run.rpartition("-")[0]
        if not any(re.fullmatch(re.escape(plan.spec.name) + "-[0-9a-f]{8}", message.run) for plan in self.plans):
            raise HarnessError(f"node {message.node} makes {message.run}, which it was not asked for.")
        if self.folders.setdefault(name, message.run) != message.run:
            raise HarnessError(
                f"node {message.node} has another model, or another device, than the node that was lost."
            )
        path = self.output / message.run
        with writing(path):
            try:
                locks.enter_context(FileLock(self.output / f".{message.run}.lock", timeout=0))
            except Timeout:
                raise HarnessError(f"{path}: another process is making this run.") from None
        if not message.complete:
            RunFolder(path).open(self.fresh and message.run not in self.forgotten)
            self.forgotten.add(message.run)
        self.opened[message.run] = message.complete

    def _begin(self, message: Began) -> None:
        """Tell that a run has begun, the first time that it is."""
        if message.run in self.opened and message.run not in self.begun:
            plan = next(plan for plan in self.plans if message.run.rpartition("-")[0] == plan.spec.name)
            folder, reused = self.output / message.run, self.opened[message.run]
            self.begun[message.run] = self.told.begun(plan, message.run_id, folder, self.command, reused)

    def _put(self, piece: Piece) -> None:
        """Write a part of a file beside its place, and put the file there when it is whole."""
        for part in (piece.run, *piece.path.split("/")):
            path_name(part, f"a file that a node sends, {piece.path!r}")
        if piece.run not in self.opened:
            raise HarnessError(f"a node sends a file of {piece.run}, which it was not asked for.")
        path = self.output / piece.run / piece.path
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
        if piece.last and piece.path == MARK:
            RunFolder(path.parent).clear()

    def _abandoned(self, refused: Refused) -> Refused:
        for name in self.opened:
            RunFolder(self.output / name).abandon()
        return refused
