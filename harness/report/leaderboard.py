"""The leaderboard as people read it: a table for the terminal, CSV, Markdown, JSON, and a page for the browser."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.files import harmless
from harness.files.terminal import Terminal
from harness.files.wording import agree, counted
from harness.report.console import VERDICT_STYLES
from harness.report.formatting import form, number, p_value
from harness.report.page_assets import assets
from harness.results.findings import in_words
from harness.results.leaderboard_query import SETTING, SHOWN, QueryResult, column_named
from harness.results.record import SCHEMA_VERSION

Row = Mapping[str, Any]

DEFAULT = (
    "model",
    "task",
    "selector",
    "intervention",
    "measure",
    "value",
    "ci_low",
    "ci_high",
    "control_mean",
    "p_adjusted",
    "verdict",
    "finding",
)
"""Columns that people see when they name none; data formats have all."""

COMPONENTS = ("task", "selector", "intervention")

DISTANCES = ("margin", "detectable")
"""Columns whose numbers have the measure's unit, and no sign."""

IN_UNIT = (
    "baseline",
    "value",
    "ci_low",
    "ci_high",
    *DISTANCES,
    *(x for x in SHOWN if x.startswith("control_") and SHOWN[x] == "number"),
)
"""Columns whose numbers have the measure's unit."""

VERDICT = 16
"""Width that the verdicts need, broken into lines."""

FORMATS = ("table", "csv", "markdown", "json", "html", "parquet")


def columns_of(text: str | None, form: str) -> list[str] | None:
    """The columns that a user named, ``all`` for all of them; None where it is left to the format.

    Raises:
        HarnessError: an unknown column; names the nearest.
    """
    if text is None:
        return list(SHOWN) if form in ("csv", "json", "parquet") else None
    if text.strip() == "all":
        return list(SHOWN)
    return [column_named(name.strip(), "--columns") for name in text.split(",") if name.strip()]


def text_of(found: QueryResult, form: str, columns: Sequence[str] | None, source: str) -> str:
    """The rows in one of ``FORMATS`` that are text."""
    if form == "csv":
        return csv_text(found.rows, columns or list(SHOWN))
    if form == "json":
        return json_text(found.rows, columns or list(SHOWN))
    shown = columns or visible(found.rows)
    if form == "html":
        return page(found, *((shown, source) if columns else telling(found.rows, shown, source)))
    below = (f"\n{harmless.markdown(_sentence(note))}\n" for note in notes(found, shown))
    return markdown(found.rows, shown) + "".join(below)


def visible(rows: Sequence[Row]) -> list[str]:
    """The columns that people see by default: ``DEFAULT``, and of the settings those that tell the rows apart."""
    settings = (
        "dtype", "device", "engine", "n_controls", "control_match", "seed", "limit", "hold_out", "weights_sha256"
    )  # fmt: skip
    known = [row for row in rows if row["schema_version"] == SCHEMA_VERSION]  # others may not have these columns
    several = [name for name in settings if len({row[name] for row in known}) > 1]
    place = DEFAULT.index("measure")
    return [*DEFAULT[:place], *several, *DEFAULT[place:]]


ABOUT = ("model", *COMPONENTS)
FIRST = ("measure", "verdict", "value")
"""Columns of a page that stand behind what a row is about and before everything else: what it says."""


def telling(rows: Sequence[Row], columns: Sequence[str], source: str) -> tuple[list[str], str]:
    """The columns of a page in its order, without those of one value, which is said once behind the source's name."""
    lines = cells(rows, columns)
    texts = {name: {line[i] for line in lines} for i, name in enumerate(columns)}
    one = [name for name in columns if len(lines) > 1 and len(texts[name]) == 1 and name not in FIRST]
    kept = [name for name in columns if name not in one]
    asked = [name for name in kept if name in ABOUT]
    same = ", ".join(f"{name.replace('_', ' ')} {min(texts[name])}" for name in one)
    found = [name for name in kept if name in DEFAULT and name not in (*asked, *FIRST)]
    rest = [name for name in kept if name not in (*asked, *FIRST, *found)]
    return [*asked, *(name for name in FIRST if name in kept), *rest, *found], source + (
        f"; in all rows: {same}" if same else ""
    )


