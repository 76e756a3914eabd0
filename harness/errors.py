"""Errors that are meant for the person at the keyboard."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal


class HarnessError(Exception):
    """A mistake that the user can mend: one clear sentence, shown without a traceback, exit code 2.

    The message names the field or the file, what was expected, and the nearest valid name where there is one.
    """

    kind: ClassVar[str] = "mistake"
    """What it is, for programs (``--json``)."""


class PluginError(HarnessError):
    """A component did not keep to the contract, or raised something: names it, its distribution and the call."""

    kind = "plugin"


class SystemRefused(HarnessError):
    """The operating system, the memory, or the encoding of what was read refused: says which, and of what."""

    kind = "system"


class RunsNotMade(HarnessError):
    """Some of several runs were refused, or failed; the others were made. ``runs``: by name, why."""

    kind = "runs"

    def __init__(self, message: str, runs: Mapping[str, HarnessError]) -> None:
        super().__init__(message)
        self.runs = runs


class HarnessWarning(UserWarning):
    """Something that the user should know about but that does not stop the run."""


def not_there(path: Path, wanted: Literal["file", "folder"] = "file") -> str:
    """What is the matter where a file, or a folder, is expected and none is found: the end of a sentence."""
    if path.is_dir():
        return "this is a folder, not a file"
    return "this is a file, not a folder" if path.exists() and wanted == "folder" else f"there is no such {wanted}"


def suggest(name: str, choices: Iterable[str], cutoff: float = 0.6) -> str:
    """``' Did you mean "entropy"?'`` for the nearest of ``choices``, or ``''`` when nothing is near."""
    lowered = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=cutoff)
    return f' Did you mean "{lowered[near[0]]}"?' if near else ""


@contextlib.contextmanager
def mendable() -> Iterator[None]:
    """Turn what a person can mend into a sentence.

    Raises:
        HarnessError: instead of what the operating system, the memory, or the nesting or encoding of a file refuses.
    """
    try:
        yield
    except (OSError, EOFError, MemoryError, RecursionError, UnicodeError) as error:
        raise SystemRefused(_sentence(error)) from error


def _sentence(error: BaseException) -> str:
    """One sentence about an error that is not the program's."""
    match error:
        case BrokenPipeError():
            return "a connection to another process was closed before the work was done."
        case OSError():
            why = error.strerror or str(error) or type(error).__name__
            return (
                f"{_cut(os.fsdecode(error.filename))}: {why}." if isinstance(error.filename, str | bytes) else f"{why}."
            )
        case EOFError():
            return "something waited for input, and there is none."
        case MemoryError():
            return "there is not enough memory; take a smaller --batch_size, --limit or --controls, or a smaller file."
        case RecursionError():
            return "what was read is nested too deeply."
        case UnicodeEncodeError():
            return f"{_cut(ascii(error.object))} cannot be written as {error.encoding}."
        case UnicodeDecodeError():
            return f"what was read is not {error.encoding} text."
    return f"{type(error).__name__}: {error}."


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."
