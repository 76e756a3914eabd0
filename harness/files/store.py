"""Our own files: JSON in one form, written whole or not at all, read with a sentence where they are damaged."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import json
import math
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jsonlines
import numpy as np

from harness.errors import HarnessError
from harness.files import json as jsontext

_PLAIN = {str, int, bool, type(None)}


def clean(value: Any) -> Any:
    """Plain JSON values: numpy scalars and arrays become numbers and lists, NaN and infinity become null."""
    if type(value) in _PLAIN:  # as most values are; the other questions take longer
        return value
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def canonical(value: Any) -> str:
    """JSON in one fixed form, for hashing."""
    return json.dumps(clean(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what an operating system refuses into a sentence.

    Raises:
        HarnessError: no permission, no space, a file where a folder should be ...; names the path and the reason.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        hint = " Free some space or choose another folder with --output_path." if error.errno == errno.ENOSPC else ""
        if error.errno in (errno.EEXIST, errno.ENOTDIR):  # words that do not say what is the matter
            files = [place for place in (path, *path.parents) if place.is_file()]
            why = f"{files[0]} is a file, not a folder" if files else why
        raise HarnessError(f"cannot write {path}: {why}.{hint}") from error


def check_writable(folder: Path) -> None:
    """Make a folder, if need be, and make sure that files can be written there, before any work is done.

    Raises:
        HarnessError: they cannot; names the folder and the reason.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: a reader sees the old file or the whole new one, also after a power cut.

    Its permissions are what the user's umask leaves, as of any new file.
    """
    write_pieces(path, (data,))


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file as :func:`write_bytes` does, from pieces that are made one after another."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # as TEMPORARY says
        file = temporary.open("xb")
        try:
            with file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def json_bytes(value: Any, indent: int | None = 2) -> bytes:
    """JSON, indented for people; NaN is written as null."""
    return (json.dumps(clean(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Write JSON, atomically; NaN is written as null. Without ``indent``, for programs, it takes far less time."""
    write_bytes(path, json_bytes(value, indent))


def jsonl_bytes(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """One JSON object a line; NaN is written as null."""
    text = io.StringIO()
    jsonlines.Writer(text, dumps=partial(json.dumps, ensure_ascii=False, allow_nan=False)).write_all(map(clean, rows))
    return text.getvalue().encode()


ROWS_AT_ONCE = 256
"""Rows that are text at once when many are written."""


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically, some rows at a time."""
    rest = iter(rows)
    some = iter(lambda: list(itertools.islice(rest, ROWS_AT_ONCE)), [])
    write_pieces(path, map(jsonl_bytes, some))


def read_bytes(path: Path) -> bytes:
    """Read a file of ours.

    Raises:
        HarnessError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}).") from error


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises:
        HarnessError: it is missing, or was damaged.
    """
    return jsontext.parse(read_text(path), str(path))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines of ours.

    Raises:
        HarnessError: it is missing, or was damaged.
    """
    rows = []
    for number, row in jsontext.parse_lines(read_text(path), str(path)):
        if not isinstance(row, dict):
            raise HarnessError(f"{path}, line {number}: expected an object, got {row!r:.60}.")
        rows.append(row)
    return rows


def read_text(path: Path) -> str:
    """Read a text file of ours.

    Raises:
        HarnessError: it cannot be read, or is not UTF-8.
    """
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise HarnessError(f"{path}: it is not UTF-8 text; the file is damaged.") from error
