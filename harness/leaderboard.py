"""The leaderboard: one self-contained JSON row a run and measure, appended under a lock and flushed to the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.results import clean, writing


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> int:
    """Add the rows that are not there yet (by ``row_id``); returns how many were added.

    A line that a killed process left unfinished is cut off first. Several processes may append at once.

    Raises:
        HarnessError: the file cannot be written, or holds a line that is no JSON object.
    """
    from filelock import FileLock

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            whole = _cut_torn_line(path)
            present = {row["row_id"] for row in _parse(path, whole)}
            new = [row for row in rows if row["row_id"] not in present]
            text = "".join(json.dumps(clean(row), ensure_ascii=False, allow_nan=False) + "\n" for row in new)
            with path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
    return len(new)


def read(path: Path) -> list[dict[str, Any]]:
    """All rows, oldest first; a last line that is still being written is left out.

    Raises:
        HarnessError: the file is missing, or a line is no JSON object; names the line.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}); run something first.") from error
    return _parse(path, text[: text.rfind(b"\n") + 1])


def _cut_torn_line(path: Path) -> bytes:
    """Remove an unfinished last line; returns the whole lines."""
    if not path.exists():
        return b""
    with path.open("r+b") as file:
        text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            file.truncate(len(whole))
    return whole


def _parse(path: Path, text: bytes) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
            row["row_id"]
        except (ValueError, TypeError, KeyError) as error:
            raise HarnessError(f"{path}, line {number}: this is not a leaderboard row.") from error
        rows.append(row)
    return rows
