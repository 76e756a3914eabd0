"""What became of papers' claims: for a terminal, and as a page in Markdown or HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from harness import __version__
from harness.files import harmless
from harness.files.terminal import Terminal
from harness.files.wording import counted
from harness.report.console import NARROW
from harness.report.formatting import amount, between
from harness.report.page_assets import assets
from harness.results.claims import OUTCOMES, ClaimRow, ClaimTable, Judged

FORMATS = ("table", "markdown", "html", "json")

STYLES = {"confirmed": "bold green", "missed": "bold red", "cannot be tested": "yellow", "not run": "dim"}
KINDS = {"confirmed": "yes", "missed": "broken", "cannot be tested": "unknown", "not run": "no"}
"""What the page's style calls an outcome."""

COLUMNS = ("claim", "published", "ours", "outcome")

EXPLAINED = (
    "Intervals: 95%, over independent prompts. Confirmed, missed: by the rule of the claim, from the verdict and the "
    "intervals of the run; the bounds of intervals are ours where the paper has no number. Cannot be tested: the run "
    "is too small to tell, or about another model, or the neurons that are sought are not there. A claim that is "
    "missed on a model that the paper did not study does not hold there; that says nothing against the paper."
)
RECOUNTED = (
    "No model is run. Counts of prompts before and after the ablation, as the published percentages and figures give "
    "them, and places among random sets. The tests take prompts for independent, which those of one fact are not: they "
    "find too much rather than too little."
)


def show(console: Terminal, table: ClaimTable) -> None:
    """Print the claims, paper by paper."""
    for part in _parts(table, console.width < NARROW):
        console.print(part)


def _parts(table: ClaimTable, narrow: bool) -> Iterator[RenderableType]:
    for section in sections(table):
        yield Rule(Text(section["title"], style="bold"), align="left")
        yield Padding(Text(section["about"], style="dim"), (0, 0, 1, 2))
        yield Padding(_list(section["rows"]) if narrow else _table(section["rows"]), (0, 0, 1, 2))
    yield Text(summary(table))
    yield Text(EXPLAINED, style="dim")


def _table(rows: Sequence[ClaimRow]) -> RenderableType:
    grid = Table(box=None, padding=(0, 2, 1, 0), header_style="dim")
    for name, width in zip(("claim", "model", "published", "ours", "outcome"), (3, None, 2, 2, 3), strict=True):
        grid.add_column(name, overflow="fold", ratio=width)
    for row, first in _firsts(rows):
        claim = Text.assemble(f"{row.says}\n", (f"{row.claim}; {row.source}", "dim")) if first else Text()
        grid.add_row(claim, Text(row.model), Text(row.published or "-"), Text(ours(row.judged)), _outcome(row))
    return grid


def _list(rows: Sequence[ClaimRow]) -> RenderableType:
    grid = Table.grid()
    for row, first in _firsts(rows):
        if first:
            grid.add_row(Text.assemble(row.says, (f" ({row.claim}; {row.source})", "dim")))
        told = Text(f"{row.model}: published {row.published or '-'}; ours {ours(row.judged)}; ")
        grid.add_row(Padding(told.append_text(_outcome(row)), (0, 0, 0, 2)))
    return grid


def _firsts(rows: Sequence[ClaimRow]) -> Iterator[tuple[ClaimRow, bool]]:
    """Each row, and whether it is the first of its claim."""
    before = None
    for row in rows:
        yield row, row.claim != before
        before = row.claim


def _outcome(row: ClaimRow) -> Text:
    return Text.assemble((row.judged.outcome, STYLES[row.judged.outcome]), why(row))


# -- in words ----------------------------------------------------------------------------------------------------------


def sections(table: ClaimTable) -> list[dict[str, Any]]:
    """The claims of each paper that runs test, then those that its numbers answer, as templates show them."""
    found = []
    for kind, rows, about in (("runs", table.tested, "{}."), ("the published numbers", table.recounted, RECOUNTED)):
        for paper in table.papers:
            own = [row for row in rows if row.paper == paper.name]
            if own:
                title = f"{paper.by}: what {kind} say"
                found.append({"title": title, "url": paper.url, "about": about.format(paper.title), "rows": own})
    return found


def ours(judged: Judged) -> str:
    """Our number with its interval, and the mean of the random sets."""
    if judged.value is None:
        return "-"
    if judged.low is None:  # counted, not measured
        return f"{judged.value:.4g}{'%' if judged.unit == '%' else ''}"
    told = amount(judged.value, judged.unit)
    if judged.low != judged.high:
        told += f" ({between(judged.low, judged.high, judged.unit)})"
    return told if judged.controls is None else f"{told}, random {amount(judged.controls, judged.unit)}"


def why(row: ClaimRow) -> str:
    """What follows the outcome: why, on which run, or which command makes it."""
    told = f": {row.command}" if row.command else f": {row.judged.why}" if row.judged.why else ""
    if row.known and row.judged.outcome == "missed":
        told += f"; known: {row.known}"
    if row.tested_on is not None:
        told += f" ({row.tested_on.name}, {row.tested_on.about})"
    return told


def summary(table: ClaimTable) -> str:
    """How many claims came out how."""
    told = []
    for what, rows in (("tested by runs", table.tested), ("answered by published numbers", table.recounted)):
        counts = table.counts(rows)
        if rows:
            parts = ", ".join(f"{counts[word]} {word}" for word in OUTCOMES if counts[word])
            told.append(f"{counted(len(rows), 'claim')} {what}: {parts}")
    known = sum(row.judged.outcome == "missed" and row.known is not None for row in (*table.tested, *table.recounted))
    more = f" {known} of the missed ones were known to be." if known else ""
    return f"{'; '.join(told)}.{more}"


# -- pages -------------------------------------------------------------------------------------------------------------


def markdown(table: ClaimTable) -> str:
    """The claims as a Markdown page."""
    environment = harmless.markdown_environment()
    environment.filters |= {"ours": ours, "why": why, "code": harmless.markdown_code}
    return environment.get_template("claims.md.j2").render(_context(table)).strip() + "\n"


def html(table: ClaimTable) -> str:
    """The claims as one web page: it opens from a file, offline, and loads nothing from anywhere."""
    environment = harmless.html_environment()
    environment.filters |= {"ours": ours, "why": why, "kind": KINDS.__getitem__}
    context = _context(table) | assets() | {"version": __version__}
    return environment.get_template("claims.html.j2").render(context).strip() + "\n"


def _context(table: ClaimTable) -> dict[str, Any]:
    return {"sections": sections(table), "summary": summary(table), "explained": EXPLAINED, "models": table.models}
