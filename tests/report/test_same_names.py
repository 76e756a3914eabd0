"""Two metrics may each have a measure of one name; no report or export takes the one for the other."""

from __future__ import annotations

import copy
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs

from harness.files.terminal import Terminal
from harness.plugin.catalogue import catalogue
from harness.report import comparison, console, latex, markdown
from harness.report import leaderboard as board
from harness.report.page import write_page
from harness.report.sweeps import curve, sweeps
from harness.results.compare import compare
from harness.results.folder import read_provenance, read_record
from harness.results.leaderboard import rows_of
from harness.results.leaderboard_query import Query, query_rows

OWN, TWIN = "conversion_ratios", "twin"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, conflict_run: Path) -> list[Path]:
    """Three runs that differ in one number; beside GTS they have another metric's GTS, of 11%, 12% and 13%."""
    folder = tmp_path_factory.mktemp("runs")
    return [twin(conflict_run, folder / f"matrix.{top}", top) for top in (1, 2, 3)]


def twin(made: Path, folder: Path, top: int) -> Path:
    record = copy.deepcopy(small_runs.record(made))
    record |= {"name": folder.name, "run_id": f"{top:064d}"}
    components = record["identity"]["components"]
    components["selector"]["params"]["top"] = top
    [metric] = [x for x in components["metrics"] if x["name"] == OWN]
    components["metrics"].append({**metric, "name": TWIN})
    [measure] = [x for x in record["measures"] if x["name"] == "GTS"]
    own = {"metric": TWIN, "value": 10.0 + top, "p_two_sided": 0.9, "p_adjusted": 0.9, "p_bh": 0.9, "quantile": 40.0}
    record["measures"].append({**measure, **own, "count": None})
    folder.mkdir(parents=True)
    for path in made.iterdir():
        if path.is_file() and path.name not in ("result.json", "report.html"):
            (folder / path.name).symlink_to(path)
    for name in ("figures", "tables"):
        (folder / name).symlink_to(made / name)
    record["figures"] = []
    (folder / "result.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def values(run: Path) -> dict[str, Any]:
    return {x["metric"]: x["value"] for x in small_runs.record(run)["measures"] if x["name"] == "GTS"}


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_a_curve_has_both(runs: list[Path]) -> None:
    [sweep] = sweeps([read_record(run) for run in runs])
    figure = curve(sweep)
    data = figure.data
    found = [
        (metric, value)
        for metric, name, value in zip(data["metric"], data["measure"], data["value"], strict=True)
        if name == "GTS"
    ]
    assert found == [(TWIN, values(run)[TWIN]) for run in runs]  # the other's is the same in all: told, not drawn
    assert "The same in every run and not drawn: " in figure.title and "global transition score" in figure.title


def test_runs_of_other_metrics_are_a_curve_of_what_they_share(runs: list[Path]) -> None:
    first, second, third = (read_record(run) for run in runs)
    fewer = [measure for measure in second.measures if measure.metric == TWIN]
    [sweep] = sweeps([first, second.model_copy(update={"measures": fewer}), third])
    assert set(curve(sweep).data["metric"]) == {TWIN}
    assert sweeps([first, second.model_copy(update={"measures": []}), third]) == []


def test_latex_tables_have_both(runs: list[Path], tmp_path: Path) -> None:
    latex.export(runs, tmp_path)
    for metric in (OWN, TWIN):
        rows = table(tmp_path / f"across-{metric}-GTS.csv")
        assert [float(row["value"]) for row in rows] == [values(run)[metric] for run in runs]
        assert f"metric {metric}".replace("_", r"\_") in (tmp_path / f"across-{metric}-GTS.tex").read_text()
    assert not (tmp_path / "across-GTS.tex").exists() and (tmp_path / "across-CKCR.tex").exists()
    rows = [row for row in table(tmp_path / "matrix.1-measures.csv") if row["name"] == "GTS"]
    assert {row["metric"]: float(row["value"]) for row in rows} == values(runs[0])


def test_the_markdown_page_and_its_summary_have_both(runs: list[Path], tmp_path: Path) -> None:
    page, _ = markdown.export(runs, tmp_path, "T", "")
    for run, summary in zip(runs, json.loads((tmp_path / "runs.json").read_text()), strict=True):
        assert {x: summary["measures"][f"{x}.GTS"]["value"] for x in (OWN, TWIN)} == values(run)
    text = page.read_text(encoding="utf-8")
    assert all(f"{value:.2f}%" in text for run in runs for value in values(run).values())


def test_console_and_page_have_both(runs: list[Path]) -> None:
    screen = Terminal(file=io.StringIO(), width=200)
    console.show(screen, read_record(runs[0]), runs[0])
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    page = write_page(runs[0]).read_text(encoding="utf-8")
    assert all(f"{value:.2f}%" in shown for value in values(runs[0]).values() for shown in (text, page))


def test_the_leaderboard_has_both(runs: list[Path]) -> None:
    rows = [row for run in runs for row in rows_of(read_record(run), read_provenance(run))]
    found = query_rows(rows, Query(measures=["GTS"], sort="metric")).rows
    assert [(row["metric"], row["value"]) for row in found] == [
        (metric, values(run)[metric]) for metric in (OWN, TWIN) for run in runs
    ]
    assert len({row["row_id"] for row in rows}) == len(rows)
    assert len(board.csv_text(found, ["metric", "measure", "value"]).splitlines()) == 7


def test_a_comparison_has_both(runs: list[Path]) -> None:
    found = compare(runs[:2], catalogue(), resamples=100)
    rows = [row for row in found.measures if row.name == "GTS"]
    assert {row.metric: row.runs[1] and row.runs[1].value for row in rows} == values(runs[1])
    assert {row.metric: row.differences[0] and row.differences[0].paired for row in rows} == {OWN: True, TWIN: False}
    data = [row for row in csv.DictReader(io.StringIO(comparison.csv_text(found))) if row["measure"] == "GTS"]
    assert np.allclose([float(row["value"]) for row in data], [values(run)[x] for x in (OWN, TWIN) for run in runs[:2]])
