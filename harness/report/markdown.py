"""Several runs as one Markdown page with their figures: what is committed as a reference, or sent to a colleague."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.report.numbers import between, cell, control, controls, effect, p_value, question, value, verdict
from harness.results import read_json, write_bytes, write_json, writing


def export(runs: Sequence[Path], folder: Path, title: str, description: str) -> Path:
    """Write ``README.md``, ``runs.json`` and the figures of finished runs to ``folder``; returns the page.

    The page and the pictures are the same bytes whenever the runs are.

    Raises:
        HarnessError: a record is damaged, or the folder cannot be written.
    """
    import jinja2

    from harness.report.figures import write_shown
    from harness.report.sweeps import curve, sweeps

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report"), trim_blocks=False, keep_trailing_newline=True, autoescape=False
    )
    found = sweeps([read_json(run / "result.json") for run in runs])
    swept = {record["name"] for sweep in found for record in sweep.records if record["name"].startswith(sweep.run)}
    pages = [_run(run, folder, swept) for run in runs]
    drawn = [curve(sweep) for sweep in found]
    with writing(folder):
        shutil.rmtree(folder / "sweeps", ignore_errors=True)
    if drawn:
        write_shown(folder / "sweeps", drawn)
    curves = [{"title": _cell(x.title), "file": f"sweeps/figures/{x.name}.png"} for x in drawn]
    text = environment.get_template("suite.md.j2").render(
        runs=pages, curves=curves, title=title, description=description
    )
    write_json(folder / "runs.json", [_summary(page["record"]) for page in pages])
    page = folder / "README.md"
    write_bytes(page, (re.sub(r"\n{3,}", "\n\n", text).strip() + "\n").encode())
    return page


def _summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """What tells whether a page is current: the run's identity and its primary measures."""
    keys = ("value", "p_holm", "verdict")
    measures = {m["name"]: {key: m[key] for key in keys} for m in record["measures"] if m["primary"]}
    return {"name": record["name"], "run_id": record["run_id"], "measures": measures}


def _run(path: Path, folder: Path, swept: Collection[str]) -> dict[str, Any]:
    """What the page shows of a run; of runs that are the points of a curve no pictures and tables of their own."""
    record = read_json(path / "result.json")
    name, model, selection = record["name"], record["identity"]["model"], record["selection"]
    figures = []
    with writing(folder):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
        for figure in record["figures"] if name not in swept else ():
            file = f"{figure['name']}.png"
            shutil.copyfile(path / "figures" / file, folder / name / file)
            figures.append({"title": _cell(figure["title"]), "file": f"{name}/{file}"})
    return {
        "name": name,
        "anchor": re.sub(r"[^a-z0-9_-]", "", name.lower()),
        "description": record["description"],
        "record": record,
        "question": question(record),
        "model": f"{model['id']}, {model['parameters'] / 1e6:.1f}M parameters, weights {model['weights_sha256'][:12]}",
        "treated": selection["intervention"] != "none",
        "controls": controls(record),
        "selected": ", ".join(unit["neuron"] for unit in selection["neurons"]),
        "primary": [_measure(record, measure) for measure in record["measures"] if measure["primary"]],
        "rows": [_measure(record, measure) for measure in record["measures"]],
        "frames": [_frame(frame) for frame in record["frames"] if frame["rows"] and name not in swept],
        "figures": figures,
    }


def _measure(record: Mapping[str, Any], measure: Mapping[str, Any]) -> dict[str, str]:
    return {
        "title": _cell(measure["title"]),
        "baseline": "-"
        if measure["baseline"] is None
        else value({**measure, "value": measure["baseline"], "count": None}),
        "value": value(measure),
        "interval": between(measure, measure["ci_low"], measure["ci_high"]),
        "control": control(measure),
        "effect": effect(measure),
        "p": p_value(measure["p_two_sided"]),
        "p_holm": p_value(measure["p_holm"]) if measure["primary"] else "",
        "verdict": verdict(record, measure) if measure["primary"] else "",
    }


def _frame(frame: Mapping[str, Any]) -> dict[str, Any]:
    columns = list(frame["rows"][0])
    return {
        "title": frame["title"],
        "columns": columns,
        "rows": [[cell(row[x]) for x in columns] for row in frame["rows"]],
    }


def _cell(text: str) -> str:
    """Text that may stand in a table."""
    return text.replace("|", "\\|").replace("\n", " ")
