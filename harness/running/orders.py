"""What a worker of another process or machine does: make one group of runs in a folder of its own, and send its files
as they come.

Nothing is shared with the driver (:mod:`harness.running.driver`) but messages, so that no common file system is needed.
Finished parts are sent at once: when the worker is lost, the driver has them, and the next worker gets them.
"""

from __future__ import annotations

import contextlib
import os
import queue
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel

from harness.errors import HarnessError, PluginError
from harness.files.store import canonical, write_bytes
from harness.plugin.border import said
from harness.plugin.plugin_files import PluginFile, add
from harness.results.folder import MARK, RECORD, RunFolder
from harness.running.messages import Began, Message, Note, Opened, Piece, Refused
from harness.running.spec import RunSpec
from harness.running.telling import Telling
from harness.running.working import Steps

if TYPE_CHECKING:
    from harness.plugin.records import Outcomes, Prepared
    from harness.plugin.reporters import BegunRun
    from harness.progress import Advance
    from harness.running.plan import Plan

PIECE = 2**24
"""Bytes of a file in one message."""

AHEAD = 4
"""Messages that wait to be sent; then the work waits."""

EVERY = 2.0
"""Seconds between two messages of what is done; never does the work wait for one."""


class Order(BaseModel):
    """What a worker is asked to make, and what it must have in common with the driver.

    Attributes:
        folder: the driver's working directory, gone to where the worker has it: paths in the specs may be relative.
        environment: variables that change what is loaded.
        packages: versions, :func:`harness.results.provenance.packages`.
        identities: of each run, all but the model's.
        plugins: files that the driver was given with ``--plugin``.
        share: the parts of the prompts that are asked for (:data:`harness.running.execute.Share`); None: whole runs.
    """

    specs: tuple[RunSpec, ...]
    command: str
    folder: str
    environment: dict[str, str]
    packages: dict[str, str]
    identities: tuple[dict[str, Any], ...]
    plugins: tuple[PluginFile, ...] = ()
    share: tuple[int, int] | None = None


Send: TypeAlias = Callable[[Message], None]
Kept: TypeAlias = Mapping[str, Mapping[str, Callable[[], bytes]]]
"""Run's folder -> path in it -> reads the file: what the driver has of earlier attempts."""


def work(order: str, kept: Kept, node: str) -> Iterator[Message]:
    """What a worker calls: makes the runs of an order, and gives the messages that are to be sent to the driver.

    Args:
        order: of a :class:`harness.running.messages.Job`.
        kept: reads the files of ``Job.kept``.
        node: where the worker is, for messages.
    """
    asked = Order.model_validate_json(order)
    os.environ.update(asked.environment)  # before torch is imported
    with contextlib.suppress(OSError):
        os.chdir(asked.folder)
    messages: queue.Queue[Message | None] = queue.Queue(AHEAD)
    steps = Steps(node)
    threading.Thread(target=_make, args=(asked, kept, steps, messages.put), daemon=True).start()
    due = time.monotonic() + EVERY
    while True:
        with contextlib.suppress(queue.Empty):
            message = messages.get(timeout=max(due - time.monotonic(), 0.0))
            if message is None:
                return
            yield message
        if time.monotonic() >= due:
            if (doing := steps.now()) is not None:
                yield doing
            due = time.monotonic() + EVERY


def _make(order: Order, kept: Kept, steps: Steps, send: Callable[[Message | None], None]) -> None:
    from harness.running.execute import execute_together

    try:
        plans = _plans(order)
        with tempfile.TemporaryDirectory(prefix="harness-") as scratch:
            made = execute_together(
                plans,
                Path(scratch),
                _Notes(send, steps),
                order.command,
                folder=lambda path: SentFolder(path, kept, steps.node, send),
                share=order.share,
            )
            for run in made:
                if not run.reused:
                    last = [run.path / RECORD, run.path / MARK]  # as they were written
                    files = {path for path in run.path.rglob("*") if path.is_file()}
                    for path in (*sorted(files.difference(last)), *last):
                        send_file(run.path, path, send)
    except PluginError as error:  # a plugin's fault: the driver says so, and the other groups go on
        send(Refused(str(error), traceback.format_exc()))
    except HarnessError as error:
        send(Refused(str(error)))
    except BaseException as error:  # what ends a thread ends no program: the driver would wait for the runs
        send(Refused(said(error), traceback.format_exc()))
    finally:
        send(None)


