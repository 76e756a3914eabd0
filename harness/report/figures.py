"""Figures and tables of a run as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harness.outcomes import Figure, Frame


def write_shown(folder: Path, shown: Sequence[Frame | Figure], progress: Callable[[int], None] | None = None) -> None:
    """Write ``tables/NAME.csv`` for every table, and ``figures/NAME.{png,svg,csv}`` for every figure.

    Raises:
        HarnessError: the files cannot be written.
    """
    assert not shown  # filled in by the next commit
