"""Errors that are meant for the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal


class HarnessError(Exception):
    """A mistake that the user can mend: one clear sentence, shown without a traceback, exit code 2.

    The message names the field or the file, what was expected, and the nearest valid name where there is one.
    """


class PluginError(HarnessError):
    """A component did not keep to the contract, or raised something: names it, its distribution and the call."""


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
