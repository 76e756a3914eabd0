"""A folder of a file system that a command and its job share: the order lies there, and messages come back as files.

Messages are JSON and bytes (:func:`harness.running.to_bytes`): nothing that is read back can run. Each side shows the
other that it is there by touching a file, and none compares its clock with another machine's.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from harness.files.store import read_json, write_bytes, write_json
from harness.plugin import HarnessError
from harness.running import Job, Message, Working, from_bytes, to_bytes, work

ORDER, KEPT, STARTED, ALIVE, BEAT, END = "order.json", "kept.json", "started.json", "alive", "beat", "end"

NOW = "now"
"""What the job does: the newest message of it, which takes the place of one that was not read."""

AHEAD = 4
"""Messages that wait to be read; then the job waits."""

PATIENCE = 900.0
"""Seconds after which a job ends whose command has not looked at its messages."""

BEATING = 30.0
"""Seconds between two signs of life of a job, whatever it computes."""


class Spool:
    """The command's side of a job's folder, which is new."""

    def __init__(self, path: Path, job: Job) -> None:
        self.path = path
        path.mkdir(mode=0o700)
        write_bytes(path / ORDER, job.order.encode())
        kept = {run: {name: str(file.absolute()) for name, file in files.items()} for run, files in job.kept.items()}
        write_json(path / KEPT, kept)
        self.look()

    def look(self) -> tuple[list[Path], bool]:
        """The messages that have come, in order, and whether these are the last. The job sees that it is heard."""
        (self.path / ALIVE).touch()
        last = (self.path / END).exists()
        now = self.path / NOW
        return [*sorted(self.path.glob("*.message")), *([now] if now.exists() else [])], last

    def take(self, path: Path) -> Message:
        """A message, which is removed."""
        message = from_bytes(path.read_bytes())
        path.unlink()
        return message

    def sign(self) -> int | None:
        """Changes as long as the job is there; None before it has begun. It is no time of this machine's clock."""
        try:
            with (self.path / BEAT).open("rb") as file:  # opened: a network file system then asks how the file is now
                return os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return None

    def give_up(self) -> None:
        """Let a job that is still there end when it has something to say."""
        (self.path / ALIVE).unlink(missing_ok=True)

    def process(self) -> tuple[str, int] | None:
        """Host and process id of the job, once it has begun."""
        path = self.path / STARTED
        found = read_json(path) if path.exists() else None
        return None if found is None else (str(found["host"]), int(found["pid"]))


def serve(folder: str) -> None:
    """The job's side: do what is ordered, and leave the messages."""
    place, host, began = Path(folder), socket.gethostname(), time.time_ns()
    write_json(place / STARTED, {"host": host, "pid": os.getpid()})
    with beating(place):
        kept = {run: {name: Path(path).read_bytes for name, path in files.items()} for run, files in _kept(place)}
        for n, message in enumerate(work((place / ORDER).read_text(encoding="utf-8"), kept, host)):
            if isinstance(message, Working):
                write_bytes(place / NOW, to_bytes(message))
                continue
            _wait_for_room(place)
            write_bytes(place / f"{began:020d}-{n:08d}.message", to_bytes(message))  # a job begun again: behind
    write_bytes(place / END, b"")


@contextlib.contextmanager
def beating(place: Path) -> Iterator[None]:
    """Within the block the job shows that it is there, though it may compute for hours between two messages."""
    (place / BEAT).touch()
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEATING):
            with contextlib.suppress(OSError):  # a file system that is away for a while; or a command that is
                os.utime(place / BEAT)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _kept(place: Path) -> Iterator[tuple[str, dict[str, str]]]:
    yield from json.loads((place / KEPT).read_text(encoding="utf-8")).items()


def _wait_for_room(place: Path, pause: float = 0.02) -> None:
    """Wait until the command has read what is there.

    Raises:
        HarnessError: there is no such command any more.
    """
    while True:
        try:
            (place / BEAT).touch()  # both times are the file system's
            silent = (place / BEAT).stat().st_mtime - (place / ALIVE).stat().st_mtime
        except FileNotFoundError:
            silent = PATIENCE
        if silent >= PATIENCE:
            raise HarnessError("the command that gave this job is gone.")
        if len(list(place.glob("*.message"))) < AHEAD:
            return
        time.sleep(pause)
        pause = min(pause * 2, 1.0)
