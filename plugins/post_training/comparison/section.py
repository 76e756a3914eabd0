"""One section of a comparison of two models: what was found, in numbers, words, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.files.store import clean
from harness.plugin import Figure, Frame
from harness.running.record import figure_of, frame_of

from .record import SectionRecord


@dataclass(frozen=True)
class Section:
    """What one question about two models gave.

    Attributes:
        name: its key in the record.
        title: its heading.
        sentences: the verdict, in words.
        numbers: everything that is measured; JSON values or arrays.
        frames, figures: tables, and figures with their data.
    """

    name: str
    title: str
    sentences: tuple[str, ...]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    frames: tuple[Frame, ...] = ()
    figures: tuple[Figure, ...] = ()

    def recorded(self) -> SectionRecord:
        """As the record keeps it."""
        return SectionRecord(
            name=self.name,
            title=self.title,
            sentences=list(self.sentences),
            **clean(self.numbers),
            frames=[frame_of(frame) for frame in self.frames],
            figures=[figure_of(figure) for figure in self.figures],
        )


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows with the same keys as the columns of a table; None, in a column of numbers, is written as nothing."""
    return {key: [np.nan if row[key] is None else row[key] for row in rows] for key in (rows[0] if rows else ())}
