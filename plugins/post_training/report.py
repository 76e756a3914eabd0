"""A comparison of two models for a terminal and as a Markdown page, both made from its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from harness.report.board import escape_markdown
from harness.report.numbers import cell

MOST_ROWS = 16
"""Longer tables are in the folder only."""

METHOD = (
    "Chance of an overlap: random sets of the same sizes (hypergeometric). Spearman's intervals: Bonett & Wright. "
    "Behaviour: tuned minus base on the same prompts, 95% bootstrap over facts; p by exchanging the models fact by "
    "fact. p = (b + 1) / (m + 1) wherever it is counted, Holm's within each part."
)


def show(console: Console, record: Mapping[str, Any], folder: Path) -> None:
    """Print a comparison. Tables that are wider than the terminal are left to the folder."""
    for part in _parts(record, folder, console):
        console.print(part)


def _parts(record: Mapping[str, Any], folder: Path, console: Console) -> Iterator[RenderableType]:
    yield Rule(Text(heading(record), style="bold"), align="left")
    for part in record["parts"]:
        yield Text(f"\n{part['title']}", style="bold")
        for sentence in part["sentences"]:
            yield _indent(Text(f"- {sentence}"))
        for frame in _short(part):
            yield _indent(Text(f"\n{frame['title'][:1].upper()}{frame['title'][1:]}", style="dim"))
            table = _indent(_table(frame))
            fits = Measurement.get(console, console.options.update(width=1000), table).maximum <= console.width
            yield table if fits else _indent(Text(f"tables/{frame['name']}.csv, or a wider terminal", style="dim"))
    yield _indent(Text(f"\n{METHOD}", style="dim"))
    yield Text(f"\n{folder}/  README.md (this report with its figures), result.json, tables/, figures/")


def heading(record: Mapping[str, Any]) -> str:
    return f"{record['identity']['base']['id']} (base) and {record['identity']['tuned']['id']} (tuned)"


def _short(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [frame for frame in part["frames"] if frame["rows"] and frame["n"] <= MOST_ROWS]


def _indent(part: RenderableType) -> RenderableType:
    return Padding(part, (0, 0, 0, 2))


def _table(frame: Mapping[str, Any]) -> Table:
    grid = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for name, value in frame["rows"][0].items():
        grid.add_column(name.replace("_", " "), justify="left" if isinstance(value, str) else "right", overflow="fold")
    for row in frame["rows"]:
        grid.add_row(*(Text(cell(value)) for value in row.values()))
    return grid


def markdown(record: Mapping[str, Any]) -> str:
    """The page: sentences, short tables and figures of every part."""
    lines = [f"# {heading(record)}", ""]
    for part in record["parts"]:
        lines += [f"## {part['title']}", "", *(f"- {sentence}" for sentence in part["sentences"]), ""]
        for frame in _short(part):
            names = list(frame["rows"][0])
            lines += [f"**{frame['title'][:1].upper()}{frame['title'][1:]}**", ""]
            lines += [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
            lines += ["| " + " | ".join(escape_markdown(cell(x)) for x in row.values()) + " |" for row in frame["rows"]]
            lines += [""]
        for figure in part["figures"]:
            lines += [f"![{figure['title']}](figures/{figure['name']}.png)", "", f"*{figure['title']}*", ""]
    return "\n".join([*lines, METHOD, ""])
