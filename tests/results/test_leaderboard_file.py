"""The leaderboard's file survives crowds and kills."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.results import leaderboard


def rows(start: int, n: int) -> list[dict[str, object]]:
    return [{"row_id": f"{i}", "value": i, "text": "x" * 500} for i in range(start, start + n)]


APPENDING = """
import sys
from pathlib import Path
from harness.results import leaderboard
for start in range(int(sys.argv[2]), int(sys.argv[2]) + 100, 5):
    rows = [{"row_id": str(i), "value": i, "text": "x" * 500} for i in range(start, start + 5)]
    leaderboard.append(Path(sys.argv[1]), rows)
"""


def test_two_processes_may_append_at_once(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.jsonl"
    command = [sys.executable, "-c", APPENDING, str(path)]
    workers = [subprocess.Popen([*command, str(start)]) for start in (0, 1000)]
    assert [worker.wait() for worker in workers] == [0, 0]
    ids = [row["row_id"] for row in leaderboard.read(path)]
    assert sorted(ids) == sorted(str(i) for start in (0, 1000) for i in range(start, start + 100))


def test_rows_are_added_once(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.jsonl"
    assert leaderboard.append(path, rows(0, 3)) == 3
    assert leaderboard.append(path, rows(1, 3)) == 1
    assert len(leaderboard.read(path)) == 4


def test_only_lines_of_the_same_ids_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "leaderboard.jsonl"
    leaderboard.append(path, rows(0, 50))
    with path.open("ab") as file:
        file.write(b'{"value": 5, "row_id": "elsewhere"}\n')  # somebody else's line
    read: list[int] = []
    real = leaderboard.parse

    def watched(path: Path, text: bytes, first: int = 1) -> list[dict[str, object]]:
        read.append(first)
        return real(path, text, first)

    monkeypatch.setattr(leaderboard, "parse", watched)
    assert (
        leaderboard.append(path, [*rows(7, 1), {"row_id": "elsewhere", "value": 5}, {"row_id": "8", "value": 9}]) == 1
    )
    assert read == [8, 9, 51]


@pytest.mark.parametrize("line", [b"words\n", b'{"row_id": "1", "val\n', b'{"value": 1}\n', b"\n"])
def test_a_line_that_is_no_row_is_named_before_a_run(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "leaderboard.jsonl"
    leaderboard.append(path, rows(0, 2))
    path.write_bytes(path.read_bytes() + line)
    for call in (lambda: leaderboard.check(path), lambda: leaderboard.append(path, rows(9, 1))):
        with pytest.raises(HarnessError, match=r"line 3: this is not a leaderboard row"):
            call()


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
