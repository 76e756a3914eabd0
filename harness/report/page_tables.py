"""Tables as a page shows them: what is the same in every row is said once, and few rows of many scores are turned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.report.formatting import cell

FEW, MANY = 8, 10
"""A table of at most ``FEW`` rows and more than ``MANY`` columns is turned: it fits a screen then."""


@dataclass(frozen=True)
class ShownTable:
    """A table that fits a page.

    Attributes:
        columns: its names in order; the first names the rows. rows: by column.
        same: what was the same in all rows and is no column any more, in words: "changed 0, CK 12 → 12"; or empty.
        numbers: columns of numbers that are written as text.
    """

    columns: list[str]
    rows: list[dict[str, Any]]
    same: str = ""
    numbers: tuple[str, ...] = ()


def fitted(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], numbers: Sequence[str] = ()) -> ShownTable:
    """The table without columns that tell no row from another, and turned where it is wide and low."""
    constant = [
        name for name in columns[1:] if len(rows) > 1 and all(row.get(name) == rows[0].get(name) for row in rows)
    ]
    told = [
        f"{name.replace('_', ' ')} {cell(rows[0][name])}" for name in constant if rows[0].get(name) not in (None, "")
    ]
    kept = [name for name in columns if name not in constant]
    if rows and len(kept) > MANY and len(rows) <= FEW and len({str(row[kept[0]]) for row in rows}) == len(rows):
        return _turned(kept, rows, ", ".join(told))
    return ShownTable(kept, [{name: row.get(name) for name in kept} for row in rows], ", ".join(told), tuple(numbers))


def _turned(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], same: str) -> ShownTable:
    corner, *scores = columns
    names = [str(row[corner]) for row in rows]
    head = f"{corner} →"
    lines = [
        {head: score.replace("_", " ")} | dict(zip(names, (row.get(score) for row in rows), strict=True))
        for score in scores
    ]
    return ShownTable([head, *names], lines, same, tuple(names))
