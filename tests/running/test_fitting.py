"""``--batch_size auto``: as many prompts in a pass as fit, and a run that does not depend on how many these are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import files
from small_runs import Silent, spec

from harness.errors import HarnessError, SystemRefused
from harness.model.model import Batch, Model
from harness.plugin.catalogue import catalogue
from harness.results.leaderboard import read
from harness.running import fitting
from harness.running.execute import Finished, execute, execute_together, grouped_by_prompts, plan
from harness.running.request import Request
from harness.running.spec import RunSpec, check_batch_size
from harness.testing.models import demo_model

pytestmark = pytest.mark.usefixtures("blank_figures")

Harness = Callable[..., tuple[int, str, str]]
ROWS = {"held": 11}
"""What the stand-in for an accelerator holds in a pass."""


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every pass of a model whose device's memory holds :data:`ROWS`, found by trying as on an accelerator."""
    forward, rows = Model.forward, []

    def small(model: Model, batch: Batch, *args: Any, **more: Any) -> Any:
        rows.append(len(batch.input_ids))
        if rows[-1] > ROWS["held"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(model, batch, *args, **more)

    monkeypatch.setattr(Model, "forward", small)
    monkeypatch.setattr(fitting, "tries", lambda model: True)
    return rows


def texts(name: str, sequences: int, **settings: Any) -> RunSpec:
    """A run that costs next to nothing."""
    task = f"text_loss:sequences={sequences},length=12"
    return RunSpec(name=name, task=task, selector="random", intervention="zero", controls=5, resamples=100, **settings)  # type: ignore[arg-type]


def made(asked: RunSpec, output: Path) -> Finished:
    return execute(plan(asked, catalogue()), output, Silent(), "test")


def kept(run: Path) -> dict[str, bytes]:
    """What must be the same of two runs that differ in nothing but what was asked for."""
    differs = {"provenance.json", "report.html", "result.json", "files.sha256"}
    return {name: content for name, content in files(run).items() if name not in differs}


def test_a_run_finds_what_fits_and_is_the_run_of_that_number(tmp_path: Path, passes: list[int]) -> None:
    auto = made(texts("auto", 20, batch_size="auto"), tmp_path)
    assert max(passes) == 20 and auto.record.identity.batch_size == "auto"
    assert json.loads((auto.path / "provenance.json").read_text())["batch_size"] == 8
    passes.clear()
    number = made(texts("number", 20, batch_size=8), tmp_path)
    assert max(passes) == 8 and kept(auto.path) == kept(number.path)
    assert auto.record.primary == number.record.primary
    sizes = {row["run"]: row["batch_size"] for row in read(tmp_path / "leaderboard.jsonl")}
    assert sizes == {"auto": 8, "number": 8}
    assert "(auto: 8)" in " ".join((auto.path / "report.html").read_text("utf-8").split())


def test_it_is_found_for_each_stretch_and_found_again_by_a_run_that_continues(
    tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.running.execute.PART", 4)
    observe, calls = fitting.observe, []

    def counted(stages: Any, engine: Any, prompts: Any, progress: Any) -> Any:
        calls.append(len(prompts))
        return observe(stages, engine, prompts, progress)

    def fails(stages: Any, engine: Any, prompts: Any, progress: Any) -> Any:
        if calls.count(4) == 2:
            raise KeyboardInterrupt
        return counted(stages, engine, prompts, progress)

    monkeypatch.setattr(fitting, "observe", counted)
    asked = texts("stretches", 32, batch_size="auto:2")
    whole = made(asked, tmp_path / "whole")
    found = [16, 16]  # the longest 16 are tried: too many, and 8 at once are not
    assert calls == [*found, 4, 4, 4, 4, *found, 4, 4, 4, 4], "what fits is looked for where a half begins"
    calls.clear()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(fitting, "observe", fails)
        made(asked, tmp_path / "broken")
    calls.clear()
    broken = made(asked, tmp_path / "broken")
    assert calls == [*found, 4, 4, *found, 4, 4, 4, 4], "it goes on in the middle of a stretch"
    assert kept(broken.path) == kept(whole.path) and broken.record == whole.record


def test_on_a_cpu_it_is_reckoned_and_the_results_are_those_of_a_number(tmp_path: Path) -> None:
    asked = {"a": "auto", "b": 4, "c": "auto"}
    auto, number, again = (made(texts("few", 6, batch_size=x), tmp_path / name) for name, x in asked.items())
    assert json.loads((auto.path / "provenance.json").read_text())["batch_size"] == 8
    assert "batch_size" not in json.loads((number.path / "provenance.json").read_text())
    values = [[x.value for x in run.record.measures] for run in (auto, number)]
    np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-7)
    both = files(auto.path), files(again.path)
    for name in set(both[0]) - {"provenance.json", "report.html"}:
        assert both[0][name] == both[1][name], name


def test_a_number_that_does_not_fit_is_said_and_what_would(
    small_facts: Path, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(
        SystemRefused, match=r"^--batch_size: the memory of cpu does not hold 16 prompts in a pass; take fe"
    ):
        made(spec("many", small_facts, batch_size=16), tmp_path)
    model = demo_model()
    monkeypatch.setitem(ROWS, "held", 0)
    with pytest.raises(
        SystemRefused, match=r"does not hold 1 prompt in a pass; take dtype=bfloat16, or device_map=auto\.$"
    ):
        plans = [plan(texts("none", 4, batch_size="auto"), catalogue())]
        execute_together(plans, tmp_path, Silent(), "test", model=model)


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "read"),
    [(8, 8), ("8", 8), ("auto", "auto"), ("auto:4", "auto:4"), ("auto:1", "auto"), (" auto ", "auto"), (10**6, 10**6)],
)
def test_what_is_read(given: Any, read: Any) -> None:
    assert check_batch_size(given) == read and type(check_batch_size(given)) is type(read)


