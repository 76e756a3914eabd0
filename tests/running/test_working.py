"""What workers elsewhere do, told here while they do it: to reporters, and so to whoever looks at a folder of runs."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import PrivateAttr
from small_runs import spec
from workers import Threads

from harness.plugin.catalogue import catalogue
from harness.plugin.reporters import BegunRun, Reporter, Work
from harness.report.live import Live
from harness.results import under_way
from harness.running import Job, Message, Working, fitting
from harness.running import execute as run
from harness.running.executors import Runs, finished_of
from harness.running.messages import Doing
from harness.running.telling import Telling
from harness.running.working import WAITING, Heard, Steps
from harness.view.under_way import listed


class Diary(Reporter):
    """Writes down what it is told of work, what stands in the run's folder then, and how it is shown."""

    name = "diary"
    _told: list[tuple[Any, ...]] = PrivateAttr(default_factory=list)
    _seen: list[under_way.UnderWay] = PrivateAttr(default_factory=list)
    _shown: list[dict[str, Any]] = PrivateAttr(default_factory=list)

    def work_begins(self, work: Work) -> None:
        self._note(work, "begins", work.total, work.node)

    def work_advances(self, work: Work, steps: int) -> None:
        self._note(work, steps)

    def work_ends(self, work: Work, done: bool) -> None:
        self._told.append((work.title, "ends", done))

    def _note(self, work: Work, *said: Any) -> None:
        self._told.append((work.title, *said))
        for one in work.runs[:1]:
            if found := under_way.read(one.folder.parent, one.folder.name):
                self._seen.append(found)
                self._shown += listed(one.folder.parent, [one.folder.name])


def test_what_a_worker_says_is_told_as_work() -> None:
    diary = Diary()
    told, about = Heard(Telling([diary])), [BegunRun(None, "0", Path("a-1"), "", False)]  # type: ignore[arg-type]

    def say(*steps: Doing) -> list[tuple[Any, ...]]:
        diary._told.clear()
        told.says(Working(("a-1",), "node7", steps), about)
        return diary._told

    assert say(Doing(3, "prompts", 10, 4, 2.0)) == [("prompts", "begins", 10, "node7"), ("prompts", 4)]
    assert say(Doing(3, "prompts", 10, 4, 4.0)) == [("prompts", 0)]  # it is there
    inner = Doing(4, "a part", None, 0, 0.0)
    assert say(Doing(3, "prompts", 10, 7, 6.0), inner) == [
        ("a part", "begins", None, "node7"),
        ("prompts", 3),
        ("a part", 0),
    ]
    assert say(Doing(5, "figures", 2, 0, 0.1)) == [
        ("a part", "ends", True),
        ("prompts", "ends", True),
        ("figures", "begins", 2, "node7"),
        ("figures", 0),
    ]
    diary._told.clear()
    told.ends(False)
    assert diary._told == [("figures", "ends", False)]


def test_before_a_run_has_begun_nothing_is_said() -> None:
    steps = Steps("here")
    with steps.stage("loading the model", None, ()):
        assert steps.now() is None
    assert steps.now() is None


@pytest.mark.usefixtures("blank_figures")
def test_runs_that_are_made_elsewhere_are_watched_as_those_made_here(
    small_facts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers share the prompts, and one of them is lost; no part is finished before it is told that it is made."""
    monkeypatch.setattr("harness.running.execute.PART", 16)
    monkeypatch.setattr("harness.running.orders.EVERY", 0.01)
    heard: dict[int, threading.Event] = {0: threading.Event(), 1: threading.Event()}
    lost = []

    def fate(job: Job, message: Message) -> bool:
        share = json.loads(job.order)["share"]
        if share is None or not isinstance(message, Working) or " under " not in message.steps[0].title:
            return False
        if share[0] == 1 and not lost:
            lost.append(message)
            return True
        heard[share[0]].set()
        return False

    observe = fitting.observe

    def held(*given: Any) -> Any:
        found = observe(*given)
        assert all(event.wait(60) for event in heard.values())
        return found

    monkeypatch.setattr(fitting, "observe", held)
    diary = Diary()
    telling = Telling([Live(seconds=1e-9), diary])
    plans = [run.plan(spec("watched", small_facts, metrics="entropy_change", resamples=100), catalogue())]
    [made] = Runs([plans], tmp_path, "harness run", False, telling).on(Threads(fate, at_once=3), shares=2)
    [there] = finished_of(made)
    steps = [step for x in diary._seen for step in x.steps]
    both = [step for step in steps if step.title.endswith(" (2 workers)") and step.total]
    prompts, conditions = map(int, re.findall(r"\d+", both[0].title)[:2])
    assert {step.total for step in both} == {prompts * conditions}  # each has told of its own
    assert all(step.done <= prompts * conditions for step in both)
    assert [x.node for x in lost] == ["a thread"] and any(step.title == WAITING for step in steps)
    assert not any(x.waiting or x.ended for x in diary._seen)
    assert any(" (2 workers); " in x["said"] and x["total"] and not x["still"] for x in diary._shown)
    assert not (there.path / "unfinished").exists()
