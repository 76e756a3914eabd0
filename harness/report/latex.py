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
from typing import Any

from harness.errors import HarnessError
from harness.files.harmless import latex as escape
from harness.files.owned import Written, path_name
from harness.files.store import check_writable
from harness.files.wording import counted
from harness.plugin.catalogue import catalogue
from harness.plugin.components import Metric
from harness.plugin.records import Matrix
from harness.report.figure_files import csv_bytes
from harness.report.formatting import chosen, p_value
from harness.report.publishing import publish
from harness.results.folder import read_record
from harness.results.measures import Measure
from harness.results.on_disk import Values
from harness.results.record import Frame, RunRecord

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


def check(folder: Path) -> None:
    """Find out before the runs are made what would keep their tables from being written.

    Raises:
        HarnessError: the folder cannot be written, or its list of written files is none.
    """
    Written.read(folder / LISTING)
    check_writable(folder)


def export(runs: Sequence[Path], folder: Path) -> tuple[Path, ...]:
    """Write the tables of finished runs (their folders) to ``folder``; returns the ``.tex`` files.

    The same runs give the same bytes. A document that inputs a table needs ``\\usepackage{booktabs}``. Tables of other
    runs stay.

    Raises:
        HarnessError: a record is missing or damaged, a file is in the way that is not ours, or the folder cannot be
            written.
    """
    records = [read_record(run) for run in runs]
    names = Counter(record.name for record in records)
    stems = [x.name if names[x.name] == 1 else run.resolve().name for x, run in zip(records, runs, strict=True)]
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


def _of_run(record: RunRecord, stem: str) -> list[TexTable]:
    layouts = _layouts(record)
    found = [_matrix(record, layouts[x.name], x, x.rows, stem) for x in record.frames if x.name in layouts and x.rows]
    return [*found, _measures(record, stem)]


def _layouts(record: RunRecord) -> dict[str, Matrix]:
    """How the run's metrics want their tables set, by the tables' names."""
    metrics = catalogue().of(Metric)
    named = [metrics.get(metric.name) for metric in record.identity.components.metrics]
    return {name: layout for cls in named if cls for name, layout in cls.layouts.items()}


def _about(record: RunRecord) -> str:
    """What was done, for captions."""
    return escape(
        f"{record.identity.model.id}, {chosen(record)} under {record.selection.intervention_title}, "
        f"{counted(record.task.n_prompts, 'prompt', ',')}, {counted(record.controls.n, 'random control')}"
    )


def _matrix(record: RunRecord, layout: Matrix, frame: Frame, cells: Sequence[Values], stem: str) -> TexTable:
    """A square table of cells, as its metric declares.

    Raises:
        HarnessError: the frame has no row for each cell, or lacks a column that the layout names.
    """
    columns = (layout.row, layout.column, layout.share, layout.count, layout.mean, layout.error)
    if missing := [column for column in columns if column not in cells[0]]:
        raise HarnessError(
            f"{stem}: the layout {layout.name} wants the column {missing[0]} of the table {frame.name}, which has "
            f"{', '.join(cells[0])}."
        )
    found = {(cell[layout.row], cell[layout.column]): cell for cell in cells}
    categories = list(dict.fromkeys(cell[layout.row] for cell in cells))
    if set(found) != set(product(categories, repeat=2)):
        raise HarnessError(f"{stem}: the table {frame.name} is not square, as the layout {layout.name} wants it.")
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


def _measures(record: RunRecord, stem: str) -> TexTable:
    measures = record.primary
    rows = [
        [
            escape(f"{measure.title} ({measure.unit})"),
            _value(measure),
            _interval(measure),
            _spread(*_control(measure), digits=_digits(measure)),
            _fixed(measure.quantile, 1),
            p_value(measure.p_two_sided),
            p_value(measure.p_adjusted),
        ]
        for measure in measures
    ]
    header = ["Measure", "Treated", "95\\% interval", "Controls", "Quantile", "$p$", "$p$ (adj.)"]
    data = _columns(
        measures, "metric", "name", "title", "unit", "value", "count", "denominator", "ci_low", "ci_high"
    )  # fmt: skip
    data |= {
        "control_mean": [_control(measure)[0] for measure in measures],
        "control_standard_error": [_control(measure)[1] for measure in measures],
    }
    data |= _columns(measures, "quantile", "p_two_sided", "p_adjusted", "p_holm", "verdict")
    caption = (
        "Treated neurons beside the controls (mean $\\pm$ standard error); $p$ adjusted over these measures "
        f"(Westfall--Young, step-down). {_about(record)}."
    )
    return TexTable(f"{stem}-measures", caption, "l" + "r" * 6, header, rows, data)


