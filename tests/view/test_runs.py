"""Which runs a folder holds, and what the list says of them: read once, read on, and read otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import Harness

from harness.errors import HarnessError
from harness.results import leaderboard
from harness.results.folder import read_record
from harness.view.listing import Links, data, page
from harness.view.runs import Runs


@pytest.fixture
def folder(reports: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reports, tmp_path / "reports"))


def test_a_run_is_told_by_its_newest_rows(folder: Path, names: list[str]) -> None:
    found = Runs(folder).now()
    assert sorted(found.runs) == sorted(names)
    for name, rows in found.runs.items():
        record = read_record(folder / name)
        assert [(row["metric"], row["measure"], row["value"]) for row in rows] == [
            (x.metric, x.name, x.value) for x in record.primary
        ]


def test_all_measures_are_there_for_whoever_asks(folder: Path, names: list[str]) -> None:
    """What is a finding among the runs stays what it is; without a leaderboard they come from the runs' records."""
    few, every = data(Runs(folder).now()), data(Runs(folder, every=True).now(), every=True)
    assert few["notes"] == every["notes"]
    records = [read_record(folder / run["folder"]) for run in every["runs"]]
    for one, other, record in zip(few["runs"], every["runs"], records, strict=True):
        assert len(one["measures"]) == len(record.primary) < len(other["measures"]) == len(record.measures)
        values = {every["measures"][i]["title"]: found[0] for i, found in other["measures"].items()}
        known = {x.title: x.value for x in record.measures if x.value is not None}
        assert {title: value for title, value in values.items() if value is not None} == pytest.approx(known, rel=1e-3)
    assert [x["primary"] for x in few["measures"]] == [1] * len(few["measures"])
    assert sum(x["primary"] for x in every["measures"]) == len(few["measures"])
    (folder / "leaderboard.jsonl").unlink()
    alone = data(Runs(folder, every=True).now(), every=True)
    assert {**alone, "version": ""} == {**every, "version": ""}


def test_the_leaderboard_is_read_on(folder: Path, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    parse = leaderboard.parse
    monkeypatch.setattr(leaderboard, "parse", lambda path, text: read.append(len(text)) or parse(path, text))
    runs = Runs(folder)
    first = runs.now()
    assert runs.now() is first and len(read) == 1
    path = folder / "leaderboard.jsonl"
    row = next(row for row in leaderboard.read(path) if row["primary"])
    line = json.dumps(row | {"value": 0.125}) + "\n"
    with path.open("a") as file:
        file.write(line[:50])  # a row that is being written
    assert runs.now().runs == first.runs
    with path.open("a") as file:
        file.write(line[50:])
    later = runs.now()
    assert later.version != first.version and read[-1] < len(line) + 1
    changed = next(x for x in later.runs[f"{row['run']}-{row['run_id'][:8]}"] if x["measure"] == row["measure"])
    assert changed["value"] == 0.125


def test_without_its_rows_a_run_is_read_from_its_record(folder: Path) -> None:
    known = data(Runs(folder).now())
    (folder / "leaderboard.jsonl").unlink()
    alone = data(Runs(folder).now())
    assert alone | {"version": ""} == known | {"version": ""}
    (folder / "leaderboard.jsonl").write_text("no row\n")
    damaged = Runs(folder).now()
    assert len(damaged.runs) == 2
    assert "line 1: this is not a leaderboard row. Runs are read one by one instead." in damaged.notes[0]


def test_what_is_not_finished_or_damaged_is_no_run(folder: Path, names: list[str]) -> None:
    (folder / names[0] / "files.sha256").unlink()
    (folder / names[0] / "unfinished").mkdir()
    (folder / "leaderboard.jsonl").unlink()
    (folder / names[1] / "result.json").write_text("{}")
    found = Runs(folder).now()
    assert (found.runs, found.unfinished) == ({}, (names[0],))
    assert len(found.notes) == 1 and names[1] in found.notes[0]
    with pytest.raises(HarnessError, match="cannot be read"):
        Runs(folder / "nowhere").now()


def test_outside_text_stays_text(folder: Path, names: list[str]) -> None:
    """A name ends no element of the page, neither as text nor as data, and turns no line round."""
    path = folder / "leaderboard.jsonl"
    rows = leaderboard.read(path)
    evil = "</script><script>alert(1)</script>\u202e"
    path.write_text("".join(json.dumps(row | {"model": evil, "title": evil}) + "\n" for row in rows))
    text = page(Runs(folder).now(), evil, Links())
    assert "<script>alert" not in text and "\u202e" not in text
    assert text == page(Runs(folder).now(), evil, Links())


def test_the_command_says_what_is_wrong(harness: Harness, folder: Path, names: list[str]) -> None:
    assert harness("view", folder / "nowhere")[::2] == (
        2,
        f"error: {folder}/nowhere: there is no such folder; harness eval and harness run write to reports.\n",
    )
    code, _, err = harness("view", folder / names[0])
    assert (code, str(folder) in err, "this is one run" in err) == (2, True, True)


def test_the_command_ends_as_it_should(harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(server: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.view.server.Server.serve_forever", interrupt)
    code, out, err = harness("view", tmp_path)
    assert code == 0 and out.startswith("http://127.0.0.1:") and len(out.split("/")[3]) >= 16
    assert "no run is finished" in err
