"""What reporters are told, in which order, and that one that fails costs neither the run nor the others anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import PrivateAttr
from small_runs import spec

from harness.errors import HarnessError, HarnessWarning
from harness.plugin import Asked, BegunRun, FinishedRun, Reporter, Work
from harness.plugin.catalogue import catalogue
from harness.running import execute as run
from harness.running.executors import executor_of, make
from harness.running.telling import Telling, reporters

pytestmark = pytest.mark.usefixtures("blank_figures")

Harness = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.running.execute.write_shown", lambda folder, shown, advance: None)
    monkeypatch.setattr("harness.report.page.write_page", lambda folder: (folder / "report.html").write_text("page"))


class Diary(Reporter):
    """Writes down what it is told."""

    name = "diary"
    does = "writing the diary"
    _told: list[tuple[str, Any]] = PrivateAttr(default_factory=list)

    def ready(self, asked: Asked) -> None:
        self._told.append(("ready", [x.name for x in asked.runs]))

    def begun(self, run: BegunRun) -> None:
        self._told.append(("begun", run.name))

    def work_begins(self, work: Work) -> None:
        self._told.append((work.title, [x.name for x in work.runs]))

    def work_ends(self, work: Work, done: bool) -> None:
        self._told.append((f"end of {work.title}", done))

    def noted(self, sentence: str, important: bool) -> None:
        self._told.append(("noted", sentence))

    def finished(self, run: FinishedRun) -> None:
        assert (run.folder / "files.sha256").is_file()
        self._told.append(("finished", run.record.name))

    def failed(self, run: BegunRun, why: str) -> None:
        self._told.append(("failed", f"{run.name}: {why}"))

    def ended(self, folders: Sequence[Path]) -> None:
        self._told.append(("ended", [x.name.rpartition("-")[0] for x in folders]))

    @property
    def told(self) -> list[tuple[str, Any]]:
        return self._told


class Torn(Reporter):
    """Fails at what it is asked to fail at."""

    name = "torn"
    at: str = "finished"

    def begun(self, run: BegunRun) -> None:
        if self.at == "begun":
            raise ConnectionError("nobody there")

    def finished(self, run: FinishedRun) -> None:
        raise SystemExit(3)


def small(name: str, facts: Path, **changes: Any) -> run.Plan:
    return run.plan(spec(name, facts, metrics=["entropy_change"], controls=2, resamples=100, **changes), catalogue())


def test_everybody_is_told_in_order_and_of_each_run_when_its_folder_is_whole(small_facts: Path, tmp_path: Path) -> None:
    plans = [small(name, small_facts, intervention=name) for name in ("mean", "zero")]
    plans.append(small("strict", small_facts, selector="entropy:top=3000"))
    diary = Diary()
    told = Telling([*reporters(catalogue()), diary])
    groups = run.grouped_by_prompts(plans)
    with told:
        assert len(list(make(executor_of("local"), groups, tmp_path, "test", False, told))) == 1
    told.check()
    events = [event for event, _ in diary.told]
    assert events[:2] == ["ready", "loading the model"] and diary.told[0][1] == ["mean", "zero", "strict"]
    assert dict(diary.told)["loading the model"] == []
    assert [x for x in diary.told if x[0] == "begun"] == [("begun", "mean"), ("begun", "zero"), ("begun", "strict")]
    [shared] = [about for event, about in diary.told if " under " in event and not event.startswith("end")]
    assert shared == ["mean", "zero"]
    assert [about for event, about in diary.told if event == "computing statistics"] == [["mean"], ["zero"]]
    failed = dict(diary.told)["failed"]
    assert failed.startswith("strict: selector entropy: top=3000") and events.index("failed") < events.index("finished")
    last = ["writing the diary", "finished", "end of writing the diary"]
    assert events[-4:] == [*last, "ended"] and diary.told[-1] == ("ended", ["mean", "zero"])
    assert all(done for event, done in diary.told if event == "end of writing the diary")


def test_one_that_fails_costs_nothing_and_is_told_again(
    small_facts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, diary = small("mean", small_facts), Diary()
    told = Telling([Torn(at="begun"), *reporters(catalogue()), diary])
    made = run.execute(planned, tmp_path, told, "test")
    assert (made.path / "files.sha256").is_file() and (made.path / "report.html").is_file()
    assert len((tmp_path / "leaderboard.jsonl").read_text().splitlines()) == len(made.record.measures)
    said = "reporter torn: begun() raised ConnectionError: nobody there."
    assert ("noted", said) in diary.told and ("finished", "mean") in diary.told
    with pytest.raises(HarnessError, match=r"^1 run is finished, but not reported as asked: reporter torn: begun\(\)"):
        told.check()
    monkeypatch.setattr(run, "_work", None)  # nothing is computed for what is told again
    again = Diary()
    told = Telling([Torn(), again])
    assert run.execute(planned, tmp_path, told, "test").reused
    assert [event for event, _ in again.told if event in ("begun", "finished")] == ["begun", "finished"]
    with pytest.raises(HarnessError, match=r"reporter torn: finished\(\) raised SystemExit: 3\."):
        told.check()


def test_an_interruption_is_told_and_stays_one(
    small_facts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_finish", interrupt)
    diary = Diary()
    with pytest.raises(KeyboardInterrupt):
        run.execute(small("mean", small_facts), tmp_path, Telling([diary]), "test")
    assert diary.told[-1] == ("failed", "mean: it was interrupted; the same command continues it.")


# -- who is told -------------------------------------------------------------------------------------------------------


def test_the_usual_ones_are_told_unless_they_are_left_out() -> None:
    from harness.plugin.specs import ComponentSpec

    def names(*asked: str) -> list[str]:
        return [x.name for x in reporters(catalogue(), asked, ComponentSpec("console", {"progress": False}))]

    assert names() == ["page", "leaderboard", "live", "console"]
    assert names("no:page", "markdown:out", "no:console") == ["leaderboard", "live", "markdown"]
    [*_, console] = reporters(catalogue(), ["console:report=json"], ComponentSpec("console", {"progress": False}))
    assert console.model_dump() == {"progress": False, "report": "json"}


def test_one_that_is_asked_for_twice_is_told_once() -> None:
    """By a registry and a command, say; two that would write over each other are refused."""

    def built(*asked: str) -> list[str]:
        return [x.name for x in reporters(catalogue(), asked)][3:]

    assert built("markdown:x", "latex:x", "markdown:./x/") == ["markdown", "latex"]
    assert built("markdown:x", "markdown:y", "wandb:a", "wandb:a,group=b") == ["markdown"] * 2 + ["wandb"] * 2
    with pytest.raises(HarnessError, match=r"--report markdown: two that differ would write to .*x; name another"):
        built("markdown:x", "markdown:folder=./x,title=Mine")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder that nobody can write, not even root")
@pytest.mark.parametrize("kind", ["markdown", "latex", "lm_eval_results"])
def test_a_folder_that_cannot_be_written_is_told_before_any_work(harness: Harness, tmp_path: Path, kind: str) -> None:
    code, _, err = harness("run", "copying", "-o", tmp_path / "reports", "--report", f"{kind}:/proc/x")
    assert code == 2 and err.splitlines()[-1].startswith("error: cannot write /proc/x: ")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("pgae", '--report: no reporter is called "pgae". Did you mean "page"?'),
        ("no:pag", '--report no:pag: "pag" is told of no run unless you say so. Did you mean "page"?'),
        ("markdown", '--report: markdown needs the parameter "folder".'),
        ("page:colour=red", '--report: page has no parameter "colour". It has: none.'),
    ],
)
def test_a_wrong_reporter_is_one_sentence_before_any_work(
    harness: Harness, tmp_path: Path, given: str, sentence: str
) -> None:
    code, _, err = harness("run", "copying", "-o", tmp_path / "reports", "--report", given)
    assert code == 2 and err.splitlines()[-1].startswith(f"error: {sentence}")
    assert not (tmp_path / "reports").exists()


def test_the_command_ends_with_2_when_a_reporter_fails_and_python_warns(
    harness: Harness, small_facts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import harness as public
    from harness.report.reporters import Page

    def fail(self: Page, run: FinishedRun) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Page, "finished", fail)
    words = {"task": f"knowledge_conflict:data={small_facts}", "selector": "entropy:rule=tighidet2025"}
    words |= {"intervention": "mean"}
    numbers = {"controls": 2, "limit": 20, "resamples": 100}
    options = [x for key, value in (words | numbers).items() for x in (f"--{key}", value)]
    code, out, err = harness(
        "eval", *options, "--metric", "entropy_change", "-o", tmp_path, "--report", "no:leaderboard"
    )
    said = "reporter page of neuron-harness"
    assert code == 2 and "Verdicts" in out and f"note: {said}" in err
    assert err.splitlines()[-1].startswith(f"error: 1 run is finished, but not reported as asked: {said}")
    assert not (tmp_path / "leaderboard.jsonl").exists()
    with pytest.warns(HarnessWarning, match=f"not reported as asked: {said}"):
        made = public.evaluate(**words, metrics="entropy_change", **numbers, output_path=tmp_path, progress=False)
    assert made.record.run_id
