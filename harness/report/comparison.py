"""A comparison of runs for a terminal, in words, and as CSV; :mod:`harness.report.comparison_page` has the pages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from harness.files import harmless
from harness.files.terminal import Terminal
from harness.files.wording import agree, counted
from harness.report.console import NARROW
from harness.report.formatting import amount, between, number, p_value
from harness.results.comparison import ComparedMeasure, Comparison, Difference, SelectionPair
from harness.statistics import ALPHA

NAMES = ("run", "value", "95% interval", "controls", "minus A", "95% interval", "beyond controls", "p Holm", "McNemar")
"""Columns of the measures; p without Holm's correction for those that are not primary."""

FORMATS = ("table", "csv", "markdown", "json", "html")

EXPLAINED = (
    "Intervals: 95% bootstrap; those of differences draw the same items from both runs. Runs that are paired by item "
    "differ, in these columns, over the shared items only, not by the difference of the values on the left. Beyond "
    "controls: how much the distance from the mean of the random controls differs, the control sets as they are. p: "
    "the two runs are exchanged item by item at random; {holm}. McNemar: exact test of prompts that count in one of "
    "the two runs only, every prompt for itself."
)


def show(console: Terminal, found: Comparison, everything: bool = False) -> None:
    """Print a comparison; ``everything``: also the measures that are not primary."""
    for part in _parts(found, console.width, everything):
        console.print(part)


def _parts(found: Comparison, width: int, everything: bool) -> Iterator[RenderableType]:
    yield Rule(Text(f"Comparison of {counted(len(found.runs), 'run')}", style="bold"), align="left")
    for run in found.runs:
        yield Text(f"{run.label}  {run.name}: {run.folder}", overflow="fold")
    yield Text("\nWhat differs", style="bold")
    yield _indent(_differing(found, width < NARROW))
    yield Text("\nSelected", style="bold")
    for sentence in map(selected, found.selections):
        yield _indent(Text(sentence))
    yield Text("\nPrompts", style="bold")
    for pairing in found.pairs:
        yield _indent(Text(f"{pairing.first} and {pairing.second}: {pairing.why}."))
    for primary in (True, False) if everything else (True,):
        rows = [row for row in found.measures if row.primary == primary]
        if rows:
            yield Text("\nMeasures" if primary else "\nThe rest, p without correction for their number", style="bold")
            yield from _measures(rows, found, width)
    if not found.measures:
        yield _indent(Text("The runs have no measure in common."))
    yield _indent(Text(explained(found), style="dim"))
    yield Text("\nIn words", style="bold")
    for sentence in words(found):
        yield _indent(Text(sentence))


def _indent(part: RenderableType) -> RenderableType:
    return Padding(part, (0, 0, 0, 2))


def explained(found: Comparison) -> str:
    """What intervals and p-values of a comparison are."""
    size = found.family
    holm = (
        f"Holm over the {counted(size, 'comparison')} of primary measures" if size else "no primary measure is paired"
    )
    return EXPLAINED.format(holm=holm)


# -- what was asked and selected ---------------------------------------------------------------------------------------


def _differing(found: Comparison, narrow: bool) -> RenderableType:
    labels = [run.label for run in found.runs]
    if not found.differing:
        return Text("Nothing: these are the same run.")
    grid = Table.grid(padding=(0, 2)) if narrow else Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    if narrow:
        for row in found.differing:
            told = ", ".join(f"{x} {short(y)}" for x, y in zip(labels, row.values, strict=True))
            grid.add_row(Text(f"{row.field}: {told}", overflow="fold"))
        return grid
    for name in ("", *labels):
        grid.add_column(name, overflow="fold")
    for row in found.differing:
        grid.add_row(Text(row.field), *(Text(short(x)) for x in row.values))
    return grid


def short(found: Any) -> str:
    """A value of an identity: digests by their first digits, a dash for what is not there."""
    if found is None:
        return "-"
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text


def selected(found: SelectionPair) -> str:
    """One sentence about the overlap of two selections."""
    both = f"{found.first} and {found.second}"
    overlap, unit, n_layer = found.overlap, found.unit, found.n_layer
    if overlap is None or unit is None or n_layer is None:
        return f"{both}: not compared, for {found.why}."
    names = f" ({', '.join(found.shared)})" if found.shared else ""
    caution = f" ({found.why})" if found.why else ""
    return (
        f"{both} share {overlap.shared} of {found.n_first} and {counted(found.n_second, unit)}{names}: IoU "
        f"{overlap.iou:.2f}. Random sets of these sizes, of {counted(n_layer, unit)} in a layer, "
        "would share "
        f"{number(overlap.expected_shared)} (IoU {number(overlap.expected_iou)}), as many by chance with p = "
        f"{p_value(overlap.p)}{caution}."
    )


# -- what was measured -------------------------------------------------------------------------------------------------


def lines_of(row: ComparedMeasure, found: Comparison) -> Iterator[list[str]]:
    """The cells of a measure, one line a run, in the order of ``NAMES``."""
    differences = [None, *row.differences]
    for run, own, difference in zip(found.runs, row.runs, differences, strict=True):
        if own is None:
            yield [run.label, *["-"] * (len(NAMES) - 1)]
            continue
        yield [
            run.label,
            amount(own.value, row.unit, own.count, own.denominator),
            between(own.ci_low, own.ci_high, row.unit),
            _in_unit(row, own.control_mean),
            *(["", "", "", "", ""] if difference is None else _difference(row, difference)),
        ]