def notes(found: QueryResult, columns: Sequence[str]) -> list[str]:
    """What the findings are found among, where they are shown."""
    return in_words(found.board) if found.rows and "finding" in columns else []


def _sentence(note: str) -> str:
    return f"{note[0].upper()}{note[1:]}."


def cells(rows: Sequence[Row], columns: Sequence[str]) -> list[list[str]]:
    """The rows as people read them [n_rows][n_columns]; components with the parameters that tell the rows apart."""
    varying = {kind: _varying(rows, kind) for kind in COMPONENTS}
    return [[_component(row, x, varying[x]) if x in varying else cell(row, x) for x in columns] for row in rows]


def cell(row: Row, column: str) -> str:
    """One value as people read it; a dash for what is not there."""
    value = row[column]
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(value)
    if column in IN_UNIT:
        text = form(value, row["unit"])
        text = text if column == "value" else text.removesuffix("%")
        return text.removeprefix("+") if column in DISTANCES else text
    if isinstance(value, float):
        return p_value(value) if column.startswith("p_") else number(value)
    return value[:12] if column.endswith(("_sha256", "_commit")) or column == "run_id" else str(value)


def _varying(rows: Sequence[Row], kind: str) -> dict[str, list[str]]:
    """For each component of a kind, the parameters that are not the same in all its rows."""
    seen: dict[str, list[dict[str, Any]]] = {}
    for name, params in dict.fromkeys((row[kind], row[f"{kind}_params"]) for row in rows):
        seen.setdefault(name, []).append(_params(params))
    return {
        name: [key for key in dict.fromkeys(key for one in several for key in one) if _differ(key, several)]
        for name, several in seen.items()
    }


def _differ(key: str, params: Sequence[Mapping[str, Any]]) -> bool:
    return len({json.dumps(one.get(key), sort_keys=True) for one in params}) > 1


def _params(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):  # somebody else's row
        found = {}
    return found if isinstance(found, dict) else {}


def _named(value: Any) -> Any:
    """A component within a component by its name."""
    return value["name"] if isinstance(value, dict) and "name" in value else value


def _component(row: Row, kind: str, varying: Mapping[str, Sequence[str]]) -> str:
    """A component as users write it, with the parameters that vary: ``entropy:top=4``."""
    if row[kind] is None:
        return "-"
    params = _params(row[f"{kind}_params"])
    told = [f"{key}={_named(params[key])}" for key in varying[row[kind]] if params.get(key) is not None]
    found: str = row[kind] + (":" + ",".join(told) if told else "")
    return found


# -- data --------------------------------------------------------------------------------------------------------------


def csv_text(rows: Iterable[Row], columns: Sequence[str]) -> str:
    """Comma-separated values, unrounded; lists are separated by spaces, null is empty."""
    lines = (
        [" ".join(x) if isinstance(x, list) else "" if x is None else x for x in map(row.get, columns)] for row in rows
    )
    return harmless.csv_text(columns, lines)


def json_text(rows: Iterable[Row], columns: Sequence[str]) -> str:
    """A JSON array, one row a line."""
    lines = (harmless.json_text({x: row[x] for x in columns}, allow_nan=False) for row in rows)
    return "[\n" + ",\n".join(lines) + "\n]\n"


