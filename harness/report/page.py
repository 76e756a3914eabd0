"""A run as one self-contained web page: it opens from a file, offline, and loads nothing from anywhere.

Text of models and data is foreign: the template escapes all of it, the script only ever sets text, and the page's
content security policy lets no script run but the page's own, by hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from harness.owned import path_name
from harness.report.numbers import between, cell, control, controls, effect, number, p_value, question, value, verdict
from harness.report.page_charts import histogram
from harness.report.page_data import breakdown, examples, packed_neurons, packed_prompts, read_prompts, read_rows
from harness.results import clean, read_json, write_bytes

NAME = "report.html"

FIGURES_LIMIT = 900_000
"""Bytes of figures in the page; what comes after is named and lies beside it."""

EXAMPLES = 12
"""Prompts that are shown where the script does not run."""

CHARTS = 80
"""Measures whose control distribution is drawn."""

VERDICTS: dict[str, tuple[str, str, str]] = {
    "supported": ("yes", "●", "The selected {units} change this more than random {units} do."),
    "less than random neurons": ("less", "▼", "The selected {units} change this less than random {units} do."),
    "not distinguishable from random neurons": ("no", "○", "Random {units} change this as much."),
    "underpowered": ("unknown", "?", "There is too little data, or there are too few controls, to tell."),
    "model broken": ("broken", "✕", "The treated model no longer does the task: nothing can be concluded."),
}
"""For each verdict its style, a sign (colour alone says nothing to some), and what it means."""


def write_page(folder: Path) -> Path:
    """Write ``report.html`` from the other files of a finished run's folder; returns its path.

    The page is the same bytes whenever these files are. Of the files only ``result.json`` must be there; sections whose
    files are missing are left out.

    Raises:
        HarnessError: a file is missing or damaged, or the page cannot be written.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "p_value": p_value, "cell": cell}
    record = read_json(folder / "result.json")
    context = _context(folder, record)
    context |= _assets(charts=context["neurons"] is not None)
    text = environment.get_template("page.html.j2").render(context)
    path = folder / NAME
    write_bytes(path, (text.strip() + "\n").encode())
    return path