def _difference(row: ComparedMeasure, found: Difference) -> list[str]:
    minus = _in_unit(row, found.difference, sign=True)
    if not found.paired:
        return [minus, "not paired", "-", "-", "-"]
    interval = between(found.low, found.high, row.unit) if found.n_differing else "no item differs"
    mcnemar = found.mcnemar
    return [
        minus,
        interval,
        between(found.beyond_low, found.beyond_high, row.unit),
        p_value(found.p_holm if row.primary else found.p),
        f"{mcnemar.first_only}:{mcnemar.second_only}, {mcnemar.p:.2g}" if mcnemar else "-",
    ]


def _in_unit(row: ComparedMeasure, found: float | None, sign: bool = False) -> str:
    """A number with the places of the measure's unit."""
    if found is None:
        return "-"
    places = 2 if row.unit == "%" else 4
    return f"{found:{'+' if sign or row.unit == 'nats' else ''}.{places}f}"


def _measures(rows: Sequence[ComparedMeasure], found: Comparison, width: int) -> Iterator[RenderableType]:
    """A line for each measure and below it one for each run, in columns; a list where that is too wide."""
    header = [name if rows[0].primary else name.removesuffix(" Holm") for name in ("", *NAMES[1:])]
    lines = [list(lines_of(row, found)) for row in rows]
    widths = [
        max(map(len, column)) for column in zip(header, *(line for several in lines for line in several), strict=True)
    ]
    if sum(widths) + 2 * len(widths) > width:
        yield _indent(_list(rows, lines))
        return
    yield _indent(Text(_aligned(header, widths), style="dim"))
    for row, several in zip(rows, lines, strict=True):
        yield _indent(Text(row.title))
        for line in several:
            yield _indent(Text(_aligned(line, widths).rstrip()))


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def _list(rows: Sequence[ComparedMeasure], lines: Sequence[Sequence[Sequence[str]]]) -> RenderableType:
    grid = Table.grid()
    for row, several in zip(rows, lines, strict=True):
        grid.add_row(Text(row.title))
        tested = "Holm p" if row.primary else "p"
        for line in several:
            label, treated, interval, controls, minus, between_, beyond, p, mcnemar = line
            text = f"{label}: {treated} [{interval}], controls {controls}"
            if minus:
                text += f"; minus A {minus} [{between_}], beyond controls {beyond}, {tested} {p}, McNemar {mcnemar}"
            grid.add_row(Padding(text, (0, 0, 0, 2)))
    return grid


def words(found: Comparison) -> list[str]:
    """What the comparison says, by rule: for each run the primary measures in which it differs from the first."""
    reference = found.runs[0].label
    primary = [row for row in found.measures if row.primary]
    sentences = []
    for i, pairing in enumerate(found.pairs):
        label = pairing.second
        pairs = [(row, row.differences[i]) for row in primary]
        tested = [
            (row, d, d.difference, d.p_holm)
            for row, d in pairs
            if d is not None and d.difference is not None and d.p_holm is not None
        ]
        if not tested:
            sentences.append(f"{label} and {reference}: nothing is tested, because no primary measure is paired.")
            continue
        apart = [(row, d, by) for row, d, by, p in tested if p <= ALPHA]
        told = [
            f"{row.title} is {'higher' if by > 0 else 'lower'} in {label}, by "
            f"{_amount(row, by)} ({between(d.low, d.high, row.unit)})"
            for row, d, by in apart
        ]
        rest = len(tested) - len(apart)
        if rest:
            told.append(
                f"{rest} of {counted(len(tested), 'primary measure')} {agree(rest, 'is', 'are')} not shown to "
                f"differ (Holm-corrected p > {ALPHA:g})"
            )
        sentences.append(f"{label} and {reference}: {'; '.join(told)}.")
    return sentences


def _amount(row: ComparedMeasure, difference: float) -> str:
    places, unit = (2, " percentage points") if row.unit == "%" else (4, f" {row.unit}")
    return f"{abs(difference):.{places}f}{unit.removesuffix(' share').rstrip()}"


# -- data --------------------------------------------------------------------------------------------------------------


def csv_text(found: Comparison) -> str:
    """One line a measure and run, unrounded; the differences are to the first run."""
    own = ("value", "ci_low", "ci_high", "count", "denominator", "control_mean", "beyond_controls", "verdict")
    paired = ("difference", "low", "high", "beyond_controls", "beyond_low", "beyond_high", "p", "p_holm", "n_items")
    mcnemar = ("first_only", "second_only", "n", "p")
    header = ["metric", "measure", "title", "unit", "primary", "label", "run", *own, "paired"]
    header += [f"minus_{name}" for name in paired] + [f"mcnemar_{name}" for name in mcnemar] + ["why"]
    lines = []
    for row in found.measures:
        for run, mine, difference in zip(found.runs, row.runs, [None, *row.differences], strict=True):
            if mine is None:
                continue
            values, told = mine.to_dict(), {} if difference is None else difference.to_dict()
            counts = told.get("mcnemar") or {}
            cells = [row.metric, row.name, row.title, row.unit, row.primary, run.label, run.name]
            cells += [values.get(name) for name in own] + [told.get("paired")] + [told.get(name) for name in paired]
            cells += [counts.get(name) for name in mcnemar] + [told.get("why")]
            lines.append(["" if cell is None else cell for cell in cells])
    return harmless.csv_text(header, lines)
