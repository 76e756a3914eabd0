"""Runs in this process, by the executor that is meant where nobody says which: each refused alone, the others made."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from commands import files
from small_runs import Silent, in_process
from small_runs import quick as spec

from harness.errors import HarnessError
from harness.plugin.catalogue import catalogue
from harness.running.execute import grouped_by_prompts, plan
from harness.running.executors import check_all_made, finished_of

pytestmark = pytest.mark.usefixtures("blank_figures", "undrawn")

Harness = Callable[..., tuple[int, str, str]]


def test_groups_are_made_in_this_process_one_after_another(small_facts: Path, tmp_path: Path) -> None:
    groups = [[plan(spec("a", small_facts), catalogue())], [plan(spec("b", small_facts, seed=1), catalogue())]]
    told = Told()
    made = in_process(groups, tmp_path, told)
    assert [run.record.name for run in finished_of(next(made))] == ["a"]
    assert len(list(tmp_path.glob("b-*"))) == 0  # the second group waits until it is asked for
    assert [[run.record.name for run in finished_of(group)] for group in made] == [["b"]]
    assert told.stages.count("loading the model") == 1  # for both


class Told(Silent):
    """Remembers stages and notes in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[str] = []

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
        self.stages.append(title)
        return super().stage(title, total)

    def note(self, sentence: str) -> None:
        self.stages.append(sentence)


REFUSED = "selector entropy: only"


def test_a_run_that_is_refused_is_named_at_once_and_the_others_are_made(small_facts: Path, tmp_path: Path) -> None:
    """Chosen by weights alone, refused before a prompt is made; by prompts, before a condition is run; and in the end
    by its metric: each alone, and what is made is what it would be without them."""
    told, strict = Told(), "entropy:top=500,rule=tighidet2025"
    specs = [
        spec("strict", small_facts, selector=strict),
        spec("first", small_facts),
        spec("missing", small_facts, margins={"nothing": 0.1}),
        spec("other", small_facts, seed=1),
    ]
    groups = grouped_by_prompts([plan(x, catalogue()) for x in specs])
    assert [len(group) for group in groups] == [3, 1]
    made = [run for group in in_process(groups, tmp_path, told) for run in group]
    assert [run.record.name for run in finished_of(made)] == ["first", "other"]
    early = next(i for i, x in enumerate(told.stages) if x.startswith(f"strict: not made: {REFUSED}"))
    late = next(i for i, x in enumerate(told.stages) if x.startswith("missing: not made: "))
    conditions = next(i for i, x in enumerate(told.stages) if " under " in x)
    assert early < late < conditions
    assert sorted(path.name.split("-")[0] for path in tmp_path.glob("*-????????")) == ["first", "other"]
    with pytest.raises(HarnessError, match=rf"^2 of 4 runs were not made\. strict: {REFUSED} .* missing: .*nothing"):
        check_all_made(made)
    alone = in_process([[groups[0][1]]], tmp_path / "alone")
    assert files(finished_of(next(alone))[0].path)["result.json"] == files(made[0].path)["result.json"]  # type: ignore[union-attr]


def test_a_model_that_cannot_be_loaded_is_tried_once(small_facts: Path, tmp_path: Path) -> None:
    nowhere = f"hf:pretrained={tmp_path / 'nowhere'}"
    specs = [spec(name, small_facts, model=nowhere, seed=seed) for seed, name in enumerate("ab")]
    told = Told()
    groups = grouped_by_prompts([plan(x, catalogue()) for x in specs])
    made = [run for group in in_process(groups, tmp_path, told) for run in group]
    assert told.stages.count("loading the model") == 1 and len(groups) == 2
    with pytest.raises(HarnessError, match="nowhere") as raised:
        check_all_made(made)
    assert "not made" not in str(raised.value)  # all of them for one reason, which is said alone
    groups.append([plan(spec("there", small_facts), catalogue())])
    made = [run for group in in_process(groups, tmp_path, told) for run in group]
    with pytest.raises(HarnessError, match=r"^2 of 3 runs were not made\. a, b: .*nowhere"):
        check_all_made(made)


def test_a_suite_goes_on_after_a_run_that_is_refused(
    harness: Harness, small_facts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[list[str]] = []
    monkeypatch.setattr("harness.report.markdown.write", lambda paths, *_: pages.append([x.name for x in paths]))
    registry = tmp_path / "registry.yaml"
    registry.write_text(f"""
runs:
  sweep:
    model: demo
    task: {{name: knowledge_conflict, data: "{small_facts.as_posix()}"}}
    selector: ["entropy:rule=tighidet2025,top=500", "entropy:rule=tighidet2025,top=2"]
    intervention: mean
    metrics: [entropy_change]
    controls: 2
    limit: 20
suites: {{both: {{runs: [sweep]}}}}
""")
    options = ("--registry", registry, "-o", tmp_path / "reports", "--json", "--quiet")
    code, out, err = harness("run", "both", *options, "--markdown", tmp_path / "page.md")
    refused = "sweep.entropy-rule=tighidet2025-top=500"
    # One object after another: records, and what was said of each run that was not made.
    objects = json.loads(f"[{out.strip().replace(chr(10) + '}' + chr(10) + '{', '},{')}]")
    [made] = [x for x in objects if "name" in x]
    [told] = [x for x in objects if "run" in x]
    assert code == 2 and made["name"] == "sweep.entropy-rule=tighidet2025-top=2"
    assert told["run"] == refused and told["error"] == objects[-1]["error"]["runs"][refused]
    assert told["error"]["message"].startswith(REFUSED) and objects[-1]["error"]["kind"] == "runs"
    assert any(line.startswith(f"note: {refused}: not made: {REFUSED}") for line in err.splitlines())
    assert err.splitlines()[-1].startswith(f"error: 1 of 2 runs was not made. {refused}: {REFUSED}")
    [[page]] = pages
    assert page.startswith("sweep.entropy-rule=tighidet2025-top=2-")
    code, _, err = harness("run", refused, *options)
    assert code == 2 and err.splitlines()[-1].startswith(f"error: {REFUSED}") and "not made" not in err
