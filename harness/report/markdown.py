"""Several runs as one Markdown page with their figures: what is committed as a reference, or sent to a colleague."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.files import harmless
from harness.files.owned import Written, path_name
from harness.files.store import check_writable, json_bytes, read_bytes
from harness.files.terminal import say
from harness.report.formatting import (
    amount,
    cell,
    control,
    controls,
    effect,
    interval,
    p_value,
    question,
    undefined,
    value,
    verdict,
)
from harness.report.publishing import publish, refuse_foreign
from harness.results.beside import ControlSet
from harness.results.folder import read_record, read_rows
from harness.results.measures import Measure
from harness.results.on_disk import Values
from harness.results.record import Frame, RunRecord, Selection

PAGE, SUMMARY, LISTING = "README.md", "runs.json", ".harness-page.sha256"


def check(folder: Path) -> None:
    """Find out before the runs are made what would keep their page from being written.

    Raises:
        HarnessError: a page is there that the harness did not write, or the folder cannot be written.
    """
    known = Written.read(folder / LISTING)
    for name in (PAGE, SUMMARY):
        refuse_foreign(folder, name, known)
    check_writable(folder)


def export(runs: Sequence[Path], folder: Path, title: str, description: str) -> tuple[Path, list[str]]:
    """Write ``README.md``, ``runs.json`` and the figures of finished runs to ``folder``, in place of those that an
    earlier export wrote there.

    The page and the pictures are the same bytes whenever the runs are.

    Returns:
        The page, and files of an earlier export that are not removed because they were changed since.

    Raises:
        HarnessError: a record is damaged, a file is in the way that is not ours, or the folder cannot be written.
    """
    from harness.report.figure_files import figure_files
    from harness.report.sweeps import curve, flat, sweeps, trend_table

    records = [read_record(run) for run in runs]
    found, folders = sweeps(records), {record.run_id: run for record, run in zip(records, runs, strict=True)}
    swept = {record.name for sweep in found for record in sweep.records if record.name.startswith(sweep.run)}
    files: dict[str, bytes] = {}
    pages = [_run(run, files, swept) for run in runs]
    _once(pages, files)
    unmoved = [said for sweep in found if (said := flat(sweep))]
    found = [sweep for sweep in found if not flat(sweep)]
    drawn = [curve(sweep) for sweep in found]
    for i, figure in enumerate(drawn):
        if figure.name in [before.name for before in drawn[:i]]:  # two components may have the parameter
            drawn[i] = figure = replace(figure, name=f"{figure.name}-{i + 1}")
        files |= {f"sweeps/{file}": data for file, data in figure_files(figure).items()}
    curves = [
        {
            "title": figure.title,
            "file": harmless.markdown_link(f"sweeps/figures/{figure.name}.png"),
            "parameter": sweep.parameter.rpartition(".")[2],
            "n": len(sweep.records),
            "trend": trend_table(sweep, [_control_sets(folders[record.run_id]) for record in sweep.records]),
        }
        for sweep, figure in zip(found, drawn, strict=True)
    ]
    text = (
        harmless.markdown_environment()
        .get_template("suite.md.j2")
        .render(runs=pages, curves=curves, unmoved=unmoved, title=title, description=description)
    )
    files[SUMMARY] = json_bytes([_summary(page["record"]) for page in pages])
    files[PAGE] = (re.sub(r"\n{3,}", "\n\n", text).strip() + "\n").encode()
    return folder / PAGE, publish(folder, LISTING, files, whole=True)


def write(runs: Sequence[Path], folder: Path, title: str, description: str) -> None:
    """:func:`export`, and say what was written, and what was left."""
    page, kept = export(runs, folder, title, description)
    say(f"wrote {page}", err=True)
    for path in kept:
        say(f"left {folder / path}, of an earlier page: it was changed since", err=True)


def _control_sets(run: Path) -> list[ControlSet]:
    path = run / "controls.jsonl"
    return read_rows(path, ControlSet) if path.exists() else []


def _summary(record: RunRecord) -> dict[str, Any]:
    """What tells whether a page is current: the run's identity and its primary measures, by ``metric.measure``."""
    measures = {
        ".".join(x.key): {"value": x.value, "p_adjusted": x.p_adjusted, "verdict": x.verdict} for x in record.primary
    }
    return {"name": record.name, "run_id": record.run_id, "measures": measures}


