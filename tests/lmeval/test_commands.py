"""``harness lm-eval`` and stock ``lm_eval``, through their commands, offline."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partialmethod
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager

TASKS = str(files("harness_tasks"))
WEIGHTS = str(files("harness_plugins.demo") / "weights")
OURS = ("knowledge_conflict", "induction_synthetic")
Harness = Callable[..., tuple[int, str, str]]


def test_the_folder_of_tasks_holds_them(harness: Harness) -> None:
    code, out, _ = harness("lm-eval", "tasks-path")
    assert code == 0
    for name in OURS:
        assert f"task: {name}\n" in (Path(out.strip()) / name / f"{name}.yaml").read_text()


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        (["run", "--model", "harness", "--tasks", "a,b"], True),
        (["run", "--model", "harness", "--tasks", "a,b", "--include_path", "mine"], False),
        (["run", "--model", "harness", "--tasks", "a,b", "--include=mine"], False),
        (["run", "--config=mine.yaml"], False),
        (["run", "--help"], False),
        (["ls", "tags"], True),
        (["validate", "--tasks", "a"], True),
        (["--model", "hf", "--tasks", "a", "-L", "3"], True),  # the older form
        (["new-subcommand", "x"], False),
    ],
)
def test_everything_else_is_passed_on_and_our_tasks_are_found(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, given: list[str], ours: bool
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: seen.append(sys.argv))
    assert harness("lm-eval", *given)[0] == 0
    assert seen == [["lm-eval", *given, *(("--include_path", str(files("harness_tasks"))) if ours else ())]]


def test_registering_is_lazy_and_takes_nothing_away() -> None:
    program = (
        "import sys, harness.lmeval as x; x.register(); x.register(); from lm_eval.api.registry import model_registry\n"
        "print('harness' in model_registry, 'hf' in model_registry, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True", "False"], done.stderr


WITHOUT_ITS_OWN_TASKS = """
import functools, runpy, sys
from lm_eval.tasks import TaskManager
TaskManager.__init__ = functools.partialmethod(TaskManager.__init__, include_defaults=False)
module = sys.argv.pop(1)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""A program that runs a module as a command, whose lm-eval does not read all of its own definitions: that takes twenty
seconds. Theirs have other names than ours."""


def test_no_task_of_lm_evals_own_has_the_name_of_ours() -> None:
    ours = {name: re.compile(rf"^(task|group|tag): *[\"']?{name}[\"']?\s*$", re.M) for name in OURS}
    read = 0
    for path in Path(str(files("lm_eval") / "tasks")).rglob("*.y*ml"):
        text = path.read_text(encoding="utf-8")
        read += 1
        assert not [name for name, pattern in ours.items() if name in text and pattern.search(text)], path
    assert read > 1000


def lm_eval(tmp_path: Path, *arguments: str, program: str = "lm_eval") -> dict[str, Any]:
    """Results of a run of the command, as it writes them."""
    module, *first = program.split()
    command = [
        sys.executable,
        "-c",
        WITHOUT_ITS_OWN_TASKS,
        module,
        *first,
        *arguments,
        "--device",
        "cpu",
        "--batch_size",
        "32",
    ]
    command += ["--limit", "60", "--output_path", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    [path] = tmp_path.glob("out_*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.slow
def test_stock_lm_eval_runs_our_tasks_by_name(tmp_path: Path) -> None:
    both = "knowledge_conflict,induction_synthetic"
    # The older flags, without a subcommand.
    found = lm_eval(
        tmp_path, "--include_path", TASKS, "--model", "hf", "--model_args", f"pretrained={WEIGHTS}", "--tasks", both,
    )  # fmt: skip
    conflict, induction = (found["results"][name] for name in both.split(","))
    assert sum(conflict[f"{name},none"] for name in ("CK", "PK", "ND")) == pytest.approx(1)
    assert 0 < induction["loss,none"] < 3 and 0.5 < induction["accuracy,none"] < 1
    assert found["n-samples"]["induction_synthetic"]["effective"] == 60


@pytest.mark.slow
def test_stock_lm_eval_finds_our_model_through_a_yaml_file(tmp_path: Path) -> None:
    """Files are read before the model is looked up, and `!function` imports what it names; names come too late."""
    (tmp_path / "texts.jsonl").write_text('{"text": "The capital of France is"}\n{"text": "One"}\n' * 4)
    (tmp_path / "plain.yaml").write_text(
        "task: plain\ndataset_path: json\noutput_type: loglikelihood_rolling\ntest_split: test\ndoc_to_text: ''\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'texts.jsonl'}}}}}\ndoc_to_target: text\n"
        "metric_list: [{metric: bits_per_byte}]\n"
    )
    (tmp_path / "mine.yaml").write_text(
        "include: plain.yaml\ntask: mine\nmetadata: {model: !function harness.lmeval.tasks.register}\n"
    )
    arguments = {"pretrained": "demo", "selector": {"name": "entropy", "top": 2}, "intervention": "zero", "control": 1}
    found = lm_eval(
        tmp_path,
        "run",
        "--model",
        "harness",
        "--model_args",
        json.dumps(arguments),
        "--tasks",
        str(tmp_path / "mine.yaml"),
    )
    record = found["config"]["harness"]
    assert record["control"] == 1 and len(record["edited"]) == 2 and not {*record["edited"]} & {*record["selected"]}
    assert found["results"]["mine"]["bits_per_byte,none"] > 0


@pytest.mark.slow
def test_the_wrapper_runs_stock_lm_eval_on_a_treated_model(tmp_path: Path) -> None:
    model = 'pretrained=demo,selector="entropy:top=3,null_dims=12",intervention=mean,sequences=8'
    found = lm_eval(
        tmp_path,
        *("run", "--model", "harness", "--model_args", model, "--include_path", TASKS, "--tasks", "knowledge_conflict"),
        program="harness lm-eval",
    )
    assert found["config"]["model"] == "harness" and len(found["config"]["harness"]["edited"]) == 3
    assert found["config"]["harness"]["selector"]["params"]["null_dims"] == 12
    assert found["results"]["knowledge_conflict"]["entropy,none"] > 0


def test_mistakes_in_model_args_are_one_sentence(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = partialmethod(TaskManager.__init__, include_defaults=False)  # as above
    monkeypatch.setattr(TaskManager, "__init__", begin)
    code, _, err = harness(
        "lm-eval", "run", "--model", "harness", "--include_path", TASKS, "--tasks", "knowledge_conflict",
        "--model_args", "pretrained=demo,selector=entropy",
    )  # fmt: skip
    assert code == 2 and "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: intervention: a selector and an intervention go together")