@pytest.mark.parametrize(
    "given", ["0", "-1", "auto:x", "auto:0", "auto:", "auto:2.5", "Auto", "", "4.5", True, 10**6 + 1]
)
def test_nonsense_is_refused_in_a_sentence(given: Any) -> None:
    request = Request(task="knowledge_conflict", selector="entropy", intervention="mean", batch_size=given)
    with pytest.raises(
        HarnessError, match='"batch_size" of harness eval: expected a number of prompts from 1 to'
    ) as said:
        request.specification(catalogue())
    assert "auto, or auto:4, got" in str(said.value) and "\n" not in str(said.value)


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "--task", "knowledge_conflict", "--selector", "entropy", "--intervention", "mean", "--dry_run"],
        ["arena", "--selectors", "random"],
        ["compare", "--base", "demo", "--tuned", "demo-tuned"],
    ],
)
def test_every_command_refuses_it(harness: Harness, words: list[str]) -> None:
    code, out, err = harness(*words, "--batch_size", "auto:x")
    assert code == 2 and "expected a number of prompts from 1 to 1000000, auto, or auto:4, got 'auto:x'" in out + err


def test_runs_that_share_prompts_share_how_many_fit(small_facts: Path) -> None:
    specs = [spec(str(n), small_facts, batch_size=size) for n, size in enumerate(("auto", "auto", "auto:2", 64))]
    groups = grouped_by_prompts([plan(x, catalogue()) for x in specs])
    assert [[x.spec.name for x in group] for group in groups] == [["0", "1"], ["2"], ["3"]]


def test_a_registry_and_the_command_of_a_run_have_it(small_facts: Path) -> None:
    from harness.running.request import command_of

    asked = spec("auto", small_facts, batch_size="auto")
    assert RunSpec.model_validate_json(asked.model_dump_json()) == asked
    assert "--batch_size auto" in command_of(asked, Path("reports"))
