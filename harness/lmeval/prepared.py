"""Prompts that were written beforehand: a folder for each task, which any lm-eval runs with any model."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import harness
from harness.engine.closed_form import ClosedFormEngine
from harness.errors import HarnessError, suggest
from harness.files.owned import Written
from harness.files.store import jsonl_bytes
from harness.lmeval.tasks import build
from harness.plugin import border
from harness.plugin.specs import parse_spec
from harness.report.publishing import publish, refuse_foreign

if TYPE_CHECKING:
    from harness.plugin.components import ModelLoader

COPIED = ("scoring.yaml", "scoring.py")
"""Files of a task's folder that its prepared prompts are run with; they need nothing of the harness."""

PROMPTS, LISTING = "prompts.jsonl", ".harness-prepared.sha256"

DEFINITION = """\
# Prompts for one model, written by `harness lm-eval prepare`; the folder can be moved.
task: {name}_prepared
include: scoring.yaml
custom_dataset: !function scoring.load
"""


def ours() -> list[str]:
    """Names of our tasks for lm-eval."""
    found = (x.name for x in files("harness_tasks").iterdir() if (x / COPIED[0]).is_file())
    return sorted(found)


def write(
    loader: ModelLoader, asked: Sequence[str] | None, output: Path, limit: int | None, seed: int
) -> list[tuple[Path, int]]:
    """Write the prompts of tasks (all of ours by default), once all of them are made.

    Returns:
        For each task its folder, ``output/NAME``, and how many prompts it holds.

    Raises:
        HarnessError: there is no such task, it finds nothing to ask the model, or a file is in the way that is not
            ours.
    """
    specs = [parse_spec(item, "--task") for item in asked or ours()]
    for spec in specs:
        if spec.name not in ours():
            raise HarnessError(
                f'--task: there is no "{spec.name}" to prepare.{suggest(spec.name, ours())} There are: '
                f"{', '.join(ours())}."
            )
        known = Written.read(output / spec.name / LISTING)
        for file in (PROMPTS, *COPIED, f"{spec.name}.yaml"):
            refuse_foreign(output / spec.name, file, known)
    tasks = [build(spec.name, spec.params, "--task", loader.corpus) for spec in specs]
    model = border.load(loader)
    engine, made = ClosedFormEngine(model), []
    for task in tasks:
        cls = import_module(f"harness_tasks.{task.name}.task").Task
        rows = [cls.row(model, prompt) for prompt in cls.prompts(engine, task, limit, seed)]
        about = {"harness": harness.__version__, "model": model.provenance(), "task": task.identity()}
        made.append((task.name, rows, {**about, "limit": limit, "seed": seed}))
    return [(_write(output / name, name, rows, about), len(rows)) for name, rows, about in made]


def _write(folder: Path, name: str, rows: list[dict[str, Any]], about: dict[str, Any]) -> Path:
    metadata = yaml.safe_dump({"metadata": {"version": 1.0, "prepared": about}}, sort_keys=False, allow_unicode=True)
    made = {
        PROMPTS: jsonl_bytes(rows),
        **{file: (files("harness_tasks") / name / file).read_bytes() for file in COPIED},
        f"{name}.yaml": (DEFINITION.format(name=name) + metadata).encode(),
    }
    publish(folder, LISTING, made, whole=True)
    return folder
