"""The report page: one file that stands alone, holds what the record holds, and runs nothing that a prompt says."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
from golden import golden

from harness.report.markdown import export
from harness.report.page import _verdicts, write_page
from harness.report.page_tables import fitted
from harness.results.measures import Measure
from harness.results.record import RunRecord

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def text_of(page: str) -> str:
    """What a reader sees: no scripts, styles or tags."""
    plain = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.S)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", plain)))


def test_what_is_only_looked_at_changes_nothing(conflict: Path) -> None:
    record = json.loads((conflict / "result.json").read_text(encoding="utf-8"))
    next(measure for measure in record["measures"] if measure["primary"])["verdict"] = "more than random"
    for intervention, said in (("mean", " change this"), ("none", " show this")):
        record["selection"]["intervention"] = intervention
        assert said in _verdicts(RunRecord.read(record, "result.json"))[0]["meaning"]


def test_the_page_is_written_with_the_run_and_stands_alone(conflict: Path) -> None:
    page = (conflict / "report.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 3_000_000
    assert page.startswith("<!doctype html>") and '<html lang="en"' in page
    loaded = re.findall(r'(?:src|href|action)="([^"]*)"', re.sub(r"<script\b.*?</script>", "", page, flags=re.S))
    assert not [target for target in loaded if "//" in target.partition(",")[0]], loaded
    assert "default-src 'none'" in html.unescape(page)


def test_the_page_says_what_the_record_says(conflict: Path) -> None:
    record, seen = json.loads((conflict / "result.json").read_text()), text_of((conflict / "report.html").read_text())
    assert record["selection"]["rule"] in seen
    for measure in record["measures"]:
        assert measure["title"] in seen
        if measure["primary"]:
            assert measure["verdict_sentence"].rstrip(".") in seen
    for row in record["tables"][0]["treated"]:
        assert all(str(count) in seen for count in row)
    assert record["run_id"] in seen and "harness eval --task x" in seen
    for figure in record["figures"]:
        assert figure["title"] in seen


def test_resamples_without_a_value_are_said(conflict: Path, tmp_path: Path) -> None:
    record = json.loads((conflict / "result.json").read_text())
    record["figures"] = []
    record["measures"][0] |= {"title": "A", "ci_low": 0.0, "ci_high": 1.0, "ci_undefined": 7}
    (tmp_path / "result.json").write_text(json.dumps(record))
    for text in (write_page(tmp_path).read_text(), export([tmp_path], tmp_path / "page", "T", "")[0].read_text()):
        assert re.search(r"Note: of at most 2,000 resamples, .* of the interval: .*A, 7", text_of(text))


def test_every_control_set_is_beside_the_record_with_what_it_measured(conflict: Path) -> None:
    record = json.loads((conflict / "result.json").read_text())
    rows = [json.loads(line) for line in (conflict / "controls.jsonl").read_text().splitlines()]
    assert len(rows) == record["controls"]["n"] == 12
    for measure in record["measures"]:
        values = [row[f"{measure['metric']}.{measure['name']}"] for row in rows]
        known = [value for value in values if value is not None]
        if known and measure["controls"]["mean"] is not None:
            assert sum(known) / len(known) == pytest.approx(measure["controls"]["mean"], rel=1e-3, abs=1e-6)


def test_a_task_without_answers_and_tables_has_a_page_too(induction: Path) -> None:
    seen = text_of((induction / "report.html").read_text(encoding="utf-8"))
    assert "Before and after" not in seen
    assert "change of entropy in the repeat" in seen and "Verdict" in seen


def test_the_same_files_give_the_same_page(conflict: Path) -> None:
    before = (conflict / "report.html").read_bytes()
    assert write_page(conflict).read_bytes() == before


def test_nothing_in_a_prompt_becomes_markup_or_script(conflict: Path, tmp_path: Path) -> None:
    folder = tmp_path / "attacked"
    shutil.copytree(conflict, folder)
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for row in rows:
        row["prompt"] = row["answer"] = ATTACK
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = json.loads((folder / "result.json").read_text())
    record["description"] = record["selection"]["rule"] = ATTACK
    (folder / "result.json").write_text(json.dumps(record))
    page = write_page(folder).read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert "<img src=x" not in page and "<script>alert" not in page
    scripts = re.findall(r"<script\b[^>]*>(.*?)</script>", page, re.S)
    assert not any("alert(1)" in script and "</" in script for script in scripts)


def test_vendored_files_are_what_their_note_says() -> None:
    folder = files("harness.report") / "templates"
    note = (folder / "THIRD_PARTY.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `([\w.]+)` .*`([0-9a-f]{64})` \|$", note, re.M)
    assert named and {name for name, _ in named} == {x.name for x in folder.iterdir() if x.name.endswith(".min.js")}
    for name, digest in named:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_verdicts_are_told_from_what_was_found_to_what_was_not() -> None:
    record = RunRecord.read(golden("record.json"), "record.json")
    words = ["no more than d apart", "inconclusive", "less than random", "more than random", "cannot tell"]
    measures = [replace_verdict(record.measures[0], word) for word in words]
    told = _verdicts(record.model_copy(update={"measures": measures}))
    assert [found["word"] for found in told] == [
        "more than random", "less than random", "inconclusive", "cannot tell", "no more than d apart"
    ]  # fmt: skip
    assert [found["kind"] for found in told] == ["Found", "Found", "Not shown", "Not shown", "Shown to be alike"]


def replace_verdict(measure: Measure, word: str) -> Measure:
    return measure.model_copy(update={"primary": True, "verdict": word})


def test_numbers_of_ten_thousand_have_no_places() -> None:
    from harness.report.formatting import amount, between

    assert amount(-84446.7977, "") == "-84,447" and amount(12345.6, "nats") == "+12,346" and amount(2e12, "") == "2e+12"
    assert between(-108618.9446, 0.0082, "") == "-108,619 to 0.0082" and between(1, 2.5, "%") == "1.00 to 2.50"
    assert amount(0.5, "%", 1, 200) == "0.50% (1/200)" and amount(9999.5, "") == "9999.5000"


def test_groups_that_divide_prompts_alike_are_shown_once() -> None:
    from harness.report.page_data import Prompts

    fields = {
        "object": ["a", "a", "b", "b"],
        "parametric_object": ["a", "a", "b", "b"],
        "relation": ["r", "s", "s", "r"],
    }
    assert list(Prompts(list("1234"), list("wxyz"), fields).groupings) == ["object", "relation"]


def test_tables_say_once_what_is_the_same_and_turn_where_they_are_low_and_wide() -> None:
    rows = [{"group": name, "changed": 0, "value": i, "none": None} for i, name in enumerate("abc")]
    found = fitted(list(rows[0]), rows)
    assert found.columns == ["group", "value"] and found.same == "changed 0"
    assert fitted(list(rows[0]), rows[:1]).columns == list(rows[0])  # one row has nothing to be the same as
    wide = [{"neuron": f"3.{i}"} | {f"score_{j}": i + j for j in range(12)} for i in range(3)]
    turned = fitted(list(wide[0]), wide)
    assert turned.columns == ["neuron →", "3.0", "3.1", "3.2"] and len(turned.rows) == 12
    assert turned.rows[2] == {"neuron →": "score 2", "3.0": 2, "3.1": 3, "3.2": 4}
