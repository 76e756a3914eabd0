"""``harness claims`` from the outside: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from checkout import GOLDEN
from commands import Harness

from harness.files.store import read_json

if TYPE_CHECKING:
    from harness.running.execute import Finished
    from harness.running.plan import Plan
    from harness.running.spec import RunSpec


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """A reports folder with one run of the main question on the bundled model, which answers it with no."""
    record = read_json(GOLDEN / "record.json") | {"name": "copying"}
    (tmp_path / "copying-1").mkdir()
    (tmp_path / "copying-1" / "result.json").write_text(json.dumps(record), encoding="utf-8")
    return tmp_path


def test_a_missed_claim_is_exit_code_one(harness: Harness, reports: Path) -> None:
    code, out, err = harness("claims", "--paper", "tighidet2025", "-o", reports)
    assert (code, err) == (1, "")
    assert "missed: less than random" in out and "not run: harness run paper-copying.median" in out
    assert "Stuart-Maxwell" in out and "No model is run." in out


def test_what_nobody_has_run_is_not_missed_and_what_is_known_neither(harness: Harness, tmp_path: Path) -> None:
    code, out, _ = harness("claims", "--model", "smollm2-135m-instruct", "-o", tmp_path, "--format", "json")
    data = json.loads(out)
    assert code == 0 and {row["judged"]["outcome"] for row in data["tested"]} == {"not run", "cannot be tested"}
    commands = {row["claim"]: row.get("command") for row in data["tested"]}
    assert commands["copies-more"] == f"harness run real-copying --output_path {tmp_path}"
    on_model = f"harness run confidence-null --model smollm2-135m-instruct --output_path {tmp_path}"
    assert commands["random-not-mediated"] == on_model
    assert commands["refusal-acts"].startswith("harness compare --base BASE --tuned smollm2-135m-instruct ")
    assert {row["known"] for row in data["recounted"] if row["judged"]["outcome"] == "missed"} == {
        "the authors' code computes it with the function of the memory ratio",
        "the published ratio counts the prompts that turn to the context and not those that turn away",
    }


def test_data_are_whole_and_a_files_ending_is_its_format(harness: Harness, reports: Path) -> None:
    code, out, _ = harness("claims", "--paper", "tighidet2025", "-o", reports, "--format", "json")
    data = json.loads(out)
    assert code == 1 and data["models"] == ["demo"]
    [row] = [x for x in data["tested"] if x["claim"] == "copies-more"]
    assert row["judged"]["outcome"] == "missed" and row["tested_on"]["name"] == "copying"
    for ending, begins in (("md", "# Which claims hold"), ("html", "<!doctype html>"), ("json", "{")):
        path = reports / f"claims.{ending}"
        assert harness("claims", "--paper", "tighidet2025", "-o", reports, "--out", path)[0] == 1
        assert path.read_text(encoding="utf-8").startswith(begins)


def test_mistakes_are_sentences_and_exit_code_two(harness: Harness, tmp_path: Path) -> None:
    for arguments, says in (
        (("--paper", "stolfo2025"), '--paper: no paper is called "stolfo2025". Did you mean "stolfo2024"'),
        (("--model", "smolm2"), '--model: "smolm2" is no loader, no model of the registry and no folder.'),
        (("--format", "markdwn"), 'got "markdwn". Did you mean "markdown"'),
    ):
        code, out, err = harness("claims", *arguments, "-o", tmp_path)
        assert (code, out) == (2, "") and says in err and "\n" not in err.strip()


def test_run_makes_what_is_missing_first(harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which runs are asked for, of what; that they are made is for the tests of runs."""
    made: list[tuple[list[str], set[str], set[object]]] = []

    def make(specs: list[RunSpec], *_: object, **how: object) -> list[object]:
        made.append(([x.name for x in specs], {str(x.model) for x in specs}, {x.limit for x in specs}))
        return []

    monkeypatch.setattr("harness.cli.claims.make", make)
    assert harness("claims", "--paper", "yu2024", "--run", "--limit", "5", "-o", tmp_path)[0] == 0
    runs = ["attribution-values", "attribution-queries.query_neurons-of=neurons",
            "attribution-queries.query_neurons-of=attention", "attribution-heads"]  # fmt: skip
    assert made == [(runs, {"demo"}, {5})]


class Recorded:
    """In place of executors: leaves the record of a run for each plan, instead of making it."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []

    def make(
        self, executor: object, groups: list[list[Plan]], output: Path, command: str, fresh: bool, reporter: object
    ) -> Iterator[list[Finished]]:
        assert [len(group) for group in groups] == [4]  # the same prompts: made together
        assert command.startswith("harness claims") or "pytest" in command
        for group in groups:
            self.plans += group
            for one in group:
                folder = output / str(one.spec.name)
                folder.mkdir()
                record = read_json(GOLDEN / "record.json") | {"name": one.spec.name}
                (folder / "result.json").write_text(json.dumps(record), encoding="utf-8")
            yield [cast("Finished", SimpleNamespace(path=output / str(one.spec.name))) for one in group]


def test_what_run_makes_is_planned_on_the_model_and_read_afterwards(
    harness: Harness, reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the missing runs to the table: whole plans of the registry's runs, and claims on what they leave."""
    executor = Recorded()
    monkeypatch.setattr("harness.running.executors.make", executor.make)
    asked = ("claims", "--paper", "tighidet2025", "--run", "--limit", "12", "-o", reports, "--format", "json")
    code, out, err = harness(*asked)
    assert [one.spec.name for one in executor.plans] == [
        f"paper-copying.{value}" for value in ("median", "mode", "mean_minus_sigma", "mean_plus_sigma")
    ]
    assert {one.spec.limit for one in executor.plans} == {12}
    assert {one.model.name for one in executor.plans} == {"demo"}
    assert err.count("made ") == 4
    tested = {row["claim"]: row for row in json.loads(out)["tested"]}
    assert code == 1 and tested["sources-change-mode"]["tested_on"]["name"] == "paper-copying.mode"
    assert "not run" not in {row["judged"]["outcome"] for row in tested.values()}
    assert harness(*asked)[0] == 1 and len(executor.plans) == 4  # nothing is missing any more