def _plans(order: Order) -> list[Plan]:
    """The runs' plans, which must be the driver's.

    Raises:
        HarnessError: this node has other versions, plugins or data; names the first difference.
    """
    from harness.plugin.catalogue import catalogue
    from harness.results.provenance import NUMERICAL, packages
    from harness.running.execute import identity_of, plan

    installed = packages()
    for name in NUMERICAL:
        version, wanted = installed.get(name, "none"), order.packages.get(name, "none")
        if version.partition("+")[0] != wanted.partition("+")[0]:  # builds for CPU and CUDA may work together
            raise HarnessError(f"this node has {name} {version}, the driver {wanted}: install the same everywhere.")
    for file in order.plugins:
        add(file, catalogue())
    plans = [plan(spec, catalogue()) for spec in order.specs]
    for one, identity in zip(plans, order.identities, strict=True):
        for place, here, there in _differences(identity_of(one, None), identity):
            raise HarnessError(f"this node has {place} {here}, the driver {there}: install the same everywhere.")
    return plans


def _differences(here: Any, there: Any, place: str = "") -> Iterator[tuple[str, str, str]]:
    """Where two identities differ, and how."""
    if isinstance(here, dict) and isinstance(there, dict) and here.keys() == there.keys():
        for key in here:
            yield from _differences(here[key], there[key], f"{place}.{key}".lstrip("."))
    elif canonical(here) != canonical(there):
        yield place, canonical(here), canonical(there)


class SentFolder(RunFolder):
    """A run's folder that begins with what the driver has kept, and sends what is finished as soon as it is there."""

    def __init__(self, path: Path, kept: Kept, node: str, send: Send) -> None:
        super().__init__(path)
        self._send = send
        for name, read in kept.get(path.name, {}).items():
            write_bytes(path / name, read())
        send(Opened(path.name, self.complete, node))

    def settle(self) -> None:
        if not self.complete:  # of a complete run only a few files are here
            super().settle()

    def save_prepared(self, prepared: Prepared) -> None:
        super().save_prepared(prepared)
        send_file(self.path, self.path / "unfinished" / "prepared.json", self._send)

    def save_part(self, start: int, part: Outcomes) -> None:
        super().save_part(start, part)
        # The arrays last, as they were written: they mark the part as finished.
        for path in sorted((self.path / "unfinished").glob(f"part-{start:08d}.*")):
            send_file(self.path, path, self._send)


def send_file(folder: Path, path: Path, send: Send) -> None:
    """Send a file of a run's folder, piece by piece."""
    size = path.stat().st_size
    with path.open("rb") as file:
        for offset in range(0, max(size, 1), PIECE):  # an empty file is one piece, too
            data = file.read(PIECE)
            place = path.relative_to(folder).as_posix()
            send(Piece(folder.name, place, offset, data, last=offset + PIECE >= size))


class _Notes(Telling):
    """Tells nobody here, and sends what users should know; the driver tells its reporters."""

    def __init__(self, send: Send, steps: Steps) -> None:
        super().__init__()
        self._send, self._steps = send, steps

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        with self._steps.stage(title, total, self.about) as advance:
            yield advance

    def note(self, sentence: str) -> None:
        self._send(Note(sentence))

    def begun(self, plan: Plan, run_id: str, folder: Path, command: str, reused: bool) -> BegunRun:
        self._send(Began(folder.name, run_id))
        return super().begun(plan, run_id, folder, command, reused)
