"""A Ray cluster of several nodes on this machine: a node that is lost, a run that fails, an interruption, and the
prompts of one run on two workers. The commands are given in this process, nodes and workers are others."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from commands import VOLATILE, Harness, files
from workers import interruptible

from harness.plugin.catalogue import catalogue
from harness.results import under_way

pytest.importorskip("ray.cluster_utils", reason="Ray has no wheel for every Python")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

MEMORY = 100_000_000
"""Bytes of a node's object store."""

PLUGIN = '''
import json
import os
import tempfile
import time
from pathlib import Path

import harness.running.execute
from harness.plugin import hookimpl
from harness_plugins.context_copying.task.knowledge_conflict import KnowledgeConflict

harness.running.execute.PART = 16
harness.running.execute.write_shown = lambda folder, shown, advance: None
FOLDER = Path(os.environ["HARNESS_TEST_FOLDER"])


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
    """A folder with a registry, a plugin's file that can be held up, and a cluster."""

    folder: Path
    cluster: Any = None
    nodes: list[Any] = field(default_factory=list)

    def command(self, output: str, *arguments: str, local: bool = False) -> list[str]:
        """``harness run`` on the cluster, or here."""
        where = ["--executor", "local"] if local else ["--address", self.cluster.address]
        if not any(x.startswith("ray") for x in arguments) and not local:
            where = ["--executor", "ray", *where]
        files_ = ["--plugin", str(self.folder / "halting.py"), "--registry", str(self.folder / "registry.yaml")]
        return ["run", *arguments, *where, *files_, "-o", str(self.folder / output)]

    def halt(self, on: bool) -> None:
        path = self.folder / "halt"
        path.touch() if on else path.unlink()

    def log(self) -> list[dict[str, Any]]:
        """What the task was asked, over all nodes."""
        path = self.folder / "log.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def forget(self) -> None:
        (self.folder / "log.jsonl").unlink(missing_ok=True)

    def part(self, output: str, run: str) -> bool:
        """Whether the first part of a run has come to the command, and the second is held up on its node."""
        arrived = list((self.folder / output).glob(f"{run}-*/unfinished/part-00000000.safetensors"))
        return bool(arrived) and sum(row["tag"] == run for row in self.log()) == 2

    def watched(self, output: str, run: str) -> bool:
        """Whether it is said, where `harness view` looks for it, what a node does for a run."""
        steps = [
            step
            for folder in (self.folder / output).glob(f"{run}-????????")
            if (found := under_way.read(folder.parent, folder.name)) is not None
            for step in found.steps
        ]
        return any(" prompts under " in step.title and step.title.endswith(")") and step.done for step in steps)


@contextmanager
def meanwhile(*steps: Callable[[], object]) -> Iterator[None]:
    """Within the block another thread does one step after another; one that gives False is asked again."""
    over = threading.Event()

    def act() -> None:
        for step in steps:
            while step() is False and not over.is_set():
                time.sleep(0.05)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def place(small_facts: Path) -> Iterator[Place]:
    from ray.cluster_utils import Cluster

    folder = Path(tempfile.mkdtemp(prefix="h"))  # short: names of sockets hold 107 bytes
    (folder / "registry.yaml").write_text(REGISTRY.replace("DATA", str(small_facts)))
    (folder / "halting.py").write_text(PLUGIN)
    place = Place(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PART", "write_shown"):  # what the file changes of them is undone
            patch.setattr(f"harness.running.execute.{name}", None)
        patch.setattr("harness.report.page.write_page", lambda path: None)
        own = {"HARNESS_TEST_FOLDER": str(folder), "RAY_USAGE_STATS_ENABLED": "0", "TMPDIR": str(folder)}
        for name, value in own.items():  # a worker that is killed leaves its folder
            patch.setenv(name, value)  # the nodes inherit it
        options = {"object_store_memory": MEMORY, "include_dashboard": False}
        place.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **options})
        try:
            place.nodes = [place.cluster.add_node(num_cpus=1, **options) for _ in range(2)]
            yield place
        finally:
            place.cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
            for name, file in list(catalogue().files.items()):
                if name.endswith("halting.py"):
                    catalogue().remove(catalogue().files.pop(name).origin)
                    assert file.source == PLUGIN


def same_bytes(here: Path, there: Path) -> None:
    for run in here.glob("*-????????/"):
        mine, theirs = files(run), files(there / run.name)
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - set(VOLATILE):
            assert mine[name] == theirs[name], (run.name, name)


def row_ids(output: Path) -> list[str]:
    return [json.loads(line)["row_id"] for line in (output / "leaderboard.jsonl").read_text().splitlines()]


def test_a_run_whose_node_is_lost_continues_on_another(place: Place, harness: Harness) -> None:
    code, _, err = harness(*place.command("here", "first", "second", "third", "--json", "--quiet", local=True))
    assert code == 0, err
    asked_here = Counter(row["prompt"] for row in place.log() if row["tag"] == "first")
    assert len(asked_here) >= 2 and set(asked_here.values()) == {1}
    place.forget()
    lost: dict[str, str] = {}

    def remove() -> None:
        lost.update({row["tag"]: row["node"] for row in place.log()})
        [victim] = [node for node in place.nodes if node.node_id == lost["first"]]
        place.cluster.remove_node(victim, allow_graceful=False)

    def ended() -> bool:  # it outlives its node for a moment
        return not any(Path(f"/proc/{row['process']}").exists() for row in place.log() if row["tag"] == "first")

    def both() -> bool:
        runs = "first", "second"
        return all(place.part("there", run) and place.watched("there", run) for run in runs)

    place.halt(True)
    with meanwhile(both, remove, ended, lambda: place.halt(False)):
        code, out_there, err = harness(*place.command("there", "first", "second", "--json"))
    assert code == 0, err
    assert len(set(lost.values())) == 2
    assert "first: its worker was lost" in err and "retry 1 of 3" in err
    assert '"name": "first"' in out_there and '"name": "second"' in out_there

    asked = [(row["prompt"], row["node"]) for row in place.log() if row["tag"] == "first"]
    (held, _), *again = asked[1:]
    assert again[0] == (held, lost["second"])  # not the first part, which had come to the driver
    assert Counter(prompt for prompt, _ in asked) == asked_here + Counter([held])
    same_bytes(place.folder / "there", place.folder / "here")
    ids = [row_ids(place.folder / output) for output in ("here", "there")]
    assert set(ids[1]) < set(ids[0]) and len(set(ids[1])) == len(ids[1])


def test_a_run_that_fails_is_named_and_the_others_go_on(place: Place, harness: Harness) -> None:
    code, out, err = harness(*place.command("there", "wrong", "second", "--json"))
    assert code == 2
    assert "note: wrong: not made: selector neurons" in err
    assert '"name": "second"' in out and '"run": "wrong"' in out
    assert not list((place.folder / "there").glob("wrong-*"))


def test_an_interrupted_run_continues_on_two_workers(place: Place, harness: Harness) -> None:
    place.forget()
    place.halt(True)
    with interruptible() as press, meanwhile(lambda: place.part("there", "third"), press, lambda: place.halt(False)):
        code, _, err = harness(*place.command("there", "third"))
    assert code == 130, err
    assert err.splitlines()[-1] == "interrupted; the same command continues from the prompts that are finished"
    place.nodes.append(place.cluster.add_node(num_cpus=1, object_store_memory=MEMORY, include_dashboard=False))
    code, _, err = harness(*place.command("there", "third", "--quiet", "--executor", "ray:workers=2"))
    assert code == 0, err
    asked = Counter(row["prompt"] for row in place.log())
    assert asked.pop(place.log()[1]["prompt"]) == 2 and set(asked.values()) == {1}
    assert len({row["node"] for row in place.log()[2:]}) == 2  # each made parts
    same_bytes(place.folder / "there", place.folder / "here")
    ids = row_ids(place.folder / "there")
    assert sorted(set(ids)) == sorted(row_ids(place.folder / "here")) and len(set(ids)) == len(ids)
