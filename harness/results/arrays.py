"""Arrays on the disk: files in the safetensors format, written some rows at a time and read where they lie."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from harness.errors import HarnessError
from harness.files.store import write_pieces

WRITTEN_AT_ONCE = 8 * 2**20
"""Bytes of an array that are in memory while it is written."""


class ByRows(Protocol):
    """An array, or something that gives its rows when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


def write_arrays(path: Path, arrays: Mapping[str, ByRows], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays atomically: byte for byte what ``safetensors.numpy.save`` gives, without holding it.

    Args:
        metadata: of one entry at most: the library writes several in any order, and the same run would have other
            bytes.
    """
    head, order = _header(arrays, metadata)
    write_pieces(path, _pieces(head, [arrays[name] for name in order]))


def _pieces(head: bytes, arrays: Sequence[ByRows]) -> Iterator[bytes]:
    yield head
    for array in arrays:
        width = int(np.prod(array.shape[1:], dtype=np.int64)) * array.dtype.itemsize
        step = max(1, WRITTEN_AT_ONCE // max(width, 1))
        for start in range(0, array.shape[0], step):
            yield np.ascontiguousarray(array[start : start + step]).tobytes()


def _header(arrays: Mapping[str, ByRows], metadata: Mapping[str, str] | None) -> tuple[bytes, list[str]]:
    """The beginning of a file, and the names of its arrays in their order, which the library chooses."""
    from safetensors.numpy import save

    empty = {name: np.empty(0, array.dtype) for name, array in sorted(arrays.items())}
    found = _parsed(save(empty, None if metadata is None else dict(metadata)))
    order, offset = [name for name in found if name != "__metadata__"], 0
    for name in order:
        array = arrays[name]
        size = int(np.prod(array.shape, dtype=np.int64)) * array.dtype.itemsize
        found[name] |= {"shape": list(array.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def _parsed(data: bytes) -> dict[str, Any]:
    """The header of a file that begins with ``data``."""
    found: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return found


class Mapped(Mapping[str, np.ndarray]):
    """The arrays of a file, each mapped from the disk when it is asked for; they cannot be written to.

    Raises:
        HarnessError: the file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        try:
            with safe_open(path, "numpy"):  # looks whether all of it is there
                pass
            with path.open("rb") as file:
                size = file.read(8)
                head = size + file.read(int.from_bytes(size, "little"))
        except (SafetensorError, OSError) as error:
            raise HarnessError(f"{path}: cannot be read ({error}); delete it or use --fresh.") from error
        self._start = len(head)
        self._about = {name: about for name, about in _parsed(head).items() if name != "__metadata__"}

    def without(self, beginning: str) -> Mapped:
        """The same without the arrays whose names begin so."""
        found = copy(self)
        found._about = {name: about for name, about in self._about.items() if not name.startswith(beginning)}
        return found

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._about:
            raise KeyError(name)
        return self._from(self._bytes(), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._about)

    def __len__(self) -> int:
        return len(self._about)

    def whole(self) -> dict[str, np.ndarray]:
        """All of the arrays, on one map of the file that stays as long as they do."""
        data = self._bytes()
        return {name: self._from(data, name) for name in self}

    def _bytes(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _from(self, data: mmap.mmap, name: str) -> np.ndarray:
        about = self._about[name]
        count = int(np.prod(about["shape"], dtype=np.int64))
        if count == 0:
            return np.empty(about["shape"], DTYPES[about["dtype"]])
        start = self._start + int(about["data_offsets"][0])
        return np.frombuffer(data, DTYPES[about["dtype"]], count, start).reshape(about["shape"])


DTYPES = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "F16": np.float16,
    "U32": np.uint32, "I32": np.int32, "F32": np.float32, "U64": np.uint64, "I64": np.int64, "F64": np.float64,
}  # fmt: skip
"""The format's names of types."""