def _columns(measures: Sequence[Measure], *names: str) -> dict[str, list[Any]]:
    """Fields of measures as columns."""
    rows = [measure.model_dump(include=set(names)) for measure in measures]
    return {name: [row[name] for row in rows] for name in names}


def _across(records: Sequence[RunRecord], stems: Sequence[str]) -> list[TexTable]:
    """One table for each primary measure that all runs have."""
    labels = _labels(records)
    models = [record.identity.model.id for record in records]
    if len(set(zip(labels, models, strict=True))) < len(records):  # they differ in something that labels do not show
        labels = list(stems)
    found = [{measure.key: measure for measure in record.primary} for record in records]
    shared = [key for key in found[0] if all(key in measures for measures in found)]
    names = Counter(name for _, name in shared)
    tables = []
    for key in shared:
        first, measures = found[0][key], [of_run[key] for of_run in found]
        cells = {
            place: f"{_fixed(measure.value, _digits(first))} ({_fixed(measure.quantile, 1)})"
            for place, measure in zip(zip(labels, models, strict=True), measures, strict=True)
        }
        columns = list(dict.fromkeys(models))
        rows = [[escape(row), *(cells.get((row, x), "--") for x in columns)] for row in dict.fromkeys(labels)]
        data: dict[str, list[Any]] = {"run": list(stems), "model": models, "setting": labels}
        data |= _columns(measures, "value", "ci_low", "ci_high", "quantile", "p_two_sided")
        metric, name = key
        of = "" if names[name] == 1 else f", metric {metric}"
        about = escape(f"{first.title[:1].upper()}{first.title[1:]} ({first.unit}{of})")
        caption = f"{about} with its quantile among the random controls in brackets."
        header = ["", *map(escape, columns)]
        stem = name if names[name] == 1 else f"{metric}-{name}"
        tables.append(TexTable(f"across-{stem}", caption, "l" + "r" * len(columns), header, rows, data))
    return tables


def _labels(records: Sequence[RunRecord]) -> list[str]:
    """What tells runs apart beside the model: components by name, with those parameters that differ."""
    parts: list[list[str]] = [[] for _ in records]
    for kind in VARIED:
        components = [record.identity.components.by_kind()[kind] for record in records]
        if all(x.name == components[0].name and x.params == components[0].params for x in components):
            continue
        for part, component in zip(parts, components, strict=True):
            alike = [x.params for x in components if x.name == component.name]
            varied = [key for key in component.params if any(x[key] != alike[0][key] for x in alike)]
            settings = ", ".join(f"{key}={component.params[key]}" for key in varied)
            part.append(f"{component.name} ({settings})" if settings else component.name)
    for name, values in (
        ("match", [record.controls.match for record in records]),
        ("seed", [str(record.identity.seed) for record in records]),
        ("limit", [str(record.identity.limit or "none") for record in records]),
    ):
        for part, value in zip(parts, values, strict=True):
            part += [f"{name} {value}"] if len(set(values)) > 1 else []
    whole = [", ".join(part) for part in parts]
    return whole if any(whole) else [record.identity.components.intervention.name for record in records]


def _digits(measure: Measure) -> int:
    return 2 if measure.unit == "%" else 4


def _value(measure: Measure) -> str:
    counts = "" if measure.count is None else f" ({measure.count:,.0f}/{measure.denominator:,.0f})"
    return _fixed(measure.value, _digits(measure)) + counts


def _interval(measure: Measure) -> str:
    low, high = (_fixed(end, _digits(measure)) for end in (measure.ci_low, measure.ci_high))
    return "--" if measure.ci_low is None else f"[{low}, {high}]"


def _control(measure: Measure) -> tuple[float | None, float | None]:
    """Mean of the controls and its standard error."""
    found = measure.controls
    return (None, None) if found is None else (found.mean, found.standard_error)


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
