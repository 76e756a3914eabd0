"""Claims against the runs of a folder: which run answers, on which model, and what is said where there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from checkout import GOLDEN, ROOT

from harness.errors import HarnessError
from harness.files.store import read_json
from harness.plugin.catalogue import Catalogue, catalogue
from harness.plugin.claims import VerdictRule
from harness.plugin.entries import Origin
from harness.plugin.registers import Evidence, Register, Value
from harness.results.claims import ClaimRow, ClaimTable
from harness.running import claims

REGISTRY = claims.registry_of_claims(None)

HEAD = """\
paper: {name: nobody2020, title: Loud Neurons, by: Nobody 2020, url: "https://example.org"}
claims:
"""
LOUDER = """\
  louder:
    says: Loud neurons are louder.
    source: figure 1
    published: {gpt2: twice as loud, phi-2: louder}
    runs: [paper-copying.mean, copying]
    rule: {kind: verdict, measure: entropy_change.entropy_change}
    known: {gpt2: the paper says so}
"""


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    return tmp_path / "reports"


def left(reports: Path, name: str, model: Mapping[str, Any] | None = None, finished: str = "", **fields: Any) -> Path:
    """A finished run of a name, on the bundled model or on one that a loader gives."""
    record = read_json(GOLDEN / "record.json") | {"name": name} | fields
    if model is not None:
        loader = dict(model)
        record["identity"]["components"]["model"] |= {"name": loader.pop("name"), "params": loader}
    folder = reports / f"{name}-{len(list(reports.glob('*')))}"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(record), encoding="utf-8")
    if finished:
        given = dict.fromkeys(("run_id", "command", "started", "python", "platform", "processor"), "")
        provenance = given | {"finished": finished, "wall_seconds": 1, "peak_memory_mib": 1, "threads": 1,
                              "accelerator": None, "packages": {}, "git": None}  # fmt: skip
        (folder / "provenance.json").write_text(json.dumps(provenance), encoding="utf-8")
    return folder


def asked(folder: Path, text: str = LOUDER, **register: Any) -> tuple[list[claims.Paper], Catalogue]:
    path = folder / "claims.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    found = Catalogue()
    found.registers_by[Register(path, **register)] = Origin("nobody", "harness-nobody", "1")
    found.published, found.components = catalogue().published, catalogue().components
    return claims.papers(found, REGISTRY), found


def table(reports: Path, text: str = LOUDER, model: str | None = None, **register: Any) -> ClaimTable:
    papers, found = asked(reports.parent, text, **register)
    return claims.table_of(papers, found, REGISTRY, reports, model)


def only(found: ClaimTable) -> ClaimRow:
    [row] = found.tested
    return row


def test_the_first_run_that_is_there_answers(reports: Path) -> None:
    left(reports, "another")
    second = left(reports, "copying")
    row = only(table(reports))
    assert (row.model, row.judged.outcome, row.known) == ("demo", "confirmed", None)
    assert row.tested_on is not None and (row.tested_on.name, row.tested_on.folder) == ("copying", str(second))
    assert row.tested_on.about == "1,767 prompts, 199 control sets, limit 600"
    assert row.published == "gpt2: twice as loud; phi-2: louder"
    first = left(reports, "paper-copying.mean", broken="all is lost")
    row = only(table(reports))
    assert row.tested_on is not None and row.tested_on.folder == str(first)
    assert row.judged.outcome == "cannot be tested"


def test_of_runs_of_one_name_the_newest_answers(reports: Path) -> None:
    new = left(reports, "copying", finished="2026-02-02T00:00:00Z")
    left(reports, "copying", finished="2026-01-01T00:00:00Z")
    row = only(table(reports))
    assert row.tested_on is not None and row.tested_on.folder == str(new)


def test_every_model_with_a_run_has_a_row_and_the_registrys_name(reports: Path) -> None:
    left(reports, "copying")
    left(reports, "copying", {"name": "hf", "pretrained": "openai-community/gpt2", "device": "cpu"})
    left(reports, "copying", {"name": "hf", "pretrained": "/models/own", "dtype": "float32"})
    found = table(reports)
    assert [(row.model, row.published) for row in found.tested] == [
        ("demo", "gpt2: twice as loud; phi-2: louder"),
        ("gpt2", "twice as loud"),
        ("own", "gpt2: twice as loud; phi-2: louder"),
    ]
    assert only(table(reports, model="gpt2")).model == "gpt2"


def test_what_is_not_run_says_how_to_run_it(reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_REPORTS_DIR", str(reports))
    papers, _ = asked(reports.parent)
    row = only(table(reports))  # nothing is there at all
    assert (row.model, row.judged.outcome, row.command) == ("demo", "not run", "harness run paper-copying.mean")
    row = only(found := table(reports, model="gpt2"))
    assert row.command == "harness run paper-copying.mean --model gpt2"
    assert claims.missing(found, papers) == {"gpt2": ["paper-copying.mean"]}
    on_model = LOUDER.replace("copying]", "copying-gpt2.mean]")
    assert only(table(reports, on_model, model="gpt2")).command == "harness run copying-gpt2.mean"
    monkeypatch.setenv("HARNESS_REPORTS_DIR", "elsewhere")
    assert only(table(reports)).command == f"harness run paper-copying.mean --output_path {reports}"


def test_a_claim_about_certain_models_says_nothing_of_others(reports: Path) -> None:
    left(reports, "copying")
    about = LOUDER + "    models: [gpt2, phi-2]\n"
    assert only(table(reports, about)).judged.why == "wrong model: the claim is about gpt2, phi-2"
    number = LOUDER.replace("kind: verdict", "kind: number, published: {gpt2: 1.5}")
    assert only(table(reports, number)).judged.why == "wrong model: the claim is about gpt2"
    assert only(table(reports, number, model="gpt2")).judged.outcome == "not run"


def test_what_is_missed_and_known_does_not_fail(reports: Path) -> None:
    less = LOUDER.replace("entropy_change.entropy_change", "conversion_ratios.CKCR")
    left(reports, "copying")
    found = table(reports, less)
    assert only(found).judged.outcome == "missed" and found.fails
    left(reports, "copying", {"name": "hf", "pretrained": "openai-community/gpt2"})
    found = table(reports, less, model="gpt2")
    assert only(found).judged.outcome == "missed" and only(found).known == "the paper says so" and not found.fails


def test_what_a_plugins_command_left_is_evidence(reports: Path) -> None:
    def reads(data: Any) -> Evidence | None:
        if data.get("of") != "us":
            return None
        return Evidence("loudness", "openai-community/gpt2", "twice", {"part.iou": Value(0.75, 0.6, 0.9)})

    text = """\
  louder:
    says: Loud neurons are louder.
    source: figure 1
    evidence: loudness
    command: harness loudness --model {model}
    rule: {kind: interval, measure: part.iou, above: 0.5}
