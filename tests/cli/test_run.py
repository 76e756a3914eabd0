"""A run of the command, from the outside: what it leaves, the same bytes again, and that it goes on after a stop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import blank
import pytest
from commands import VOLATILE, Harness, after, arguments, files, only

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def finished(small_facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports folder of one small run, made by another process. Its figures are blank, as those of this one are:
    that figures have the same bytes again is tested where they are drawn, and of whole runs by the packaging tests."""
    output = tmp_path_factory.mktemp("reports")
    command = [sys.executable, "-c", blank.HARNESS, *map(str, arguments(small_facts, output))]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"})
    assert done.returncode == 0, done.stderr
    (output / "stdout.txt").write_text(done.stdout)
    return output


def test_a_run_leaves_its_record_samples_neurons_and_rows(finished: Path) -> None:
    run = only(finished)
    assert {x.name for x in run.iterdir()} >= {
        "result.json", "samples.jsonl", "neurons.jsonl", "outcomes.safetensors", "provenance.json", "figures",
    }  # fmt: skip
    assert not (run / "unfinished").exists()
    record = json.loads((run / "result.json").read_text())
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (finished / "leaderboard.jsonl").read_text().splitlines()]
    assert len(samples) == 2 * record["task"]["n_prompts"] > 0
    assert len(rows) == len(record["measures"])
    assert len({row["row_id"] for row in rows}) == len(rows)
    assert all(row["weights_sha256"] and row["data_sha256"] and row["command"] for row in rows)
    assert record["controls"]["n"] == 19 == len(record["controls"]["sets"])
    assert len(json.loads((run / "neurons.jsonl").read_text().splitlines()[0])) >= 4


def test_the_numbers_of_the_record_follow_from_the_samples(finished: Path) -> None:
    run = only(finished)
    record = json.loads((run / "result.json").read_text())
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    before, after = samples[::2], samples[1::2]
    measures = {measure["name"]: measure for measure in record["measures"]}
    moved = [(x["source"], y["source"]) for x, y in zip(before, after, strict=True)]
    not_ck = [pair for pair in moved if pair[0] != "CK"]
    assert measures["CKCR"]["value"] == pytest.approx(100 * sum(b == "CK" for _, b in not_ck) / len(not_ck))
    assert measures["GTS"]["value"] == pytest.approx(100 * sum(a != b for a, b in moved) / len(moved))
    change = sum(y["entropy"] - x["entropy"] for x, y in zip(before, after, strict=True)) / len(moved)
    assert measures["entropy_change"]["value"] == pytest.approx(change, abs=1e-9)
    for name in ("CKCR", "PKCR", "NDCR", "GTS"):
        p = measures[name]["p_two_sided"]
        assert p * 20 == pytest.approx(round(p * 20))  # multiples of 1 / (m + 1)
    assert [sum(row) for row in record["tables"][0]["treated"]] == [
        sum(a == name for a, _ in moved) for name in ("CK", "PK", "ND")
    ]


def test_the_report_says_what_was_asked_chosen_and_found(finished: Path) -> None:
    text = (finished / "stdout.txt").read_text()
    for part in ("question", "Prompts", "Selected neurons", "Before and after", "random controls", "Verdicts", "Files"):
        assert part in text
    assert "\x1b" not in text  # no colour codes in a pipe


@pytest.mark.parametrize("columns", [40, 60, 99, 100, 160])
def test_the_report_fits_the_window(finished: Path, harness: Harness, columns: int) -> None:
    code, out, err = harness("report", only(finished))
    assert code == 0, err
    assert max(len(line.rstrip()) for line in out.splitlines()) <= columns


def test_the_same_command_gives_the_same_bytes(
    finished: Path, small_facts: Path, tmp_path: Path, harness: Harness
) -> None:
    assert harness(*arguments(small_facts, tmp_path))[0] == 0
    first, second = files(only(finished)), files(only(tmp_path))
    assert only(finished).name == only(tmp_path).name
    assert first.keys() == second.keys()
    for name in first:
        if not name.endswith(VOLATILE):
            assert first[name] == second[name], name


def test_a_finished_run_is_shown_and_not_made_again(
    finished: Path, small_facts: Path, tmp_path: Path, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "reports")
    before = files(tmp_path / "reports")
    given = [x for x in arguments(small_facts, tmp_path / "reports") if x != "--quiet"]
    code, out, err = harness(*given)
    assert code == 0
    assert "this run was finished before" in err
    assert "Verdicts" in out
    assert {k: v for k, v in files(tmp_path / "reports").items() if not k.endswith(".lock")} == {
        k: v for k, v in before.items() if not k.endswith(".lock")
    }


def test_json_prints_the_record(finished: Path, harness: Harness) -> None:
    code, out, _ = harness("report", only(finished), "--json")
    assert code == 0
    assert json.loads(out) == json.loads((only(finished) / "result.json").read_text())