def _run(path: Path, files: dict[str, bytes], swept: Collection[str]) -> dict[str, Any]:
    """What the page shows of a run; of runs that are the points of a curve no pictures and tables of their own.

    Args:
        files: its pictures are added, by their paths beside the page.
    """
    record = read_record(path)
    name, model, selection = record.name, record.identity.model, record.selection
    figures = []
    path_name(name, f"{path / 'result.json'}, name")
    for figure in record.figures if name not in swept else ():
        file = path_name(figure.name, f"{path / 'result.json'}, figures") + ".png"
        files[f"{name}/{file}"] = read_bytes(path / "figures" / file)
        link = harmless.markdown_link(f"{name}/{file}")
        figures.append({"title": figure.title, "file": link, "path": f"{name}/{file}", "name": figure.name})
    return {
        "name": name,
        "anchor": harmless.Markup(re.sub(r"[^a-z0-9_-]", "", name.lower())),
        "description": record.description,
        "record": record,
        "question": question(record),
        "model": f"{model.id}, {model.parameters / 1e6:.1f}M parameters, weights {model.weights_sha256[:12]}",
        "treated": selection.intervention != "none",
        "controls": controls(record),
        "selected": ", ".join(chosen.neuron for chosen in selection.neurons),
        "standing": _standing(selection),
        "primary": [_measure(record, measure) for measure in record.primary],
        "rows": [_measure(record, measure) for measure in record.measures],
        "undefined": undefined(record),
        "frames": [_frame(x, x.rows) for x in record.frames if x.rows and name not in swept],
        "figures": figures,
        "repeated": [],
    }


def _once(pages: Sequence[dict[str, Any]], files: dict[str, bytes]) -> None:
    """Pictures that are the same in several runs (of the weights, say, under every value of an ablation) are shown in
    the first of them; the others name it. Takes the rest from ``files`` and from the pages."""
    seen: dict[bytes, dict[str, Any]] = {}
    for page in pages:
        kept = []
        for figure in page["figures"]:
            first = seen.setdefault(files[figure["path"]], page)
            if first is page:
                kept.append(figure)
            else:
                del files[figure["path"]]
                page["repeated"].append({"name": figure["name"], "run": first["name"], "anchor": first["anchor"]})
        page["figures"] = kept


def _measure(record: RunRecord, measure: Measure) -> dict[str, str]:
    return {
        "title": measure.title,
        "baseline": amount(measure.baseline, measure.unit),
        "value": value(measure),
        "interval": interval(measure),
        "control": control(measure),
        "effect": effect(measure),
        "p": p_value(measure.p_two_sided),
        "p_adjusted": p_value(measure.p_adjusted) if measure.primary else "",
        "verdict": verdict(record, measure) if measure.primary else "",
    }


def _standing(selection: Selection) -> str:
    """ "15.3 rho 99%, norm 31%; ..." of the selected units."""
    told = []
    for chosen in selection.neurons:
        percents = [f"{name} {percent:.0f}%" for name, percent in chosen.percentiles.items() if percent is not None]
        told += [f"{chosen.neuron} {', '.join(percents)}"] if percents else []
    return "; ".join(told)


def _frame(frame: Frame, rows: Sequence[Values]) -> dict[str, Any]:
    columns = list(rows[0])
    return {"title": frame.title, "columns": columns, "rows": [[cell(row[x]) for x in columns] for row in rows]}