def markdown(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A Markdown table."""
    aligned = [":--" if SHOWN[x] in ("text", "list") else "--:" for x in columns]
    lines = [list(columns), aligned, *(map(harmless.markdown, line) for line in cells(rows, columns))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# -- terminal ----------------------------------------------------------------------------------------------------------


def show(console: Terminal, found: QueryResult, columns: Sequence[str] | None) -> None:
    """Print the rows, as a list where a table is too wide. What is the same in all of them is said once."""
    shown, same = list(columns or visible(found.rows)), {}
    lines = cells(found.rows, shown)
    if columns is None and len(lines) > 1:
        texts = [i for i, name in enumerate(shown) if name in SETTING and len({line[i] for line in lines}) == 1]
        same = {shown[i]: lines[0][i] for i in texts}
        shown = [name for i, name in enumerate(shown) if i not in texts]
        lines = [[text for i, text in enumerate(line) if i not in texts] for line in lines]
    if same:
        console.print(Text(", ".join(f"{name} {value}" for name, value in same.items()), style="bold"))
    if lines:
        console.print(_table(shown, lines) if _width(shown, lines) <= console.width else _list(shown, lines))
    for note in notes(found, shown):
        console.print(Text(note, style="dim"))


def summary(found: QueryResult, source: str) -> list[str]:
    """What is shown, and what not, in sentences."""
    said = [f"{len(found.rows)} of {counted(found.n, 'row')} of {source}"]
    if found.cut:
        said.append(f"{found.cut} more {agree(found.cut, 'matches', 'match')}, see -n")
    if found.older:
        left = agree(found.older, "is", "are")
        said.append(f"{counted(found.older, 'older row')} of the same settings {left} left out, see --history")
    if found.foreign:
        of = agree(found.foreign, "is", "are")
        said.append(
            f"{counted(found.foreign, 'row')} {of} of another schema and shown as far as these columns are there"
        )
    return ["; ".join(said), *found.hints]


def _width(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> int:
    """Of a table in which nothing is broken but verdicts."""
    widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
    return sum(VERDICT if name == "verdict" else x for name, x in zip(columns, widths, strict=True)) + 2 * len(columns)


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for name in columns:
        wide = SHOWN[name] in ("text", "list")
        table.add_column(name, justify="left" if wide else "right", no_wrap=name != "verdict")
    for line in lines:
        texts = zip(columns, line, strict=True)
        table.add_row(*(Text(x, style=VERDICT_STYLES.get(x, "") if name == "verdict" else "") for name, x in texts))
    return table


def _list(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """Each row as what it is about, and below that its numbers and verdict."""
    grid = Table.grid()
    about = [i for i, name in enumerate(columns) if SHOWN[name] == "text" and name != "verdict"]
    for line in lines:
        grid.add_row(Text(" ".join(line[i] for i in about)))
        rest = ", ".join(f"{columns[i]} {text}" for i, text in enumerate(line) if i not in about)
        grid.add_row(Padding(rest, (0, 0, 0, 2)))
    return grid


# -- browser -----------------------------------------------------------------------------------------------------------


def page(found: QueryResult, columns: Sequence[str], source: str) -> str:
    """One HTML page that works offline: rows that can be sorted and filtered, light and dark.

    Everything from the rows is escaped: names of models and measures are not ours.
    """
    lines: list[list[dict[str, Any]]] = [
        [
            {"text": text, "value": _sortable(row[name]), "wide": SHOWN[name] in ("text", "list"), "name": name}
            for name, text in zip(columns, line, strict=True)
        ]
        for row, line in zip(found.rows, cells(found.rows, columns), strict=True)
    ]
    choices = {
        name: values
        for i, name in enumerate(columns)
        if SHOWN[name] in ("text", "yes/no") and 1 < len(values := sorted({line[i]["text"] for line in lines})) <= 40
    }
    return (
        harmless.html_environment()
        .get_template("board.html.j2")
        .render(
            **assets("board.js"),
            columns=[{"name": name, "wide": SHOWN[name] in ("text", "list")} for name in columns],
            lines=lines,
            choices=choices,
            notes=[*summary(found, source), *notes(found, columns)],
        )
    )


def _sortable(value: Any) -> str:
    """What a column is sorted by in the browser: numbers as numbers, unrounded."""
    if value is None or isinstance(value, list):
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)
