"""Which rows of a leaderboard, in which order: filters, the newest of each setting, sorting."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import HarnessError, suggest
from harness.results.findings import Findings, findings_of
from harness.results.leaderboard import COLUMNS, Type, typed
from harness.results.record import SCHEMA_VERSION
from harness.statistics import VERDICTS

Row = Mapping[str, Any]

SETTING = [
    "model",
    "model_revision",
    "weights_sha256",
    "tokenizer_sha256",
    "dtype",
    "device",
    "task",
    "task_params",
    "selector",
    "selector_params",
    "intervention",
    "intervention_params",
    "metric_params",
    "data_sha256",
    "inputs_sha256",
    "engine",
    "n_controls",
    "control_match",
    "seed",
    "limit",
    "hold_out",
    "batch_size",
    "resamples",
    "metric",
    "measure",
]
"""Columns that say what was asked. Of rows that agree in them, made by other versions or at other times, the newest
counts."""

SHOWN: dict[str, Type] = {**COLUMNS, "finding": "yes/no"}
"""The columns that are shown: those of the file, and what is computed over the whole board."""

ALIASES = {"time": "time_utc", "p": "p_two_sided", "controls": "control_mean"}
"""Short names of columns."""

_SIGNS = ("!=", "!~", ">=", "<=", "==", "=", "~", ">", "<")
_WHERE = re.compile(rf"\s*(\w+)\s*({'|'.join(map(re.escape, _SIGNS))})\s*(.*?)\s*", re.DOTALL)


def column_named(name: str, option: str) -> str:
    """The column that a user means.

    Raises:
        HarnessError: there is none; names ``option`` and the nearest column.
    """
    name = ALIASES.get(name, name)
    if name not in SHOWN:
        near = suggest(name, [*SHOWN, *ALIASES]) or f" There are: {', '.join(SHOWN)}."
        raise HarnessError(f'{option}: "{name}" is no column of the leaderboard.{near}')
    return name


@dataclass(frozen=True)
class Filter:
    """One condition on a row's column, for example ``model~gpt2`` or ``value>=0.5``.

    ``=`` and ``!=``: the same or not (``null`` for what is not there). ``~`` and ``!~``: a regular expression is found
    in it or not, in upper or lower case. ``<``, ``<=``, ``>``, ``>=``: order of numbers, or of texts such as times; not
    true of null. Of a list: true of one of its members.
    """

    column: str
    sign: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Read what follows ``--where``.

        Raises:
            HarnessError: it has no sign, its column is unknown, or its value does not fit the column.
        """
        match = _WHERE.fullmatch(text)
        if match is None:
            raise HarnessError(
                f'--where: "{text}" is no condition; write column, one of {" ".join(_SIGNS)}, and a value, for example '
                "task=knowledge_conflict or model~gpt2."
            )
        found = cls(column_named(match[1], "--where"), match[2].replace("==", "="), match[3])
        found.test(None)  # raises where the value does not fit
        return found

    @functools.cached_property
    def test(self) -> Callable[[Any], bool]:
        """Whether a value of the column, or a member of a list, meets the condition (``!`` aside)."""
        if self.sign in ("~", "!~"):
            try:
                pattern = re.compile(self.value, re.IGNORECASE)
            except re.error as error:
                raise HarnessError(f'--where: "{self.value}" is no regular expression ({error}).') from error
            return lambda value: value is not None and bool(pattern.search(_text(value)))
        wanted = self._wanted()
        if self.sign in ("=", "!="):
            return lambda value: value == wanted
        if wanted is None or isinstance(wanted, bool):
            raise HarnessError(
                f"--where: {self.column}{self.sign}{self.value}: {self.value} has no order; use = or !=."
            )
        order: dict[str, Callable[[Any], bool]] = {
            "<": lambda x: x < wanted,
            "<=": lambda x: x <= wanted,
            ">": lambda x: x > wanted,
        }
        test: Callable[[Any], bool] = order.get(self.sign, lambda x: x >= wanted)
        return lambda value: value is not None and test(value)

    def _wanted(self) -> Any:
        """The value, of the column's type."""
        kind, text = SHOWN[self.column], self.value
        if text.lower() in ("null", "none"):
            return None
        if kind in ("number", "integer"):
            try:
                return float(text)
            except ValueError as error:
                raise HarnessError(f'--where: {self.column} is a number, and "{text}" is none.') from error
        if kind == "yes/no":
            if text.lower() not in ("true", "false", "yes", "no"):
                raise HarnessError(f'--where: {self.column} is true or false, and "{text}" is neither.')
            return text.lower() in ("true", "yes")
        return text

    def __call__(self, row: Row) -> bool:
        value = row[self.column]
        values = value if isinstance(value, list) and value else [value]
        return any(map(self.test, values)) != self.sign.startswith("!")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Query:
    """What a user wants to see of a leaderboard; every condition must hold.

    ``measures`` and ``verdicts``: any of these, all when empty. ``primary``: primary measures only, unless measures are
    named. ``history``: also the rows that newer ones replace. ``sort``: a column; by default the newest run comes
    first. ``limit``: as many rows at most.
    """

    where: Sequence[Filter] = ()
    measures: Sequence[str] = ()
    verdicts: Sequence[str] = ()
    primary: bool = True
    history: bool = False
    sort: str | None = None
    descending: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class QueryResult:
    """The rows that a query chose, what became of the others, and what is found on the whole board."""

    rows: list[dict[str, Any]]
    n: int
    board: Findings = field(default_factory=Findings)
    older: int = 0
    foreign: int = 0
    cut: int = 0
    hints: list[str] = field(default_factory=list)


