"""Tables of runs for a paper: LaTeX (booktabs), and CSV with the same numbers to full precision.

Of each run: the tables that its metrics declare a layout for (:class:`harness.plugin.records.Matrix`), and its primary
measures. Of several runs: each primary measure with its quantile among the controls, runs that differ in the
model side by side, those that differ otherwise (ablation value, number of neurons ...) one below the other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, cast

from harness.errors import HarnessError
from harness.files.harmless import latex as escape
from harness.files.owned import path_name
from harness.files.wording import counted
from harness.plugin.catalogue import catalogue
from harness.plugin.components import Metric
from harness.plugin.records import Matrix
from harness.report.figure_files import csv_bytes
from harness.report.formatting import by_key, chosen, p_value, treatment
from harness.report.publishing import publish
from harness.results.folder import read_record

LISTING = ".harness-tables.sha256"

VARIED = ("task", "selector", "intervention")
"""Components in which runs of one table may differ, beside the model."""


@dataclass(frozen=True)
class TexTable:
    """A table: its file's stem, caption, alignment of its columns ("lrr"), and rows of LaTeX cells (None: a rule)."""

    name: str
    caption: str
    columns: str
    header: Sequence[str]
    rows: Sequence[Sequence[str] | None]
    data: Mapping[str, Sequence[Any]]
    """Columns of the CSV file."""


def export(runs: Sequence[Path], folder: Path) -> tuple[Path, ...]:
    """Write the tables of finished runs (their folders) to ``folder``; returns the ``.tex`` files.

    The same runs give the same bytes. A document that inputs a table needs ``\\usepackage{booktabs}``. Tables of other
    runs stay.

    Raises:
        HarnessError: a record is missing or damaged, a file is in the way that is not ours, or the folder cannot be
            written.
    """
    records = [read_record(run) for run in runs]
    names = Counter(record["name"] for record in records)
    stems = [x["name"] if names[x["name"]] == 1 else run.resolve().name for x, run in zip(records, runs, strict=True)]
    tables = [table for record, stem in zip(records, stems, strict=True) for table in _of_run(record, stem)]
    if len(records) > 1:
        tables += _across(records, stems)
    files: dict[str, bytes] = {}
    for table in tables:
        stem = path_name(table.name, f"the name of a run or measure in {', '.join(map(str, runs))}")
        files |= {f"{stem}.tex": render(table).encode(), f"{stem}.csv": csv_bytes(table.data)}
    publish(folder, LISTING, files, whole=False)
    return tuple(folder / f"{table.name}.tex" for table in tables)


