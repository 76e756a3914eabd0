"""Consecutive parts of one run as one: their arrays are put together a few conditions at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from harness.plugin.records import Outcomes, Series


@dataclass(frozen=True)
class Joined:
    """One array of consecutive parts, side by side: the rows that are asked for are read from the parts then.

    Attributes:
        parts: the values of each, by name. sizes: how many prompts each has.
        codes: for each part, the common code of each of its categories, the last of them -1; None: codes are common.
        rows: which rows of the parts are this array's.
        shape: [len(rows), n_prompts], or [len(rows), n_prompts, k].
    """

    name: str
    parts: tuple[Mapping[str, np.ndarray], ...]
    sizes: tuple[int, ...]
    codes: tuple[np.ndarray | None, ...]
    rows: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def only(self, rows: Sequence[int]) -> Joined:
        """Some of its rows, still unread."""
        return replace(self, rows=tuple(self.rows[row] for row in rows), shape=(len(rows), *self.shape[1:]))

    def __getitem__(self, some: slice) -> np.ndarray:
        """Some rows, read."""
        rows = as_slice(self.rows[some])
        n, missing = len(self.rows[some]), -1 if self.dtype.kind in "iu" else np.nan
        pieces = []
        for part, size, codes in zip(self.parts, self.sizes, self.codes, strict=True):
            if self.name not in part:
                pieces.append(np.full((n, size, *self.shape[2:]), missing))
            else:
                piece = part[self.name][rows]
                pieces.append(piece if codes is None else codes[piece])
        return np.concatenate(pieces, axis=1, dtype=self.dtype, casting="unsafe")


def as_slice(rows: tuple[int, ...]) -> slice | list[int]:
    """Rows that follow one another as a slice, which copies nothing."""
    if rows and rows == tuple(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return list(rows)


def joined_values(parts: Sequence[Outcomes]) -> tuple[dict[str, Joined], dict[str, tuple[str, ...]]]:
    """The values of consecutive parts, unread, and their categories, under common codes."""
    values: dict[str, Joined] = {}
    categories = dict(parts[0].categories)
    sizes = tuple(len(part.prompts) for part in parts)
    for name in dict.fromkeys(name for part in parts for name in part.values):
        like = next(part.values[name] for part in parts if name in part.values)
        codes: tuple[np.ndarray | None, ...] = (None,) * len(parts)
        if any(name in part.found for part in parts):
            categories[name], codes = _common_codes(name, parts)
        values[name] = Joined(
            name,
            tuple(part.values for part in parts),
            sizes,
            codes,
            tuple(range(len(parts[0].conditions))),
            (len(parts[0].conditions), sum(sizes), *like.shape[2:]),
            like.dtype,
        )
    return values, categories


def _common_codes(name: str, parts: Sequence[Outcomes]) -> tuple[tuple[str, ...], tuple[np.ndarray | None, ...]]:
    """The categories that turned up, in order, and for each part what its codes become."""
    words = [np.array(part.categories.get(name, ()), object) for part in parts]
    used: set[str] = set()
    for part, own in zip(parts, words, strict=True):
        if name in part.values:
            array = part.values[name]
            used |= set(own[np.unique(array[array >= 0])])
    names = tuple(sorted(used))
    code = {word: i for i, word in enumerate(names)}
    # -1 stays: it is the last
    return names, tuple(np.array([*(code.get(word, -1) for word in own), -1]) for own in words)


def joined_series(parts: Sequence[Series]) -> np.ndarray:
    """The values of parts of one series, padded with NaN to the longest prompt: [rows, n_prompts, longest]."""
    longest = max(part.values.shape[2] for part in parts)
    padded = [
        np.pad(part.values, ((0, 0), (0, 0), (0, longest - part.values.shape[2])), constant_values=np.nan)
        for part in parts
    ]
    return np.concatenate(padded, axis=1)
