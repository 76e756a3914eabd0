"""A run's files as pandas' data frames; a column has one type, whatever is missing in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, not_there, suggest
from harness.files.owned import path_name
from harness.report.places import names, with_places
from harness.results.beside import Candidate, ControlSet, Row, Sample
from harness.results.folder import read_rows
from harness.results.leaderboard import COLUMNS, Type
from harness.results.leaderboard_query import SHOWN
from harness.results.record import Frame, RunRecord

if TYPE_CHECKING:
    import pandas as pd

DTYPES: dict[Type, str] = {
    "text": "string", "integer": "Int64", "number": "float64", "yes/no": "boolean", "list": "object",
}  # fmt: skip
"""Columns of pandas; where a value is missing it is <NA>, of numbers NaN, of lists None."""


def measures(record: RunRecord) -> pd.DataFrame:
    """The measures of a record, their controls and effects as columns of their own."""
    rows = []
    for measure in record.measures:
        row = measure.model_dump(exclude_unset=True, exclude={"controls", "effects"})
        controls = {} if measure.controls is None else measure.controls.to_dict()
        rows.append(row | {f"control_{key}": x for key, x in controls.items()} | measure.effects.to_dict())
    return _frame(_columns(rows), COLUMNS)


def samples(folder: Path) -> pd.DataFrame:
    """``samples.jsonl``."""
    return _frame(_columns_of(read_rows(folder / "samples.jsonl", Sample)))


def neurons(folder: Path) -> pd.DataFrame:
    """``neurons.jsonl``, with layer and index of every candidate as numbers."""
    return _frame(with_places(_columns_of(read_rows(folder / "neurons.jsonl", Candidate))))


def controls(folder: Path) -> pd.DataFrame:
    """``controls.jsonl``."""
    return _frame(_columns_of(read_rows(folder / "controls.jsonl", ControlSet)))


def leaderboard(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of a leaderboard, with all of its columns."""
    return _frame({column: [row[column] for row in rows] for column in SHOWN}, SHOWN)


class Tables(Mapping[str, "pd.DataFrame"]):
    """The tables of a run by name.

    Short ones are in the record, where numbers and texts are told apart; of the others, which are CSV, columns of units
    are text, and a column is numbers where all of it is.
    """

    def __init__(self, folder: Path, known: Sequence[Frame]) -> None:
        self._folder = folder
        self._known = {table.name: table for table in known}
        self._read: dict[str, pd.DataFrame] = {}

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in self._known:
            known = ", ".join(self._known) or "none"
            raise HarnessError(f'{self._folder}: no table "{name}".{suggest(name, self._known)} There are: {known}.')
        if name not in self._read:
            rows = self._known[name].rows
            self._read[name] = self._csv(name) if rows is None else _frame(with_places(_columns(rows)))
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __repr__(self) -> str:
        return f"<tables: {', '.join(self) or 'none'}>"

    def _csv(self, name: str) -> pd.DataFrame:
        import pandas as pd

        path = self._folder / "tables" / f"{path_name(name, str(self._folder))}.csv"
        if not path.is_file():
            raise HarnessError(f"{path}: {not_there(path)}.")
        units = dict.fromkeys(names(), "string")
        found = pd.read_csv(path, dtype=units, keep_default_na=False, na_values=[""])
        return _frame({column: [None if pd.isna(x) else x for x in found[column]] for column in found})


def _columns_of(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return _columns([row.to_dict() for row in rows])


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns, in the order in which they first come."""
    names = dict.fromkeys(key for row in rows for key in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _frame(columns: Mapping[str, Any], types: Mapping[str, Type] | None = None) -> pd.DataFrame:
    """A data frame of columns whose types are given, or are those of what is in them."""
    import pandas as pd

    given = types or {}
    return pd.DataFrame(
        {name: pd.Series(values, dtype=DTYPES[given.get(name) or _type(values)]) for name, values in columns.items()}
    )


def _type(values: Sequence[Any]) -> Type:
    """The narrowest type that all values have; of none, numbers."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "yes/no"
    if kinds == {int}:
        return "integer"
    if kinds <= {int, float}:
        return "number"
    return "text" if kinds == {str} else "list"