"""
    left(reports, "copying")
    row = only(table(reports, text, reads=reads))
    assert (row.model, row.judged.outcome, row.command) == ("demo", "not run", "harness loudness --model demo")
    for name, data in (("a", {"of": "others"}), ("b", {"of": "us"}), ("c", [])):
        (reports / name).mkdir()
        (reports / name / "result.json").write_text(json.dumps(data), encoding="utf-8")
    row = only(table(reports, text, reads=reads))
    assert (row.model, row.judged.outcome) == ("gpt2", "confirmed")
    assert row.tested_on is not None and (row.tested_on.name, row.tested_on.about) == ("loudness", "twice")


def test_what_cannot_be_read_is_passed_over_with_a_note(reports: Path) -> None:
    left(reports, "copying")
    (reports / "damaged").mkdir()
    (reports / "damaged" / "result.json").write_text("{", encoding="utf-8")
    found = table(reports)
    assert only(found).judged.outcome == "confirmed"
    [note] = found.notes
    assert note.startswith(f"passed over {reports / 'damaged' / 'result.json'}")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("copying]", "copyin]", 'claims.louder.runs: .* has no run called "copyin". Did you mean "copying"'),
        ("copying]", "paper-copying]", "paper-copying is 5 runs; name one of them: paper-copying.mean"),
        ("kind: verdict, measure: entropy_change.entropy_change", "kind: selection, lists: {gpt2: gpt2-smal}",
         'claims.louder.rule.lists: there is no list of neurons "gpt2-smal". Did you mean "gpt2-small"'),
    ],
)  # fmt: skip
def test_names_that_there_are_not_are_sentences(reports: Path, old: str, new: str, says: str) -> None:
    reports.mkdir()
    with pytest.raises(HarnessError, match=says):
        table(reports, LOUDER.replace(old, new))


def test_a_measure_that_the_run_does_not_have_is_a_sentence(reports: Path) -> None:
    left(reports, "copying")
    with pytest.raises(HarnessError, match=r'rule.measure: the run copying has no measure "entropy.change". Did you'):
        table(reports, LOUDER.replace("entropy_change.entropy_change", "entropy.change"))


def test_a_paper_is_found_by_its_name(reports: Path) -> None:
    reports.mkdir()
    _, found = asked(reports)
    assert len(claims.papers(found, REGISTRY, "nobody2020")) == 1
    with pytest.raises(HarnessError, match=r'--paper: no paper is called "nobody2021". Did you mean "nobody2020"'):
        claims.papers(found, REGISTRY, "nobody2021")


def test_the_registers_of_all_papers_name_runs_and_lists_that_there_are() -> None:
    found = claims.papers(catalogue(), REGISTRY)
    assert {"stolfo2024", "tighidet2025", "yu2024", "du2025"} <= {paper.claims.paper.name for paper in found}
    models = {*REGISTRY.models, *catalogue().components["model"]}
    for paper in found:
        for claim in paper.claims.claims.values():
            named = {*claim.published, *claim.models, *claim.known, *getattr(claim.rule, "published", ())}
            assert named <= models, claim.says
            assert claim.says.endswith(".") and len(claim.says) <= 120


def test_the_verdicts_that_claims_ask_for_are_those_of_the_runs() -> None:
    """By the committed reports of the bundled model, which list the primary measures of each run."""
    pages = (ROOT / "reports" / "reference").glob("*/runs.json")
    primary = {run["name"]: run["measures"] for page in pages for run in read_json(page)}
    checked = 0
    for paper in claims.papers(catalogue(), REGISTRY):
        for claim in paper.claims.claims.values():
            for run in primary.keys() & claim.runs if isinstance(claim.rule, VerdictRule) and not claim.models else ():
                assert claim.rule.measure in primary[run], claim.says
                checked += 1
    assert checked >= 15
