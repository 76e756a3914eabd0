"""What the terminal shows of a record or of the leaderboard, without spaces at the ends of lines."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from harness.files.terminal import Terminal
from harness.report import console as reports
from harness.report import leaderboard as boards
from harness.results.record import RunRecord


def _text(terminal: Terminal) -> str:
    return "".join(line.rstrip() + "\n" for line in terminal.file.getvalue().splitlines())  # type: ignore[attr-defined]


def printed(record: dict[str, Any], width: int, **options: Any) -> str:
    """The report of a run."""
    terminal = Terminal(file=io.StringIO(), width=width, **options)
    reports.show(terminal, RunRecord.read(record, "record.json"), Path("reports/example"))
    return _text(terminal)


def board(found: Any, width: int, columns: list[str] | None = None) -> str:
    """The leaderboard's answer to a query."""
    terminal = Terminal(file=io.StringIO(), width=width)
    boards.show(terminal, found, columns)
    return _text(terminal)
