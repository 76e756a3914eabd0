"""Rows of outside tables: JSONL, JSON, CSV, TSV or a dataset of the hub.

Files are read as the modules ``csv`` and ``json`` do. A line ends where these say: a cell may hold a line break, and a
text one of the characters that only Python's ``str.splitlines`` takes for one (U+2028, U+0085, form feed ...).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.files.json import parse, parse_lines
from harness.files.paths import expand

Row = tuple[int, dict[str, Any]]
"""Where a row begins (line, or number in a list, from 1), and its columns."""

TABLES = {".csv": ",", ".tsv": "\t"}
"""Endings of tables, and what stands between their cells."""


def is_file(data: str) -> bool:
    """Whether ``data`` means a file rather than the id of a dataset on the hub."""
    return Path(data).suffix.lower() in {".jsonl", ".json", *TABLES} or expand(data).exists()


def read_rows(data: str, subset: str | None, split: str, revision: str | None) -> Iterator[Row]:
    """Every row of a JSONL, JSON (a list), CSV or TSV file, or of a hub dataset.

    Raises:
        HarnessError: the file is missing or a row cannot be read; names file and line.
    """
    if not is_file(data):
        yield from hub_rows(data, subset, split, revision)
        return
    path = expand(data)
    text, suffix = _text(path), path.suffix.lower()
    if suffix in TABLES:
        yield from _table(text, path, TABLES[suffix])
    elif suffix == ".json":
        rows = parse(text, f"{path}")
        if not isinstance(rows, list):
            raise HarnessError(f"{path}: expected a list of objects.")
        yield from ((i, _object(row, f"{path}, item {i}")) for i, row in enumerate(rows, 1))
    else:
        yield from ((i, _object(row, f"{path}, line {i}")) for i, row in parse_lines(text, f"{path}"))


def _text(path: Path) -> str:
    """A file's text with its line breaks as they are, without a byte order mark."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise HarnessError(f"{path}: it is not UTF-8 text.") from error


def _table(text: str, path: Path, delimiter: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = list(reader.fieldnames or ())
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise HarnessError(f'{path}: there are two columns "{twice}"; expected each name once.')
        for row in reader:
            if None in row or None in row.values():
                raise HarnessError(f"{path}, line {_first_line(reader, row)}: expected {len(names)} columns.")
            yield _first_line(reader, row), row
    except csv.Error as error:
        raise HarnessError(f"{path}, line {reader.reader.line_num}: this is not valid CSV ({error}).") from error


def _first_line(reader: csv.DictReader[str], row: dict[str, Any]) -> int:
    """The line in which the row just read begins; ``reader.line_num`` is the one in which it ends."""
    cells = [x for value in row.values() for x in (value if isinstance(value, list) else [value]) if x is not None]
    return reader.line_num - sum(len(re.findall("\r\n|\r|\n", cell)) for cell in cells)


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise HarnessError(f"{where}: expected an object with named columns, got {row!r:.60}.")
    return row


def hub_rows(data: str, subset: str | None, split: str, revision: str | None) -> Iterator[Row]:
    """Every row of a dataset of the hub, or of a folder with one.

    Raises:
        HarnessError: it cannot be loaded.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(data, subset, split=split, revision=revision)
    except Exception as error:  # datasets raises many kinds; each means that these rows cannot be had
        first = str(error).strip().split("\n")[0] if str(error).strip() else type(error).__name__
        raise HarnessError(
            f'data: "{data}" is neither a file here nor a dataset that can be loaded ({first}). '
            "Give a .jsonl or .csv file, or check the id, the split and the network."
        ) from error
    yield from enumerate((dict(row) for row in rows), 1)
