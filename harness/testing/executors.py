"""A check of what makes runs elsewhere."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.files.digests import files_digest
from harness.plugin.catalogue import catalogue
from harness.plugin.executors import Executor
from harness.results.folder import PAGE, PROVENANCE
from harness.running.telling import Telling, reporters
from harness.testing.common import made, promise, running

if TYPE_CHECKING:
    from harness.running.execute import Plan
    from harness.running.executors import Made

REFUSED = "refused"
"""The run that cannot be made: its neuron is in no layer of the model."""


def check_executor(cls: type[Executor], /, **params: Any) -> list[str]:
    """Check what an executor promises: three small runs of the bundled model are made as in this process, byte for
    byte, and a fourth that cannot be made is named; each row is in the leaderboard once; what is finished is not made
    again.

    Args:
        params: the executor's parameters.

    Returns:
        what it said of its progress.

    Raises:
        AssertionError: names the promise that was broken.
    """
    from harness.builtin.in_process import Local

    executor, owner = made(cls, "executor", params), f"executor {getattr(cls, 'name', '')}"
    running(owner, "ready()", executor.ready)
    said = _Said()
    with tempfile.TemporaryDirectory() as folder:
        here, there = Path(folder, "here"), Path(folder, "there")
        groups = _groups()
        _make(Local(), groups, here, _Said())
        found = running(owner, "execute()", lambda: _make(executor, groups, there, said))
        for run in found:
            name = getattr(run, "name", None)
            promise(name in (None, REFUSED), owner, f"{name} was not made: {getattr(run, 'error', '')}")
        _check_same(here, there, owner)
        for run in running(owner, "execute()", lambda: _make(executor, groups, there, said)):
            finished = getattr(run, "reused", True)
            promise(finished, owner, "runs that were finished were made again when they were asked for again")
        rows = _rows(there)
        promise(len(set(rows)) == len(rows), owner, "a row is in the leaderboard twice")
        promise(sorted(rows) == sorted(_rows(here)), owner, "the leaderboard has other rows than in this process")
    return said.sentences


def _groups() -> list[list[Plan]]:
    """Three runs on the same prompts, one of which cannot be made, and one on others."""
    from harness.running.execute import grouped_by_prompts, plan
    from harness.running.spec import RunSpec

    common: dict[str, Any] = {"task": "knowledge_conflict", "metrics": "entropy_change", "resamples": 100}
    common |= {"selector": "neurons:neurons=[1.3,1.4]", "intervention": "zero", "controls": 2, "limit": 8}
    each: dict[str, dict[str, Any]] = {  # no figure is drawn of any
        "zero": {},
        "scale": {"intervention": "scale:factor=0.5"},
        REFUSED: {"selector": "neurons:neurons=[99.0]"},
        "seeded": {"seed": 1},
    }
    specs = [RunSpec.model_validate({"name": name, **common, **own}) for name, own in each.items()]
    return grouped_by_prompts([plan(spec, catalogue()) for spec in specs])


def _make(executor: Executor, groups: Sequence[Sequence[Plan]], output: Path, said: _Said) -> list[Made]:
    from harness.running.executors import make

    return [run for group in make(executor, groups, output, "a check", False, said) for run in group]


def _check_same(here: Path, there: Path, owner: str) -> None:
    """Two folders hold the same runs, byte for byte."""
    runs = [sorted(path.name for path in output.glob("*-????????")) for output in (here, there)]
    promise(runs[0] == runs[1], owner, f"it left the folders {runs[1]}, expected {runs[0]}")
    for name in runs[0]:
        files = [
            {
                path.relative_to(output / name).as_posix(): path
                for path in sorted((output / name).rglob("*"))
                if path.is_file() and path.name not in (PAGE, PROVENANCE)
            }
            for output in (here, there)
        ]
        differ = set(files[0]) ^ set(files[1])
        promise(not differ, owner, f"{name}: {', '.join(sorted(differ))} is not in both this process's folder and its")
        for file in files[0]:
            same = files_digest([files[0][file]]) == files_digest([files[1][file]])
            promise(same, owner, f"{name}/{file} has other bytes than of a run in this process")


def _rows(output: Path) -> list[str]:
    lines = (output / "leaderboard.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["row_id"] for line in lines]


class _Said(Telling):
    """Keeps the leaderboard, and remembers what is told where progress is shown."""

    def __init__(self) -> None:
        super().__init__(reporters(catalogue(), ["no:page"]))
        self.sentences: list[str] = []

    def note(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def tell(self, sentence: str) -> None:
        self.sentences.append(sentence)
