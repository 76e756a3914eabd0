"""A Ray cluster of several nodes on this machine: a node that is lost, a run that fails, an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from commands import VOLATILE, files

pytest.importorskip("ray.cluster_utils", reason="Ray has no wheel for every Python")

pytestmark = pytest.mark.slow

MEMORY = 100_000_000
"""Bytes of a node's object store."""

PLUGIN = '''
import json
import os
import tempfile
import time
from pathlib import Path

import harness.running.execute
from harness import hookimpl
from harness_plugins.context_copying.task.knowledge_conflict import KnowledgeConflict

harness.running.execute.PART = 16
harness.running.execute.write_shown = lambda folder, shown, advance: None
FOLDER = Path(os.environ["HARNESS_TEST_FOLDER"])
tempfile.tempdir = str(FOLDER)  # a worker that is killed leaves its folder


class Halting(KnowledgeConflict):
    """Writes down which prompts it is asked, and on which node; waits after the first part while it is told to."""

    name = "halting"
    tag: str

    def observe(self, engine, prompts, conditions, progress=None):
        with (FOLDER / "log.jsonl").open("a+") as file:
            file.seek(0)
            later = any(json.loads(line)["tag"] == self.tag for line in file)
            row = {"tag": self.tag, "prompt": prompts[0].id, "node": _node(), "process": os.getpid()}
            file.write(json.dumps(row) + "\\n")
        while later and (FOLDER / "halt").exists():
            time.sleep(0.02)
        return super().observe(engine, prompts, conditions, progress)


def _node():
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"


@hookimpl
def harness_tasks():
    return [Halting]
'''

REGISTRY = """
runs:
  first:
    task: &task {name: halting, tag: first, data: DATA}
    selector: entropy
    intervention: mean
    metrics: [entropy_change, log_odds]
    controls: 19
    limit: 20
    resamples: 100
  second: {extends: first, task: {name: halting, tag: second, data: DATA}}
  wrong: {extends: second, selector: "neurons:neurons=[99.0]"}
  third: {extends: first, task: {name: halting, tag: third, data: DATA}}
"""


@dataclass
class Place:
    """A folder with a registry, a plugin that can be held up, and a cluster that has it.

    Attributes:
        environment: of every process.
    """

    folder: Path
    environment: dict[str, str]
    cluster: Any = None
    nodes: list[Any] = field(default_factory=list)

    def start(self, output: str, *arguments: str) -> subprocess.Popen[str]:
        """``harness run`` on the cluster, or here with ``--executor local``."""
        where = ("--executor", "ray", "--address", self.cluster.address) if "--executor" not in arguments else ()
        command = [sys.executable, "-m", "harness", "run", *arguments, *where, "-o", str(self.folder / output)]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def halt(self, on: bool) -> None:
        path = self.folder / "halt"
        path.touch() if on else path.unlink()

    def log(self) -> list[dict[str, Any]]:
        """What the task was asked, over all nodes."""
        path = self.folder / "log.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def forget(self) -> None:
        (self.folder / "log.jsonl").unlink(missing_ok=True)

    def wait(self, process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
        """Until it happened; if the process ends before, say why."""
        while not happened():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)

    def part(self, output: str, run: str) -> bool:
        """Whether the first part of a run has come to the driver, and the second is held up on its node."""
        arrived = list((self.folder / output).glob(f"{run}-*/unfinished/part-00000000.safetensors"))
        return bool(arrived) and sum(row["tag"] == run for row in self.log()) == 2


@pytest.fixture(scope="module")
def place(small_facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("cluster")
    (folder / "registry.yaml").write_text(REGISTRY.replace("DATA", str(small_facts)))
    (folder / "harness_halting.py").write_text(PLUGIN)
    info = folder / "harness_halting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: harness-halting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[harness]\nhalting = harness_halting\n")
    own = {"PYTHONPATH": str(folder), "HARNESS_TEST_FOLDER": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    place = Place(folder, {**os.environ, **own})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)  # the nodes inherit it
        options = {"object_store_memory": MEMORY, "include_dashboard": False}
        place.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **options})
        try:
            place.nodes = [place.cluster.add_node(num_cpus=1, **options) for _ in range(2)]
            yield place
        finally:
            place.cluster.shutdown()


def test_a_run_whose_node_is_lost_continues_on_another(place: Place) -> None:
    here = place.start("here", "first", "second", "--executor", "local", "--quiet", "--json")
    out, err = here.communicate()
    assert here.returncode == 0, err
    asked_here = Counter(row["prompt"] for row in place.log() if row["tag"] == "first")
    assert len(asked_here) >= 2 and set(asked_here.values()) == {1}
    place.forget()

    place.halt(True)
    there = place.start("there", "first", "second", "--json")
    place.wait(there, lambda: place.part("there", "first") and place.part("there", "second"))
    lost = {row["tag"]: row["node"] for row in place.log()}
    assert len(set(lost.values())) == 2
    [victim] = [node for node in place.nodes if node.node_id == lost["first"]]
    place.cluster.remove_node(victim, allow_graceful=False)
    [worker] = {row["process"] for row in place.log() if row["tag"] == "first"}
    place.wait(there, lambda: not Path(f"/proc/{worker}").exists())  # it outlives its node for a moment
    place.halt(False)
    out_there, err = there.communicate()
    assert there.returncode == 0, err
    assert "first: its worker was lost" in err and "retry 1 of 3" in err
    assert out_there == out

    asked = [(row["prompt"], row["node"]) for row in place.log() if row["tag"] == "first"]
    (held, _), *again = asked[1:]
    assert again[0] == (held, lost["second"])  # not the first part, which had come to the driver
    assert Counter(prompt for prompt, _ in asked) == asked_here + Counter([held])

    for run in (place.folder / "here").glob("*-*/"):
        mine, theirs = files(run), files(place.folder / "there" / run.name)
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - set(VOLATILE):
            assert mine[name] == theirs[name], (run.name, name)
    ids = [_row_ids(place.folder / output) for output in ("here", "there")]
    assert sorted(ids[0]) == sorted(ids[1]) and len(set(ids[1])) == len(ids[1])


def test_a_run_that_fails_is_named_and_the_others_go_on(place: Place) -> None:
    process = place.start("failing", "wrong", "second", "--json")
    out, err = process.communicate()
    assert process.returncode == 2
    assert "note: wrong: not made: selector neurons" in err
    assert err.splitlines()[-1].startswith("error: 1 of 2 runs was not made. wrong: selector neurons")
    assert json.loads(out)["name"] == "second"
    assert not list((place.folder / "failing").glob("wrong-*"))


def test_an_interruption_is_clean_and_a_second_start_continues(place: Place) -> None:
    place.forget()
    place.halt(True)
    first = place.start("interrupted", "third")
    place.wait(first, lambda: place.part("interrupted", "third"))
    first.send_signal(signal.SIGINT)
    _, err = first.communicate()
    place.halt(False)
    assert first.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted; the same command continues from the prompts that are finished"
    second = place.start("interrupted", "third", "--quiet")
    assert second.communicate()[1] == "" and second.returncode == 0
    asked = Counter(row["prompt"] for row in place.log())
    assert asked.pop(place.log()[1]["prompt"]) == 2 and set(asked.values()) == {1}
    assert len(set(_row_ids(place.folder / "interrupted"))) == len(_row_ids(place.folder / "interrupted"))


def _row_ids(output: Path) -> list[str]:
    return [json.loads(line)["row_id"] for line in (output / "leaderboard.jsonl").read_text().splitlines()]
