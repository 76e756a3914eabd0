"""What a driver gives workers of other processes or machines, and what they send: jobs there, messages back."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias

from pydantic import TypeAdapter

from harness.errors import HarnessError
from harness.plugin.border import said


@dataclass(frozen=True)
class Opened:
    """The next run of the group has this folder; ``complete`` where the driver has it finished already."""

    run: str
    complete: bool
    node: str


@dataclass(frozen=True)
class Began:
    """The run of this folder has begun; ``run_id`` is the whole digest of its identity."""

    run: str
    run_id: str


@dataclass(frozen=True)
class Piece:
    """A part of the file ``path`` of the folder ``run``, from byte ``offset`` on; ``last`` ends the file."""

    run: str
    path: str
    offset: int
    data: bytes
    last: bool


@dataclass(frozen=True)
class Refused:
    """The group came to an end with an error; ``detail`` is the traceback of one that is not the user's."""

    sentence: str
    detail: str = ""


@dataclass(frozen=True)
class Note:
    """What the user should know before the work is done."""

    sentence: str


@dataclass(frozen=True)
class Doing:
    """Something that takes a while: its number on the worker, how much is done, and for how many seconds it goes on."""

    number: int
    title: str
    total: int | None
    done: int
    seconds: float


@dataclass(frozen=True)
class Working:
    """What a worker does for the runs of these folders, each within the one before. The newest is what counts: whoever
    brings messages need not keep the others, and no work waits for them to be read."""

    runs: tuple[str, ...]
    node: str
    steps: tuple[Doing, ...]


Message: TypeAlias = Opened | Began | Piece | Refused | Note | Working

MESSAGES: Mapping[str, type[Message]] = {cls.__name__: cls for cls in (Opened, Began, Piece, Refused, Note, Working)}


def to_bytes(message: Message) -> bytes:
    """A message for files and pipes: a line of JSON, and the data after it. Nothing that is read back can run."""
    data = message.data if isinstance(message, Piece) else b""
    words = asdict(replace(message, data=b"") if isinstance(message, Piece) else message)
    words.pop("data", None)
    return json.dumps({"message": type(message).__name__, **words}).encode() + b"\n" + data


def from_bytes(found: bytes) -> Message:
    """The message of :func:`to_bytes`.

    Raises:
        HarnessError: it is none.
    """
    line, _, data = found.partition(b"\n")
    try:
        words = json.loads(line)
        cls = MESSAGES[words.pop("message")]
        given = words | ({"data": data} if cls is Piece else {})
        return TypeAdapter(cls).validate_python(given)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HarnessError(f"a worker sent what is no message: {said(error)}.") from error


class Lost(Exception):
    """A worker is gone, not by its own fault: its job is given to another one. Says how it ended."""


@dataclass(frozen=True)
class Job:
    """What a worker is to do, for whoever brings it there.

    Attributes:
        order: for :func:`work`.
        kept: run's folder -> path in it -> the file here: what the driver has of earlier attempts.
        name: of the runs, for messages.
    """

    order: str
    kept: Mapping[str, Mapping[str, Path]]
    cpus: float
    gpus: float
    name: str


class Workers(Protocol):
    """Brings jobs to workers, and their messages back."""

    def run(self, job: Job) -> AsyncGenerator[Message, None]:
        """Give a job to a worker that has the CPUs and GPUs, when there is one; gives its messages as they come, until
        it is done. When it is closed before, the worker is stopped.

        Raises:
            Lost: the worker is gone.
        """
        ...
