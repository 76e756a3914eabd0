"""A run as one self-contained web page: it opens from a file, offline, and loads nothing from anywhere.

Text of models and data is foreign: the template escapes all of it, the script only ever sets text, and the page's
content security policy lets no script run but the page's own, by hash.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from harness.files import harmless
from harness.files.store import clean, write_bytes
from harness.files.wording import agree, noun_for, plural
from harness.report.certainty import COLUMNS, EXPLAINED, certainty
from harness.report.formatting import (
    amount,
    cell,
    control,
    controls,
    effect,
    interval,
    mlp_width,
    number,
    p_value,
    question,
    stands,
    undefined,
    value,
    verdict,
)
from harness.report.page_assets import assets, pictures
from harness.report.page_charts import histogram
from harness.report.page_data import breakdown, examples, notes_on, packed_neurons, packed_prompts, read_prompts
from harness.report.page_tables import ShownTable, fitted
from harness.report.places import names
from harness.report.table_tests import CLASSICAL, by_items, classical, moved
from harness.results.beside import Candidate, ControlSet, Row
from harness.results.folder import PROVENANCE, read_provenance, read_record, read_rows
from harness.results.measures import Measure
from harness.results.record import Components, Frame, RunRecord, Selection, Table

RowT = TypeVar("RowT", bound=Row)

NAME = "report.html"

EXAMPLES = 12
"""Prompts that are shown where the script does not run."""

CHARTS = 80
"""Measures whose control distribution is drawn."""

FOUND, OPEN, ALIKE = "Found", "Not shown", "Shown to be alike"
"""What kinds of verdicts there are, in the order in which a page tells them."""

VERDICTS: dict[str, tuple[str, str, str, str]] = {
    "more than random": (FOUND, "yes", "●", "The selected {selected} this more than random {units} do."),
    "less than random": (FOUND, "less", "▼", "The selected {selected} this less than random {units} do."),
    "opposite direction": (
        FOUND, "less", "⇄", "The selected {selected} this in the other direction than random {units} do."
    ),
    "inconclusive": (
        OPEN, "unknown", "○",
        "Whether the selected {selected} this more or less than random {units} is open: no effect is shown, and none "
        "is ruled out.",
    ),
    "cannot tell": (OPEN, "unknown", "?", "These controls, or these data, cannot tell."),
    "no more than d apart": (
        ALIKE, "no", "≈", "The selected {selected} this as random {units} do: a difference of more than d is ruled out."
    ),
    "model broken": (OPEN, "broken", "✕", "The treated model no longer does the task: nothing can be concluded."),
}  # fmt: skip
"""For each verdict its kind, its style, a sign (colour alone says nothing to some), and what it means."""


def write_page(folder: Path) -> Path:
    """Write ``report.html`` from the other files of a finished run's folder; returns its path.

    Raises:
        HarnessError: a file is missing or damaged, or the page cannot be written.
    """
    path = folder / NAME
    write_bytes(path, html(folder).encode())
    return path


def html(folder: Path) -> str:
    """The page about a finished run, from the files of its folder, and the same whenever these are.

    Of the files only ``result.json`` must be there; sections whose files are missing are left out.

    Raises:
        HarnessError: a file is missing or damaged.
    """
    environment = harmless.html_environment()
    environment.globals["mlp_width"] = mlp_width
    environment.filters |= {"number": number, "p_value": p_value, "cell": cell}
    record = read_record(folder)
    context = _context(folder, record)
    charts = context["neurons"] is not None
    context |= carried(charts)
    return environment.get_template("page.html.j2").render(context).strip() + "\n"


def carried(charts: bool) -> dict[str, Any]:
    """What the page carries with it (:func:`harness.report.page_assets.assets`), with the plot of scores or without."""
    return assets("page_histograms.js", *(["page_scatter.js"] if charts else []), "page_prompts.js", charts=charts)


def _context(folder: Path, record: RunRecord) -> dict[str, Any]:
    """Everything that the template shows."""
    tables = record.tables
    prompts = read_prompts(folder / "samples.jsonl", [name for table in tables for name in table.categories])
    provenance = read_provenance(folder) if (folder / PROVENANCE).is_file() else None
    return {
        "record": record,
        "question": question(record),
        "controls": controls(record),
        "verdicts": _verdicts(record),
        "measures": _measures(record, _rows(folder / "controls.jsonl", ControlSet)),
        "undefined": undefined(record),
        "tables": [_table(table) for table in tables],
        "classical_tests": CLASSICAL,
        "certainty": certainty(record),
        "certainty_columns": COLUMNS,
        "certainty_explained": EXPLAINED,
        "selected": _selected(record.selection),
        "neurons": packed_neurons(_rows(folder / "neurons.jsonl", Candidate), notes_on(record.frames, names())),
        "prompts": packed_prompts(prompts) if prompts.ids else None,
        "filters": {name: list(pair) for name, pair in prompts.categories.items()},
        "examples": list(examples(prompts, EXAMPLES)),
        "breakdowns": [breakdown(prompts, name) for name in prompts.groupings],
        "figures": pictures(folder, record.figures),
        "frames": [_frame(frame) for frame in record.frames],
        "components": _components(record.identity.components),
        "digests": _digests(record),
        "provenance": provenance,
        "files": [(name, what) for name, what in FILES.items() if (folder / name).exists()],
    }


def _rows(path: Path, cls: type[RowT]) -> list[RowT]:
    """The rows of a file; none where it is not there."""
    return read_rows(path, cls) if path.is_file() else []


FILES = {
    "result.json": "every number of this page",
    "samples.jsonl": "each prompt before and after",
    "neurons.jsonl": "the scores of every candidate",
    "controls.jsonl": "every control set and what it measured",
    "outcomes.safetensors": "every prompt under every condition",
    "provenance.json": "when, where, how long, with which versions",
    "figures": "figures as PNG and SVG, with their data",
    "tables": "tables as CSV",
}


def _verdicts(record: RunRecord) -> list[dict[str, Any]]:
    """The verdicts that were given, each with the measures that it was given to, the telling ones first."""
    selection = record.selection
    n, unit = len(selection.neurons), selection.unit
    does = "show" if selection.intervention == "none" else "change"
    units, selected = plural(unit), f"{noun_for(n, unit)} {agree(n, f'{does}s', does)}"
    found = []
    for word, (kind, style, sign, meaning) in VERDICTS.items():
        measures = [measure for measure in record.primary if measure.verdict == word]
        if measures:
            said = f"exploratory: {word}" if record.exploratory else word
            meaning = meaning.format(units=units, selected=selected)
            rows = [
                (x.title, _unit(x), value(x), control(x), p_value(x.p_adjusted), x.verdict_sentence) for x in measures
            ]
            found.append({"kind": kind, "word": said, "style": style, "sign": sign, "meaning": meaning, "rows": rows})
    return found


def _unit(measure: Measure) -> str:
    """In brackets, where the numbers do not show it."""
    return "" if measure.unit in ("", "%", "share") else f" ({measure.unit})"


def _measures(record: RunRecord, rows: Sequence[ControlSet]) -> list[dict[str, Any]]:
    """The measures as text, the primary ones first, with their control distributions."""
    ordered = sorted(record.measures, key=lambda measure: not measure.primary)
    found = []
    for i, measure in enumerate(ordered):
        values = [row.columns.get(".".join(measure.key)) for row in rows] if i < CHARTS else []
        word = measure.verdict if measure.primary else None
        _, style, sign, _ = VERDICTS.get(word or "", ("", "unknown", "", ""))
        found.append(
            {
                "title": measure.title,
                "description": measure.description,
                "primary": measure.primary,
                "value": value(measure),
                "baseline": amount(measure.baseline, measure.unit),
                "interval": interval(measure),
                "control": control(measure),
                "effect": effect(measure),
                "p": p_value(measure.p_two_sided),
                "p_adjusted": p_value(measure.p_adjusted) if measure.primary else "",
                "p_holm": p_value(measure.p_holm) if measure.primary else "",
                "verdict": verdict(record, measure) if word else "",
                "style": style,
                "sign": sign,
                "chart": histogram(measure.title, measure.value, values, measure.null, measure.unit),
                "order": [measure.value, measure.effects.standardised, measure.p_two_sided],
            }
        )
    return found


def _table(table: Table) -> dict[str, Any]:
    """A table of counts with the shares of its rows."""
    rows = []
    for i, (name, counts) in enumerate(zip(table.categories, table.treated, strict=True)):
        total = sum(counts)
        means = table.control_mean[i] if table.control_mean is not None else [None] * len(counts)
        cells = [
            {"count": count, "share": 100 * count / total if total else None, "control": mean, "stayed": i == j}
            for j, (count, mean) in enumerate(zip(counts, means, strict=True))
        ]
        rows.append({"name": name, "cells": cells, "total": total})
    tests = table.tests and {
        "moved": moved(table.tests),
        "by_items": list(by_items(table, table.tests)),
        "classical": list(classical(table, table.tests)),
        "note": table.tests.note,
    }
    return {
        "title": table.title,
        "categories": table.categories,
        "control_mean": table.control_mean,
        "rows": rows,
        "totals": [sum(row[j] for row in table.treated) for j in range(len(table.categories))],
        "tests": tests,
    }


def _selected(selection: Selection) -> ShownTable:
    """The selected units as a table: scores with where they stand, and the median scores as its last row."""
    unit, rows = selection.unit, []
    for chosen in selection.neurons:
        row = {unit: chosen.neuron} | {name: stands(chosen, name) for name in chosen.scores} | chosen.state
        if chosen.ordinary_in:
            row["ordinary_in"] = ", ".join(chosen.ordinary_in)
        rows.append(row)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if selection.scores:
        medians = {name: number(selection.layer_medians[f"median_{name}"]) for name in selection.scores}
        rows.append(dict.fromkeys(columns, "") | {unit: "median of all"} | medians)
    return fitted(columns, rows, [*selection.scores])


def _frame(frame: Frame) -> dict[str, Any]:
    rows = frame.rows or []
    return {
        "name": frame.name,
        "title": frame.title,
        "n": frame.n,
        "table": fitted(list(rows[0] if rows else ()), rows),
    }


def _components(components: Components) -> list[dict[str, Any]]:
    """Every component: what it is, where it came from, and the parameters that were in force."""
    return [
        {
            "kind": kind,
            "name": found.name,
            "version": found.version,
            "distribution": f"{found.distribution} {found.distribution_version}",
            "params": [
                (key, json.dumps(clean(given), ensure_ascii=False))
                for key, given in found.params.items()
                if given not in (None, {}, [], "")
            ],
        }
        for kind, found in (*components.by_kind().items(), *(("metric", metric) for metric in components.metrics))
    ]


def _digests(record: RunRecord) -> list[tuple[str, str]]:
    identity = record.identity
    found = [
        ("run", record.run_id),
        ("weights", identity.model.weights_sha256),
        ("tokenizer", identity.model.tokenizer_sha256),
        ("data", identity.data_sha256),
        *identity.inputs_sha256.items(),
    ]
    return [(name, digest) for name, digest in found if digest]