def query_rows(rows: Iterable[Row], query: Query) -> QueryResult:
    """Choose and sort rows; they have the columns and types of ``SHOWN``.

    ``finding`` is told of the newest row of each setting, among all of them whatever is chosen; older rows have none.

    Returns:
        ``n``: all rows; ``older``: left out because newer ones replace them; ``foreign``: of another schema, shown as
        far as they have these columns; ``cut``: left out by the limit; ``hints``: for filters that nothing meets;
        ``board``: see :func:`harness.results.findings.findings_of`.

    Raises:
        HarnessError: a measure, a verdict or a column is unknown; names the nearest.
    """
    given = list(rows)
    every = [typed(row) | {"finding": None} for row in given]
    _known(
        "--measure", query.measures, {row["measure"] for row in every if row["measure"]}, "measure of the leaderboard"
    )
    # Of older rows, too, which had other words.
    _known("--verdict", query.verdicts, {*VERDICTS, *(row["verdict"] for row in every if row["verdict"])}, "verdict")
    primary = query.primary and not query.measures
    foreign = sum(row["schema_version"] != SCHEMA_VERSION for row in every)
    board = newest(every)
    marks, found = findings_of(board)
    for row, mark in zip(board, marks, strict=True):
        row["finding"] = mark
    current = every if query.history else board
    kept = [
        row
        for row in current
        if all(condition(row) for condition in query.where)
        and (not query.measures or row["measure"] in query.measures)
        and (not query.verdicts or row["verdict"] in query.verdicts)
        and (not primary or row["primary"])
    ]
    ordered = _sorted(kept, query)
    shown = ordered[: query.limit]
    hints = [] if kept else [hint for condition in query.where if (hint := _hint(condition, current))]
    return QueryResult(shown, len(every), found, len(every) - len(current), foreign, len(ordered) - len(shown), hints)


def newest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest row of each setting and measure (see ``SETTING``), in the order of the file."""
    last: dict[tuple[Any, ...], int] = {}
    for place, row in enumerate(rows):
        key = tuple(row[column] for column in SETTING)
        before = last.get(key)
        if before is None or (row["time_utc"] or "") >= (rows[before]["time_utc"] or ""):
            last[key] = place
    return [rows[place] for place in sorted(last.values())]


def _sorted(rows: list[dict[str, Any]], query: Query) -> list[dict[str, Any]]:
    """By the column, null last in either direction; rows that are equal keep their order."""
    column = "time_utc" if query.sort is None else column_named(query.sort, "--sort")
    known = [row for row in rows if row[column] is not None]
    known.sort(key=lambda row: row[column], reverse=query.sort is None or query.descending)
    return known + [row for row in rows if row[column] is None]


def _known(option: str, names: Iterable[str], known: Iterable[str], what: str) -> None:
    choices = sorted(known)
    for name in names:
        if name not in choices:
            near = suggest(name, choices) or f" There are: {', '.join(choices) or 'none'}."
            raise HarnessError(f'{option}: "{name}" is no {what}.{near}')


def _hint(condition: Filter, rows: Sequence[Row]) -> str:
    """For a filter on a text that no row has: the nearest that there is."""
    values = {row[condition.column] for row in rows if isinstance(row[condition.column], str)}
    if condition.sign != "=" or condition.value in values or not values:
        return ""
    return f'no row has {condition.column} "{condition.value}".{suggest(condition.value, values)}'