def _context(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the template shows."""
    tables = record["tables"]
    prompts = read_prompts(folder / "samples.jsonl", [name for table in tables for name in table["categories"]])
    provenance = read_json(folder / "provenance.json") if (folder / "provenance.json").is_file() else None
    return {
        "record": record,
        "question": question(record),
        "controls": controls(record),
        "verdicts": _verdicts(record),
        "measures": _measures(record, read_rows(folder / "controls.jsonl")),
        "tables": [_table(table) for table in tables],
        "selected": _selected(record["selection"]),
        "neurons": packed_neurons(read_rows(folder / "neurons.jsonl")),
        "prompts": packed_prompts(prompts) if prompts.ids else None,
        "filters": {name: list(pair) for name, pair in prompts.categories.items()},
        "examples": list(examples(prompts, EXAMPLES)),
        "breakdowns": [breakdown(prompts, name) for name in prompts.groupings],
        "figures": _figures(folder, record["figures"]),
        "frames": [_frame(frame) for frame in record["frames"]],
        "components": _components(record["identity"]["components"]),
        "digests": _digests(record),
        "provenance": provenance,
        "files": [(name, what) for name, what in FILES.items() if (folder / name).exists()],
    }


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


def _verdicts(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The verdicts that were given, each with the measures that it was given to, the telling ones first."""
    units = f"{record['selection']['unit']}s"
    found = []
    for word, (style, sign, meaning) in VERDICTS.items():
        measures = [x for x in record["measures"] if x["primary"] and x.get("verdict") == word]
        if measures:
            said = word.replace("neurons", units)
            meaning = meaning.format(units=units)
            found.append({"word": said, "style": style, "sign": sign, "meaning": meaning, "measures": measures})
    return found


def _measures(record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The measures as text, the primary ones first, with their control distributions."""
    ordered = sorted(record["measures"], key=lambda measure: not measure["primary"])
    found = []
    for i, measure in enumerate(ordered):
        values = [row.get(f"{measure['metric']}.{measure['name']}") for row in rows] if i < CHARTS else []
        word = measure.get("verdict") if measure["primary"] else None
        style, sign, _ = VERDICTS.get(word or "", ("unknown", "", ""))
        baseline = {**measure, "value": measure["baseline"], "count": None}
        found.append(
            {
                "title": measure["title"],
                "description": measure["description"],
                "primary": measure["primary"],
                "value": value(measure),
                "baseline": value(baseline),
                "interval": between(measure, measure["ci_low"], measure["ci_high"]),
                "control": control(measure),
                "effect": effect(measure),
                "p": p_value(measure["p_two_sided"]),
                "p_holm": p_value(measure["p_holm"]) if measure["primary"] else "",
                "verdict": verdict(record, measure) if word else "",
                "style": style,
                "sign": sign,
                "chart": histogram(measure["title"], measure["value"], values, measure["null"], measure["unit"]),
                "order": [measure["value"], measure["effects"]["standardised"], measure["p_two_sided"]],
            }
        )
    return found


def _table(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table of counts with the shares of its rows."""
    rows = []
    for i, (name, counts) in enumerate(zip(table["categories"], table["treated"], strict=True)):
        total = sum(counts)
        means = table["control_mean"][i] if table["control_mean"] is not None else [None] * len(counts)
        cells = [
            {"count": count, "share": 100 * count / total if total else None, "control": mean, "stayed": i == j}
            for j, (count, mean) in enumerate(zip(counts, means, strict=True))
        ]
        rows.append({"name": name, "cells": cells, "total": total})
    totals = [sum(row[j] for row in table["treated"]) for j in range(len(table["categories"]))]
    return {**table, "rows": rows, "totals": totals}


def _selected(selection: Mapping[str, Any]) -> dict[str, Any]:
    """The selected neurons as a table, with the layer's medians as its last row."""
    columns = list(dict.fromkeys(key for neuron in selection["neurons"] for key in neuron))
    rows = [{key: neuron.get(key) for key in columns} for neuron in selection["neurons"]]
    medians = {key.removeprefix("median_"): found for key, found in selection["layer_medians"].items()}
    if medians:
        rows.append({"neuron": "median of all"} | medians)
    return {"columns": columns, "rows": rows}


def _figures(folder: Path, figures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Figures with their pictures, as long as there is room; those that are only named keep their place."""
    room, found = FIGURES_LIMIT, []
    for figure in figures:
        name = path_name(figure["name"], f"{folder / 'result.json'}, figures")
        path = folder / "figures" / f"{name}.png"
        image = base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""
        if len(image) > room:
            image = ""
        room -= len(image)
        size = _png_size(image) if image else (0, 0)
        found.append({**figure, "image": image, "width": size[0] // 2, "height": size[1] // 2})
    return found


def _png_size(image: str) -> tuple[int, int]:
    """Width and height of a PNG in pixels; given before it is decoded, the page does not jump."""
    head = base64.b64decode(image[:64])
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def _frame(frame: Mapping[str, Any]) -> dict[str, Any]:
    rows = frame["rows"] or []
    return {**frame, "columns": list(rows[0]) if rows else [], "rows": rows}


def _components(components: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every component: what it is, where it came from, and the parameters that were in force."""
    listed = [(kind, found) for kind, found in components.items() if kind != "metrics"]
    listed += [("metric", found) for found in components["metrics"]]
    return [
        {
            "kind": kind,
            "name": found["name"],
            "version": found["version"],
            "distribution": f"{found['distribution']} {found['distribution_version']}",
            "params": [
                (key, json.dumps(clean(given), ensure_ascii=False))
                for key, given in found["params"].items()
                if given not in (None, {}, [], "")
            ],
        }
        for kind, found in listed
    ]


def _digests(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    identity = record["identity"]
    model = identity["model"]
    found = [
        ("run", record["run_id"]),
        ("weights", model["weights_sha256"]),
        ("tokenizer", model["tokenizer_sha256"]),
        ("data", identity["data_sha256"]),
        *identity["inputs_sha256"].items(),
    ]
    return [(name, digest) for name, digest in found if digest]


def _assets(charts: bool) -> dict[str, Any]:
    """Style and scripts, and the policy that admits these scripts only; the chart library where there are charts."""
    from markupsafe import Markup

    folder = files("harness.report") / "templates"

    def read(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    library = re.sub(r"\n//# sourceMappingURL=\S+\s*$", "\n", read("chart.umd.min.js"))
    names = ["page.js", *(["page_scatter.js"] if charts else []), "page_prompts.js"]
    scripts = [*([library] if charts else []), "\n".join(map(read, names))]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    policy += "script-src " + " ".join(f"'sha256-{found}'" for found in hashes)
    return {
        "style": Markup(read("page.css")),
        "scripts": [Markup(script) for script in scripts],
        "policy": policy,
    }
