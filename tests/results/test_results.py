"""Files: atomic writes, clean JSON, a leaderboard that survives crowds and kills."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.files.store import canonical, clean, digest, read_json, write_bytes, write_json
from harness.plugin.records import Outcomes, Prepared, Prompt, Step
from harness.results import leaderboard
from harness.results.folder import RunFolder, sample_rows


@given(
    st.recursive(
        st.none() | st.floats() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_whatever_is_written_is_json_without_nan(value: object) -> None:
    assert json.loads(canonical(value)) == json.loads(json.dumps(clean(value), allow_nan=False))


def test_numpy_becomes_plain_json() -> None:
    assert clean({"a": np.array([1.5, np.nan]), "b": np.int64(3), 4: (np.inf,)}) == {
        "a": [1.5, None],
        "b": 3,
        "4": [None],
    }


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2.0]}) == digest({"b": [2.0], "a": 1}) != digest({"a": 1, "b": [2.5]})


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"old": True})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HarnessError, match=r"cannot write .*No space left on device.*--output_path"):
        write_json(path, {"old": False})
    assert read_json(path) == {"old": True}
    assert [x.name for x in tmp_path.iterdir()] == ["file.json"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("")
    with pytest.raises(HarnessError, match="cannot write"):
        write_bytes(tmp_path / "reports" / "x.json", b"")


def rows(start: int, n: int) -> list[dict[str, object]]:
    return [{"row_id": f"{i}", "value": i, "text": "x" * 500} for i in range(start, start + n)]


def _append(path: Path, start: int) -> None:
    for i in range(20):
        leaderboard.append(path, rows(start + i * 5, 5))


def test_two_processes_may_append_at_once(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.jsonl"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append, args=(path, start)) for start in (0, 1000)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    ids = [row["row_id"] for row in leaderboard.read(path)]
    assert sorted(ids) == sorted(str(i) for start in (0, 1000) for i in range(start, start + 100))


def test_rows_are_added_once(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.jsonl"
    assert leaderboard.append(path, rows(0, 3)) == 3
    assert leaderboard.append(path, rows(1, 3)) == 1
    assert len(leaderboard.read(path)) == 4


def test_a_line_that_was_torn_by_a_kill_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.jsonl"
    leaderboard.append(path, rows(0, 2))
    whole = path.read_bytes()
    for torn in (b'{"row_id": "7", "val', b'{"row_id": "7"}', '{"row_id": "é'.encode()[:-1]):
        path.write_bytes(whole + torn)
        assert [row["row_id"] for row in leaderboard.read(path)] == ["0", "1"]
        leaderboard.append(path, rows(5, 1))
        assert [row["row_id"] for row in leaderboard.read(path)] == ["0", "1", "5"]


WRITER = """
import sys
from pathlib import Path
from harness.results import leaderboard
i = 0
while True:
    leaderboard.append(Path(sys.argv[1]), [{"row_id": str(i), "text": "x" * 200_000}])
    i += 1
    print(i, flush=True)
"""


def test_a_killed_writer_costs_at_most_its_own_row(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for _ in range(5):
        writer.stdout.readline()
    time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    leaderboard.append(path, [{"row_id": "after"}])
    ids = [row["row_id"] for row in leaderboard.read(path)]
    assert ids[-1] == "after"
    assert ids[:-1] == [str(i) for i in range(len(ids) - 1)]
    assert len(ids) >= 6


def test_a_foreign_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.jsonl"
    path.write_text('{"row_id": "1"}\nnot json\n')
    with pytest.raises(HarnessError, match="line 2: this is not a leaderboard row"):
        leaderboard.read(path)


def outcomes() -> Outcomes:
    prompts = tuple(Prompt(f"p{i}", f"text {i}", (1, i), f"c{i // 2}", {"relation": "r"}) for i in range(4))
    return Outcomes(
        conditions=("baseline", "treated", "control-0000"),
        prompts=prompts,
        values={"source": np.arange(12, dtype=np.int8).reshape(3, 4) % 3, "entropy": np.arange(12.0).reshape(3, 4)},
        answers=(("a", "b", "c", "d"), ("e", "f", "g", "h")),
        categories={"source": ("CK", "PK", "ND")},
    )


def test_parts_come_back_as_they_were(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(fresh=False)
    whole = outcomes()
    assert folder.load_part(0, whole.prompts, whole.conditions) is None
    folder.save_part(0, whole)
    back = folder.load_part(0, whole.prompts, whole.conditions)
    assert back is not None
    assert back.answers == whole.answers and back.categories == whole.categories
    assert all((back[name] == whole[name]).all() for name in whole.values)
    joined = Outcomes.join([whole, back])
    assert joined["entropy"].shape == (3, 8) and len(joined.prompts) == 8


def test_prepared_prompts_come_back_as_they_were(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(fresh=False)
    prepared = Prepared(outcomes().prompts, (Step("facts", 4, 0, "why"),), {"k": [1]})
    folder.save_prepared(prepared)
    assert folder.load_prepared() == prepared


def test_a_sample_is_a_prompt_under_a_condition(tmp_path: Path) -> None:
    found = list(sample_rows(outcomes()))
    assert len(found) == 8
    assert found[1]["condition"] == "treated"
    assert found[1]["answer"] == "e"
    assert found[1]["source"] == "PK"
    assert found[1]["relation"] == "r"


def test_a_metric_that_does_not_fit_the_task_is_told_so() -> None:
    with pytest.raises(HarnessError, match=r'wants the outcome "loss", .* it observes entropy, source'):
        outcomes()["loss"]
