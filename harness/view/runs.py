"""The runs of a folder: which are finished, and the rows of their primary measures, or of all, read lazily and kept
while files stay.

A run's numbers come from ``leaderboard.jsonl``, which is read on from where the last reading ended: it only grows. Runs
that it does not know (copied here, or their rows were lost) are read from their own ``result.json``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.files.store import digest
from harness.results import leaderboard
from harness.results.folder import MARK, RECORD, UNFINISHED, read_provenance, read_record
from harness.results.leaderboard_query import SETTING

Row = Mapping[str, Any]
Stamp = tuple[int, int]

LEADERBOARD = "leaderboard.jsonl"

KEPT = (
    *SETTING,
    *("schema_version", "run_id", "run", "time_utc", "n_prompts", "exploratory", "neurons", "wall_seconds"),
    *("title", "unit", "primary", "baseline", "value", "ci_low", "ci_high", "p_two_sided", "p_adjusted", "verdict"),
    *("control_mean", "control_q05", "control_q95"),
)
"""Columns of the leaderboard that are held."""

_PASSED = b'"primary": false'
"""In a line of ours that is about no primary measure, and in no text of a line: a quotation mark there is escaped. Of
30,000 rows, 100 MB, a fifth is left to parse."""


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        runs: the newest rows, one a measure that is held, of each finished run, by the name of its folder; one row of
            any measure where none is primary.
        unfinished: folders of runs that are under way, or were interrupted.
        notes: what could not be read, in sentences.
        version: the same while nothing has changed.
    """

    runs: Mapping[str, list[Row]] = field(default_factory=dict)
    unfinished: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    version: str = ""


class Runs:
    """The runs of a folder, as they are at any time; several threads may ask.

    Args:
        every: hold the rows of all measures; otherwise of the primary ones.
    """

    def __init__(self, folder: Path, every: bool = False) -> None:
        self.folder, self.every = folder, every
        self._board = _Board(folder / LEADERBOARD, every)
        self._own: dict[str, tuple[Stamp, list[Row] | str]] = {}
        self._found = Found()
        self._lock = threading.Lock()

    def now(self) -> Found:
        """The runs that are there now.

        A folder that is a link is none of them, nor is one without the mark of a finished run.

        Raises:
            HarnessError: the folder is not there, or cannot be read.
        """
        with self._lock:
            finished, unfinished = self._scan()
            try:
                note = ""
                self._board.read_on()
            except HarnessError as error:
                note = f"{error} Runs are read one by one instead."
            version = digest([sorted(finished.items()), self._board.end, note])[:16]
            if version != self._found.version:
                self._found = self._read(finished, note, version)
            if self._found.unfinished != unfinished:
                self._found = Found(self._found.runs, unfinished, self._found.notes, version)
            return self._found

    def _scan(self) -> tuple[dict[str, Stamp], tuple[str, ...]]:
        """Folders of finished runs, each with the stamp of its record; and those of unfinished ones."""
        finished, unfinished = {}, []
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
                        continue
                    stamp = _stamp(Path(entry.path, RECORD))
                    if stamp is not None and Path(entry.path, MARK).is_file():
                        finished[entry.name] = stamp
                    elif Path(entry.path, UNFINISHED).is_dir():
                        unfinished.append(entry.name)
        except OSError as error:
            raise HarnessError(f"{self.folder}: this folder cannot be read ({error.strerror}).") from error
        return finished, tuple(sorted(unfinished))

    def _read(self, finished: Mapping[str, Stamp], note: str, version: str) -> Found:
        runs: dict[str, list[Row]] = {}
        notes = [note] if note else []
        for name in sorted(finished):
            rows: list[Row] | str = [] if note else self._board.rows_of(name)
            rows = rows or self._of_record(name, finished[name])
            if isinstance(rows, str):
                notes.append(rows)
            elif rows:
                runs[name] = rows
        return Found(runs, (), tuple(notes), version)

    def _of_record(self, name: str, stamp: Stamp) -> list[Row] | str:
        """The rows of a run's own record, or a sentence that says why there are none."""
        known = self._own.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        found: list[Row] | str
        try:
            path = self.folder / name
            record, about = read_record(path), read_provenance(path)
            rows = [_kept(row) for row in leaderboard.rows_of(record, about)]
            found = [row for row in rows if self.every or row["primary"]] or rows[:1]
            if not found:
                found = f"{path}: this run has no measure."
        except HarnessError as error:
            found = f"Passed over: {error}"
        self._own[name] = (stamp, found)
        return found


class _Board:
    """``leaderboard.jsonl``: the newest row of each run and measure, of primary ones or of ``every`` one. ``end``:
    bytes that were read."""

    def __init__(self, path: Path, every: bool) -> None:
        self.path, self.every = path, every
        self.end = 0
        self._rows: dict[str, dict[tuple[Any, Any], Row]] = {}

    def read_on(self) -> None:
        """Read the rows that were added since; all of them where the file is another one, or shorter.

        Raises:
            HarnessError: the file cannot be read, or a line of it is no row.
        """
        stamp = _stamp(self.path)
        if stamp is None or stamp[1] < self.end:
            self.end, self._rows = 0, {}
        if stamp is None or stamp[1] == self.end:
            return
        try:
            with self.path.open("rb") as file:
                file.seek(self.end)
                text = file.read()
        except OSError as error:
            raise HarnessError(f"{self.path}: cannot be read ({error.strerror}).") from error
        whole = text[: text.rfind(b"\n") + 1]
        lines = [line for line in whole.splitlines() if self.every or _PASSED not in line]
        try:
            rows = leaderboard.parse(self.path, b"\n".join(lines))
        except HarnessError:
            leaderboard.read(self.path)  # names the line as it is counted in the file
            raise
        for row in rows:
            folder = f"{row.get('run')}-{str(row.get('run_id'))[:8]}"
            self._rows.setdefault(folder, {})[row.get("metric"), row.get("measure")] = _kept(row)
        self.end += len(whole)

    def rows_of(self, folder: str) -> list[Row]:
        return list(self._rows.get(folder, {}).values())


def _kept(row: Row) -> Row:
    return {column: row.get(column) for column in KEPT}


def _stamp(path: Path) -> Stamp | None:
    """When a file was changed [ns], and its bytes; None where there is none, or a link."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size) if path.is_file() and not path.is_symlink() else None
