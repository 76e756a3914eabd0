"""How far a run is, where others can see it: said while it is made, gone when it is finished, and no part of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import PrivateAttr

from harness.plugin.catalogue import catalogue
from harness.plugin.reporters import Reporter, Work
from harness.report.live import Live
from harness.results import under_way
from harness.running.execute import execute, plan
from harness.running.spec import RunSpec
from harness.running.telling import Telling
from harness.testing import check_reporter


class Looks(Reporter):
    """Looks at what is said whenever something happens; is interrupted at a step of this title."""

    name = "looks"
    until: str = ""
    _seen: list[under_way.UnderWay] = PrivateAttr(default_factory=list)

    def work_begins(self, work: Work) -> None:
        for run in work.runs:
            if found := under_way.read(run.folder.parent, run.folder.name):
                self._seen.append(found)
        if self.until and work.title.startswith(self.until):
            raise KeyboardInterrupt

    def work_ends(self, work: Work, done: bool) -> None:
        self.work_begins(Work("", None, work.runs))


def made(facts: Path, folder: Path, *told: Reporter) -> Path:
    """A small run that reporters are told of."""
    spec: dict[str, Any] = {"task": f"knowledge_conflict:data={facts}", "selector": "neurons:neurons=[3.0]"}
    spec |= {"intervention": "mean", "controls": 3, "limit": 8, "resamples": 100, "name": "watched"}
    return execute(plan(RunSpec(**spec), catalogue()), folder, Telling(told), "harness eval").path


@pytest.mark.usefixtures("blank_figures")
def test_a_run_says_how_far_it_is_and_stays_what_it_is(small_facts: Path, tmp_path: Path) -> None:
    looks = Looks()
    watched = made(small_facts, tmp_path / "watched", Live(seconds=1e-9), looks)
    assert {tuple(x.runs) for x in looks._seen} == {(watched.name,)}
    steps = [(step.title, step.done, step.total) for x in looks._seen for step in x.steps if step.total]
    prompts = [x for x in steps if "under" in x[0] and "condition" in x[0]]
    assert prompts and max(done for _, done, _ in prompts) == prompts[0][2]  # all of them, at last
    assert not (watched / "unfinished").exists()
    alone = made(small_facts, tmp_path / "alone")
    assert digests(watched) == digests(alone)


def digests(run: Path) -> dict[str, str]:
    paths = sorted(path for path in run.rglob("*") if path.is_file() and path.name != "provenance.json")
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.usefixtures("blank_figures")
def test_a_run_that_is_interrupted_says_so(small_facts: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        made(small_facts, tmp_path, Live(), Looks(until="computing statistics"))
    [run] = [path for path in tmp_path.iterdir() if path.is_dir()]
    found = under_way.read(tmp_path, run.name)
    assert found is not None and found.ended == "it was interrupted; the same command continues it."
    made(small_facts, tmp_path, Live())
    assert under_way.read(tmp_path, run.name) is None and (run / "files.sha256").is_file()


def test_it_keeps_what_reporters_promise() -> None:
    check_reporter(Live)
