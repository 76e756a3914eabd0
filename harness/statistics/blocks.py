"""Numbers of every condition and prompt, a few conditions at a time: nobody holds all of them.

What a run holds while it computes statistics does not grow with its prompts: outcomes are on the disk
(:mod:`harness.results.arrays`), measures are made of some conditions, summed, and made of the next.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import HarnessError
from harness.files.store import writing

MEMORY = "HARNESS_MEMORY"
"""Names the environment variable that says how many MiB statistics may hold."""

DEFAULT_MIB = 256

CELL = 64
"""Bytes that one number of one condition and prompt takes at most, with all that is made of it on the way to a sum."""


SMALL = 64
"""An array that takes less than this part of the budget is made once and kept: making it again costs more."""


def budget() -> int:
    """Bytes that statistics may hold at once, beside what grows with prompts or conditions alone.

    Raises:
        HarnessError: the environment variable is no whole number above 0.
    """
    text = os.environ.get(MEMORY, str(DEFAULT_MIB))
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise HarnessError(f"{MEMORY}: expected a number of MiB such as {DEFAULT_MIB}, got {text!r:.60}.")
    return int(text) * 2**20


def blocks(n_conditions: int, per_condition: int) -> Iterator[slice]:
    """Stretches of conditions whose numbers, so many of each, take a quarter of the budget together; two at least.

    Two, because numpy adds up a single row in another order than one among others, where rows lie side by side.
    """
    step = max(2, budget() // 4 // (CELL * max(per_condition, 1)))
    starts = list(range(0, n_conditions, step))
    if len(starts) > 1 and n_conditions - starts[-1] == 1:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], n_conditions], strict=True):
        yield slice(start, stop)


class Each:
    """An array [n_conditions, n_prompts, ...] whose rows are made when they are asked for.

    Args:
        n_conditions: how many rows there are.
        make: the rows of some conditions that follow one another [len, n_prompts, ...], which depend on no others.
    """

    def __init__(self, n_conditions: int, make: Callable[[slice], np.ndarray]) -> None:
        self._n, self._make = n_conditions, make

    @cached_property
    def _first(self) -> np.ndarray:
        """The first row [1, n_prompts, ...]."""
        return np.asarray(self._make(slice(0, 1)))

    @cached_property
    def _whole(self) -> np.ndarray | None:
        """All of it, where that is little."""
        size = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        return np.asarray(self._make(slice(0, self._n))) if size <= budget() // SMALL else None

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._n, *self._first.shape[1:])

    @property
    def ndim(self) -> int:
        return self._first.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._first.dtype

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, rows: int | slice | Sequence[int]) -> np.ndarray:
        """One row [n_prompts, ...], or some [len, n_prompts, ...]."""
        if self._whole is not None:
            return np.asarray(self._whole[rows])
        if isinstance(rows, int | np.integer):
            return np.asarray(self[int(rows) : int(rows) + 1][0])
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self._n)
            if step == 1:
                return np.asarray(self._make(slice(start, max(start, stop))))
            rows = range(start, stop, step)
        return np.concatenate([self[int(row) : int(row) + 1] for row in rows])

    def kept(self) -> np.ndarray:
        """All of it, made once, where that takes long: in memory within a quarter of the budget, else on the disk."""
        size = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        made = (self[rows] for rows in blocks(self._n, int(np.prod(self.shape[1:]))))
        found = np.concatenate(list(made)) if size <= budget() // 4 else on_disk(made)
        return found.reshape(self.shape)

    def at(self, prompts: Sequence[int] | np.ndarray) -> Each:
        """The same of some of the prompts, by place."""
        return Each(self._n, lambda rows: self[rows][:, prompts])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def on_disk(pieces: Iterable[np.ndarray]) -> np.ndarray:
    """Pieces of one array, put together in a temporary file: the array, flat, which is read from there.

    Raises:
        HarnessError: there is no room for it in the folder for temporary files (``TMPDIR``).
    """
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    with writing(Path(tempfile.gettempdir())), tempfile.TemporaryFile(prefix="harness-") as file:
        for piece in pieces:
            dtype = piece.dtype
            file.write(np.ascontiguousarray(piece).tobytes())
        file.flush()
        if not file.tell():
            return np.empty(0, dtype)
        return np.frombuffer(mmap.mmap(file.fileno(), file.tell(), access=mmap.ACCESS_READ), dtype)


def at(array: np.ndarray | Each, prompts: Sequence[int] | np.ndarray) -> np.ndarray | Each:
    """Numbers of some of the prompts, by place."""
    return array.at(prompts) if isinstance(array, Each) else array[:, prompts]
