"""Runs that are not finished, as the list shows them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.files import json as jsontext
from harness.results.under_way import Step, UnderWay
from harness.view.site import Site
from harness.view.under_way import listed


def say(folder: Path, run: str, **changes: Any) -> UnderWay:
    (folder / run / "unfinished").mkdir(parents=True, exist_ok=True)
    now = time.time()
    steps = [Step(title="12 prompts under 4 conditions", total=48, done=12, since=now - 30)]
    steps.append(Step(title="a part", total=None, done=0, since=now))
    fields = {"runs": [run], "waiting": [], "command": "harness run all", "steps": steps, "began": now - 600}
    fields |= {"told": now, "host": socket.gethostname(), "process": os.getpid()}
    found = UnderWay(**{**fields, **changes})
    found.write(folder / run)
    return found


def test_what_is_done_and_what_is_left(tmp_path: Path) -> None:
    say(tmp_path, "a-1", runs=["a-1", "b-2"], waiting=["c-3"])
    for name in ("b-2", "c-3"):  # worked at together; waits for its turn
        (tmp_path / name / "unfinished").mkdir(parents=True)
    [shown] = listed(tmp_path, ["a-1", "b-2", "c-3"])
    assert (shown["names"], shown["done"], shown["total"], shown["still"]) == (["a-1", "b-2"], 12, 48, False)
    expected = r"12 prompts under 4 conditions / a part; 10 min so far; about [5-9]\d s left of this step; then 1 more"
    assert re.fullmatch(expected, shown["said"])


@pytest.mark.parametrize("quiet", [1, 100, 4000])
def test_silence_is_told(tmp_path: Path, quiet: int) -> None:
    say(tmp_path, "a-1", told=time.time() - quiet, host="another", process=1)
    [shown] = listed(tmp_path, ["a-1"])
    assert ("last heard of" in shown["said"]) == (quiet > 90)
    assert not shown["still"]  # it runs on another machine: nobody knows


def test_what_has_ended_is_told_with_what_continues_it(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    say(tmp_path, "gone-1", process=ended.pid)
    if Path("/proc/self/stat").exists():
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # nobody asks how it ended: a zombie
        assert [one["still"] for one in listed(tmp_path, ["gone-1"])] == [True]
    ended.wait()
    say(tmp_path, "stopped-2", ended="it was interrupted; the same command continues it.")
    (tmp_path / "old-3" / "unfinished").mkdir(parents=True)
    (tmp_path / "old-3" / "unfinished" / "progress.json").write_text("{")
    say(tmp_path, "here-4")
    shown = listed(tmp_path, ["gone-1", "here-4", "old-3", "stopped-2"])
    assert [one["still"] for one in shown] == [False, True, True, True]
    said = {one["names"][0]: one["said"] for one in shown}
    assert said["gone-1"] == "its process has ended; the same command continues it: harness run all"
    assert said["stopped-2"] == "it was interrupted; the same command continues it: harness run all"
    assert said["old-3"] == "not finished; the command that began one continues it"


def test_a_link_tells_nothing(tmp_path: Path) -> None:
    say(tmp_path / "elsewhere", "a-1")
    (tmp_path / "reports" / "a-1").mkdir(parents=True)
    (tmp_path / "reports" / "a-1" / "unfinished").symlink_to(tmp_path / "elsewhere" / "a-1" / "unfinished")
    assert [one["said"] for one in listed(tmp_path / "reports", ["a-1"])] == [
        "not finished; the command that began one continues it"
    ]


def test_the_site_tells_when_the_runs_have_changed(reports: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(reports, tmp_path / "reports"))
    site = Site(folder)

    def told() -> Any:
        body = site.at("live.json").body
        assert isinstance(body, bytes)
        return jsontext.parse(body.decode(), "live.json")

    first = told()
    assert first["running"] == []
    say(folder, "a-1")
    assert (told()["version"], len(told()["running"])) == (first["version"], 1)
    run = next(path for path in sorted(folder.iterdir()) if (path / "files.sha256").is_file())
    shutil.rmtree(run)
    assert told()["version"] != first["version"]