def render(table: TexTable) -> str:
    """A floating table with rules above, below and under the header."""
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{table.caption}}}",
        f"\\label{{tab:{re.sub(r'[^A-Za-z0-9-]+', '-', table.name)}}}",
        f"\\begin{{tabular}}{{{table.columns}}}",
        "\\toprule",
        f"{' & '.join(table.header)} \\\\",
        "\\midrule",
        *("\\addlinespace" if row is None else f"{' & '.join(row)} \\\\" for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _of_run(record: Mapping[str, Any], stem: str) -> list[TexTable]:
    layouts = _layouts(record)
    shown = [frame for frame in record["frames"] if frame["name"] in layouts and frame["rows"]]
    return [*(_matrix(record, layouts[x["name"]], x, stem) for x in shown), _measures(record, stem)]


def _layouts(record: Mapping[str, Any]) -> dict[str, Matrix]:
    """How the run's metrics want their tables set, by the tables' names."""
    metrics = catalogue().components["metric"]
    named = [metrics.get(metric["name"]) for metric in record["identity"]["components"]["metrics"]]
    return {name: layout for cls in named if cls for name, layout in cast("type[Metric]", cls).layouts.items()}


def _about(record: Mapping[str, Any]) -> str:
    """What was done, for captions."""
    return escape(
        f"{record['identity']['model']['id']}, {chosen(record)} under {treatment(record)}, "
        f"{counted(record['task']['n_prompts'], 'prompt', ',')}, {counted(record['controls']['n'], 'random control')}"
    )


def _matrix(record: Mapping[str, Any], layout: Matrix, frame: Mapping[str, Any], stem: str) -> TexTable:
    """A square table of cells, as its metric declares.

    Raises:
        HarnessError: the frame has no row for each cell, or lacks a column that the layout names.
    """
    cells: Sequence[Mapping[str, Any]] = frame["rows"]
    columns = (layout.row, layout.column, layout.share, layout.count, layout.mean, layout.error)
    if missing := [column for column in columns if column not in cells[0]]:
        raise HarnessError(
            f"{stem}: the layout {layout.name} wants the column {missing[0]} of the table {frame['name']}, which has "
            f"{', '.join(cells[0])}."
        )
    found = {(cell[layout.row], cell[layout.column]): cell for cell in cells}
    categories = list(dict.fromkeys(cell[layout.row] for cell in cells))
    if set(found) != set(product(categories, repeat=2)):
        raise HarnessError(f"{stem}: the table {frame['name']} is not square, as the layout {layout.name} wants it.")
    rows: list[Sequence[str] | None] = []
    for row in categories:
        if rows:
            rows.append(None)
        line = [found[row, column] for column in categories]
        shown = (f"{_fixed(x[layout.share])} ({x[layout.count]:,})" for x in line)
        rows.append([layout.row_label.format(escape(row)), *shown])
        if any(x[layout.mean] is not None for x in line):
            rows.append(["", *(f"{{\\scriptsize {_spread(x[layout.mean], x[layout.error])}}}" for x in line)])
    header = ["", *(layout.column_label.format(escape(column)) for column in categories)]
    data = {name: [cell[name] for cell in cells] for name in cells[0]}
    caption = f"{layout.caption}. {_about(record)}."
    return TexTable(f"{stem}-{layout.name}", caption, "l" + "r" * len(categories), header, rows, data)


def _measures(record: Mapping[str, Any], stem: str) -> TexTable:
    measures = [measure for measure in record["measures"] if measure["primary"]]
    rows = [
        [
            escape(f"{measure['title']} ({measure['unit']})"),
            _value(measure),
            _interval(measure),
            _spread(*_control(measure), digits=_digits(measure)),
            _fixed(measure["quantile"], 1),
            p_value(measure["p_two_sided"]),
            p_value(measure["p_adjusted"]),
        ]
        for measure in measures
    ]
    header = ["Measure", "Treated", "95\\% interval", "Controls", "Quantile", "$p$", "$p$ (adj.)"]
    keys = ("metric", "name", "title", "unit", "value", "count", "denominator", "ci_low", "ci_high")
    data = {key: [measure[key] for measure in measures] for key in keys}
    data |= {f"control_{key}": [(x["controls"] or {}).get(key) for x in measures] for key in ("mean", "standard_error")}
    tested = ("quantile", "p_two_sided", "p_adjusted", "p_holm", "verdict")
    data |= {key: [measure[key] for measure in measures] for key in tested}
    caption = (
        "Treated neurons beside the controls (mean $\\pm$ standard error); $p$ adjusted over these measures "
        f"(Westfall--Young, step-down). {_about(record)}."
    )
    return TexTable(f"{stem}-measures", caption, "l" + "r" * 6, header, rows, data)


def _across(records: Sequence[Mapping[str, Any]], stems: Sequence[str]) -> list[TexTable]:
    """One table for each primary measure that all runs have."""
    labels = _labels(records)
    models = [record["identity"]["model"]["id"] for record in records]
    if len(set(zip(labels, models, strict=True))) < len(records):  # they differ in something that labels do not show
        labels = list(stems)
    found = [{key: x for key, x in by_key(record).items() if x["primary"]} for record in records]
    shared = [key for key in found[0] if all(key in measures for measures in found)]
    names = Counter(name for _, name in shared)
    tables = []
    for key in shared:
        first = found[0][key]
        cells = {
            place: f"{_fixed(x[key]['value'], _digits(first))} ({_fixed(x[key]['quantile'], 1)})"
            for place, x in zip(zip(labels, models, strict=True), found, strict=True)
        }
        columns = list(dict.fromkeys(models))
        rows = [[escape(row), *(cells.get((row, x), "--") for x in columns)] for row in dict.fromkeys(labels)]
        data: dict[str, list[Any]] = {"run": list(stems), "model": models, "setting": labels}
        data |= {
            what: [x[key][what] for x in found] for what in ("value", "ci_low", "ci_high", "quantile", "p_two_sided")
        }
        metric, name = key
        of = "" if names[name] == 1 else f", metric {metric}"
        about = escape(f"{first['title'][:1].upper()}{first['title'][1:]} ({first['unit']}{of})")
        caption = f"{about} with its quantile among the random controls in brackets."
        header = ["", *map(escape, columns)]
        stem = name if names[name] == 1 else f"{metric}-{name}"
        tables.append(TexTable(f"across-{stem}", caption, "l" + "r" * len(columns), header, rows, data))
    return tables


def _labels(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells runs apart beside the model: components by name, with those parameters that differ."""
    parts: list[list[str]] = [[] for _ in records]
    for kind in VARIED:
        components = [record["identity"]["components"][kind] for record in records]
        if all(x["name"] == components[0]["name"] and x["params"] == components[0]["params"] for x in components):
            continue
        for part, component in zip(parts, components, strict=True):
            alike = [x["params"] for x in components if x["name"] == component["name"]]
            varied = [key for key in component["params"] if any(x[key] != alike[0][key] for x in alike)]
            settings = ", ".join(f"{key}={component['params'][key]}" for key in varied)
            part.append(f"{component['name']} ({settings})" if settings else component["name"])
    for key, of in (
        ("match", lambda x: x["controls"]["match"]),
        ("seed", lambda x: x["identity"]["seed"]),
        ("limit", lambda x: x["identity"]["limit"] or "none"),
    ):
        values = [of(record) for record in records]
        for part, value in zip(parts, values, strict=True):
            part += [f"{key} {value}"] if len(set(values)) > 1 else []
    whole = [", ".join(part) for part in parts]
    return whole if any(whole) else [x["identity"]["components"]["intervention"]["name"] for x in records]


def _digits(measure: Mapping[str, Any]) -> int:
    return 2 if measure["unit"] == "%" else 4


def _value(measure: Mapping[str, Any]) -> str:
    counts = "" if measure["count"] is None else f" ({measure['count']:,.0f}/{measure['denominator']:,.0f})"
    return _fixed(measure["value"], _digits(measure)) + counts


def _interval(measure: Mapping[str, Any]) -> str:
    low, high = (_fixed(measure[key], _digits(measure)) for key in ("ci_low", "ci_high"))
    return "--" if measure["ci_low"] is None else f"[{low}, {high}]"


def _control(measure: Mapping[str, Any]) -> tuple[float | None, float | None]:
    found = measure["controls"] or {}
    return found.get("mean"), found.get("standard_error")


def _spread(mean: float | None, error: float | None, digits: int = 2) -> str:
    if mean is None:
        return "--"
    return _fixed(mean, digits) + (f" $\\pm$ {_fixed(error, digits)}" if error is not None else "")


def _fixed(value: float | None, digits: int = 2) -> str:
    """A number with a minus sign that is one; a dash for what is not defined."""
    if value is None:
        return "--"
    text = f"{value:.{digits}f}"
    return f"${text}$" if text.startswith("-") else text