def test_another_seed_model_or_parameter_is_another_run(small_facts: Path, tmp_path: Path, harness: Harness) -> None:
    small = {"controls": "2", "limit": "10"}
    for changes in ({}, {"seed": "1"}, {"selector": "entropy:rule=tighidet2025,top=3"}, {"limit": "12"}):
        assert harness(*arguments(small_facts, tmp_path, **{**small, **changes}))[0] == 0
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 4


def test_an_interrupted_run_continues_and_ends_with_the_same_bytes(
    finished: Path, small_facts: Path, tmp_path: Path, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.results.folder import RunFolder
    from harness.running import execute as run

    monkeypatch.setattr(run, "PART", 20)
    saved: list[int] = []
    real = RunFolder.save_part

    def interrupted(self: RunFolder, start: int, part: object) -> None:
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(start)
        real(self, start, part)

    monkeypatch.setattr(RunFolder, "save_part", interrupted)
    code, _, err = harness(*arguments(small_facts, tmp_path))
    assert (code, saved) == (130, [0, 20])
    assert "continues" in err
    assert not (only(tmp_path) / "result.json").exists()
    assert not (tmp_path / "leaderboard.jsonl").exists()

    made: list[int] = []

    def watched(self: RunFolder, start: int, part: object) -> None:
        made.append(start)
        real(self, start, part)

    monkeypatch.setattr(RunFolder, "save_part", watched)
    assert harness(*arguments(small_facts, tmp_path))[0] == 0
    assert made[0] == 40
    monkeypatch.setattr(run, "PART", 256)
    whole, resumed = files(only(finished)), files(only(tmp_path))
    # Parts are batched on their own, so the last digits may move; what is counted may not.
    for name in ("neurons.jsonl",):
        assert whole[name] == resumed[name]
    a, b = json.loads(whole["result.json"]), json.loads(resumed["result.json"])
    assert a["tables"] == b["tables"]


def test_a_killed_process_is_continued(small_facts: Path, tmp_path: Path, harness: Harness) -> None:
    """SIGKILL in the middle, as a full cluster or a closed laptop does it."""
    script = (
        "import os, signal\nfrom harness.running import execute as run\n"
        "from harness.results.folder import RunFolder\nrun.PART = 20\n"
        "real, seen = RunFolder.save_part, []\n"
        "def save(self, start, part):\n    real(self, start, part)\n    seen.append(start)\n"
        "    if len(seen) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "RunFolder.save_part = save\n"
    )
    given = arguments(small_facts, tmp_path / "killed", limit="60", controls="5")
    done = after(script, given)
    assert done.returncode == -9
    assert len(list(only(tmp_path / "killed").glob("unfinished/part-*.safetensors"))) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.running.execute.PART", 20)
        assert harness(*given)[0] == 0
        assert harness(*arguments(small_facts, tmp_path / "whole", limit="60", controls="5"))[0] == 0
    killed, whole = files(only(tmp_path / "killed")), files(only(tmp_path / "whole"))
    assert killed.keys() == whole.keys()
    assert all(killed[name] == whole[name] for name in whole if not name.endswith(VOLATILE))


def test_the_hook_engine_finds_the_same(small_facts: Path, tmp_path: Path, harness: Harness) -> None:
    records = {}
    for engine in ("auto", "hooks"):
        given = arguments(small_facts, tmp_path / engine, "--json", engine=engine, controls="3", limit="30")
        code, out, err = harness(*given)
        assert code == 0, err
        records[engine] = json.loads(out)
    assert (records["auto"]["engine"], records["hooks"]["engine"]) == ("closed_form", "hooks")
    assert records["auto"]["tables"] == records["hooks"]["tables"]
    for one, other in zip(records["auto"]["measures"], records["hooks"]["measures"], strict=True):
        assert one["value"] == pytest.approx(other["value"], abs=1e-4)
        assert one["p_two_sided"] == other["p_two_sided"]


def test_a_registry_run(small_facts: Path, tmp_path: Path, harness: Harness) -> None:
    registry = tmp_path / "registry.yaml"
    registry.write_text(
        "runs:\n  pair:\n"
        f"    task: {{name: knowledge_conflict, data: {small_facts}}}\n"
        "    selector: [entropy, {name: neurons, neurons: [3.5, 3.10]}]\n"
        "    intervention: zero\n    controls: 5\n"
    )
    code, out, err = harness("run", "pair", "--registry", registry, "-o", tmp_path / "out", "-q", "--json")
    assert code == 0, err
    runs = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert [name.rsplit("-", 1)[0] for name in runs] == ["pair.entropy", "pair.neurons-neurons=-3.5-3.10"]
    assert '"3.10"' in out


def test_a_dry_run_writes_nothing(small_facts: Path, tmp_path: Path, harness: Harness) -> None:
    code, out, _ = harness(*arguments(small_facts, tmp_path / "out", "--dry_run"))
    assert code == 0
    assert json.loads(out)["selector"]["params"]["top"] == 6
    assert not (tmp_path / "out").exists()
