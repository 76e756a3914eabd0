"""The committed reference reports are of the code, model and data that are here; `make reference` renews them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from checkout import ROOT
from small_runs import Silent

from harness.files.harmless import markdown
from harness.files.store import digest
from harness.plugin.catalogue import catalogue
from harness.plugin.components import ModelLoader
from harness.report import arena as board
from harness.report.formatting import by_key
from harness.results.arena import read
from harness.running.contest import contest, entries, metric_of
from harness.running.execute import execute, identity_of, plan
from harness.running.registry import load_registry
from harness.testing import demo_model

REFERENCE = ROOT / "reports" / "reference"
SUITES = ["paper-confidence", "paper-context-copying"]
REAL = ["real-gemma", "real-smollm2"]  # whether it is current is asked in tests/real


def test_there_are_reference_reports_of_both_papers_and_of_a_real_model() -> None:
    assert sorted(path.parent.name for path in REFERENCE.glob("*/runs.json")) == [*SUITES, *REAL]


@pytest.mark.parametrize("suite", SUITES)
def test_reference_reports_are_current(suite: str) -> None:
    """A run's identity holds everything that its results depend on, components' versions and data included."""
    specs = load_registry(ROOT / "registry.yaml").find(suite)
    listed = json.loads((REFERENCE / suite / "runs.json").read_text())
    assert [row["name"] for row in listed] == [spec.name for spec in specs], "run `make reference`"
    model = catalogue().components["model"]["demo"](device="cpu").load()  # type: ignore[attr-defined]
    for row, spec in zip(listed, specs, strict=True):
        assert row["run_id"] == digest(identity_of(plan(spec, catalogue()), model)), "run `make reference`"


@pytest.mark.parametrize("suite", [*SUITES, *REAL])
def test_pages_show_every_run_and_every_picture_that_they_name(suite: str) -> None:
    page = (REFERENCE / suite / "README.md").read_text(encoding="utf-8")
    for row in json.loads((REFERENCE / suite / "runs.json").read_text()):
        assert f"## {markdown(row['name'])}\n" in page
        said = re.sub(r"no more than [\d.e-]+[a-z ]*apart", "no more than d apart", page)  # pages say how much d is
        assert all(measure["verdict"] in said for measure in row["measures"].values())
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", page)
    assert pictures and all((REFERENCE / suite / picture).is_file() for picture in pictures)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_a_reference_run_gives_its_numbers_again(tmp_path: Path) -> None:
    name = "confidence-induction-natural"
    [spec] = load_registry(ROOT / "registry.yaml").find(name)
    again = execute(plan(spec, catalogue()), tmp_path, Silent(), "test")  # type: ignore[arg-type]
    [row] = [x for x in json.loads((REFERENCE / "paper-confidence" / "runs.json").read_text()) if x["name"] == name]
    found = {".".join(key): measure for key, measure in by_key(again.record).items()}
    for measure, expected in row["measures"].items():
        assert found[measure].value == pytest.approx(expected["value"], rel=1e-3, abs=1e-5)
        assert found[measure].verdict == expected["verdict"]


def test_the_arenas_board_is_of_its_rows_and_these_are_current() -> None:
    """Rows of the bundled model ask for the runs that they name; weights of planted ones are made by each processor."""
    rows = read([REFERENCE / "arena" / "arena.jsonl"])
    page = (REFERENCE / "arena" / "README.md").read_text(encoding="utf-8")
    assert page == board.markdown(rows, figures=["figures/power.png"]), "run `make reference-arena`"
    assert {row.model for row in rows} >= {"demo", "planted:seed=1", "planted:seed=2"}
    found, model = catalogue(), demo_model()
    for row in (x for x in rows if x.effect and x.model == "demo"):
        asked = contest(found, row.selector, row.model, row.task, row.intervention, row.neutral, **row.settings)
        [spec], [run, *_] = asked.models, row.effect.seeds
        loader = found.build(ModelLoader, spec, "--models")
        [entry] = entries(asked, spec, bool(loader.planted()), loader.corpus is not None, found)
        own = plan(entry.spec(run.seed, metric_of(entry.task, found)), found)
        assert digest(identity_of(own, model)) == run.run_id, "run `make reference-arena`"
