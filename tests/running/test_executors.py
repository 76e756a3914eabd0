"""Executors without a cluster: what is refused, what is sent, and how it is put together again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from commands import files
from small_runs import Silent, in_process
from small_runs import quick as spec
from workers import Threads, interruptible

from harness.errors import HarnessError
from harness.plugin.catalogue import catalogue
from harness.running import orders
from harness.running.driver import Driver, Group, needs
from harness.running.execute import identity_of, plan
from harness.running.executors import Made, Runs, finished_of
from harness.running.messages import Began, Job, Message, Opened, Piece, Refused, Working, from_bytes, to_bytes
from harness.running.orders import work
from harness.running.registry import load_registry
from harness.running.spec import Resources, RunSpec

pytestmark = pytest.mark.usefixtures("blank_figures", "undrawn")

Harness = Callable[..., tuple[int, str, str]]


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--executor", "rya"], '--executor: no executor is called "rya". Did you mean "ray"?'),
        (["--executor", "entropy"], "(entropy is a selector.)"),
        (["--address", "auto"], "--address: this is not for --executor local, but for ray."),
        (["--gpus-per-run", "1"], "--gpus-per-run: this is not for --executor local, but for ray"),
        (["--executor", "ray:address=a", "--address", "b"], "--address: --executor ray:address=a has address already"),
        (["--executor", "ray", "--cpus-per-run", "1.5"], 'parameter "cpus" of ray: expected a whole number above 1.'),
        (["--executor", "ray", "--gpus-per-run", "-1"], '"gpus" of ray'),
        (["--executor", "ray:max_retries=-1"], '"max_retries" of ray'),
    ],
)
def test_a_wrong_option_is_one_sentence(harness: Harness, tmp_path: Path, options: list[str], sentence: str) -> None:
    code, _, err = harness("run", "copying", "-o", tmp_path / "reports", *options)
    assert code == 2 and sentence in err.splitlines()[-1]
    assert not (tmp_path / "reports").exists()


def test_ray_is_an_extra(harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = harness("run", "copying", "-o", tmp_path, "--executor", "ray")
    sentence = 'error: --executor ray: Ray is not installed; pip install "neuron-harness[ray]".'
    assert (code, err.splitlines()[-1]) == (2, sentence)


def test_a_client_of_another_machine_is_refused(harness: Harness, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    code, _, err = harness("run", "copying", "-o", tmp_path, "--executor", "ray", "--address", "ray://host:10001")
    assert code == 2 and "ray job submit" in err


def test_a_cluster_that_does_not_answer_is_one_sentence(harness: Harness, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    code, _, err = harness("run", "copying", "-o", tmp_path, "--executor", "ray", "--address", "127.0.0.1:1")
    assert code == 2 and "no Ray cluster can be used at 127.0.0.1:1" in err.splitlines()[-1]


# -- what a run needs --------------------------------------------------------------------------------------------------

REGISTRY = """
models:
  big: {name: hf, pretrained: nowhere}
runs:
  small: {task: knowledge_conflict, selector: entropy, intervention: mean}
  large: {extends: small, model: big}
  larger: {extends: large, resources: {gpus: 2}}
resources:
  big: {cpus: 4, gpus: 1}
"""


def test_resources_come_from_the_run_or_else_its_model(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(REGISTRY)
    known = load_registry(path)
    assert {name: runs[0].resources for name, runs in known.runs.items()} == {
        "small": Resources(),
        "large": Resources(cpus=4, gpus=1),
        "larger": Resources(cpus=4, gpus=2),
    }
    assert known.find("small", "big")[0].resources == Resources(cpus=4, gpus=1)
    path.write_text(REGISTRY.replace("gpus: 2", "gpu: 2"))
    with pytest.raises(HarnessError, match=r'resources.*"resources.gpu"'):
        load_registry(path)


def test_a_group_needs_what_its_largest_run_needs(small_facts: Path) -> None:
    plans = [
        plan(spec("a", small_facts, resources=Resources(cpus=2)), catalogue()),
        plan(spec("b", small_facts, resources=Resources(cpus=1, gpus=1)), catalogue()),
    ]
    assert needs(plans, Resources()) == (2, 1)
    assert needs(plans[:1], Resources()) == (2, 0)
    assert needs(plans, Resources(cpus=3)) == (3, 1)


def test_resources_are_no_part_of_a_runs_identity(small_facts: Path) -> None:
    some = [plan(spec("a", small_facts, resources=Resources(cpus=n)), catalogue()) for n in (1, 2)]
    assert identity_of(some[0], None) == identity_of(some[1], None)


def test_a_specification_survives_the_journey() -> None:
    given = RunSpec(
        name="a",
        task="knowledge_conflict:data=a,columns={subject: head}",
        selector="neurons:neurons=[1.10,1.2370]",
        intervention=None,
        metrics=("transitions", "matching:x=none"),
        resources=Resources(gpus=0.5),
    )
    assert RunSpec.model_validate_json(given.model_dump_json()) == given


# -- a worker, without a cluster ---------------------------------------------------------------------------------------


@pytest.fixture
def group(small_facts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Group:
    """Two runs on the same prompts."""
    monkeypatch.setattr("harness.running.execute.PART", 16)
    monkeypatch.setattr("harness.running.orders.PIECE", 1000)
    plans = [plan(spec(name, small_facts, intervention=name), catalogue()) for name in ("mean", "zero")]
    driver = Driver(Threads(), tmp_path / "out", "test", False, Silent(), 3, Resources(), True)
    return Group(driver, plans)


def attempt(group: Group) -> Iterator[Message]:
    """What a worker sends of a job, there and back as bytes."""
    kept = {run: {name: path.read_bytes for name, path in files.items()} for run, files in group.kept().items()}
    for message in work(group.order(), kept, "10.0.0.1"):
        assert from_bytes(to_bytes(message)) == message
        yield message


def deliver(group: Group, until: Callable[[Piece], bool] = lambda piece: False) -> list[Piece]:
    """What the driver does with the messages of one attempt; the worker is lost after the piece that ``until`` says."""
    group.opened, group.begun, group.locks, pieces = {}, {}, contextlib.ExitStack(), []
    with group.locks:
        for message in attempt(group):
            assert not isinstance(message, Refused), message
            if isinstance(message, Opened):
                group.open(message)
                continue
            if isinstance(message, Began):
                group.begin(message)
                continue
            if isinstance(message, Working):
                continue
            assert isinstance(message, Piece)
            group.put(message)
            pieces.append(message)
            if until(message):
                break
    return pieces


def test_what_is_sent_in_pieces_is_what_is_made_here(group: Group, tmp_path: Path) -> None:
    [there] = in_process([group.plans], tmp_path / "here")
    pieces = deliver(group)
    assert max(len(piece.data) for piece in pieces) == 1000 and any(piece.offset for piece in pieces)
    here = group.finished()
    for one, other in zip(there, here, strict=True):
        assert other is not None and one.path.name == other.path.name
        mine, theirs = files(one.path), files(other.path)
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"provenance.json", "report.html"}:
            assert mine[name] == theirs[name], name


def test_a_second_worker_continues(group: Group) -> None:
    first = deliver(group, until=lambda piece: piece.path.endswith("part-00000016.safetensors") and piece.last)
    assert {piece.path for piece in first} >= {"unfinished/prepared.json", "unfinished/part-00000000.safetensors"}
    second = deliver(group)
    parts = sorted({piece.path for piece in second if "part-" in piece.path and piece.run.startswith("mean")})
    assert parts[0] == "unfinished/part-00000032.json"
    assert "unfinished/prepared.json" not in {piece.path for piece in second}
    made = group.finished()
    assert all(run and not (run.path / "unfinished").exists() and not list(run.path.rglob("*.partial")) for run in made)
    assert deliver(group) == []  # they are finished
    rows = (group.driver.output / "leaderboard.jsonl").read_text().splitlines()
    assert all(run is not None and run.reused for run in group.finished())
    assert (group.driver.output / "leaderboard.jsonl").read_text().splitlines() == rows


def test_fresh_forgets_once(group: Group) -> None:
    deliver(group)
    group = replace(group, driver=replace(group.driver, fresh=True), forgotten=set())
    assert group.kept() == {}
    deliver(group, until=lambda piece: "part-" in piece.path and piece.last and piece.path.endswith("safetensors"))
    assert not list(group.driver.output.glob("*/result.json"))
    assert all(any("part-" in name for name in kept) for kept in list(group.kept().values())[:1])


def test_a_run_of_another_process_is_left_alone(group: Group) -> None:
    from filelock import FileLock

    deliver(group)
    [name, _] = group.opened
    with (
        FileLock(group.driver.output / f".{name}.lock"),
        pytest.raises(HarnessError, match="another process is making"),
    ):
        deliver(group)


def test_another_model_on_the_next_node_is_refused(group: Group) -> None:
    deliver(group)
    group.folders["mean"] = "mean-00000000"
    with pytest.raises(HarnessError, match=r"node 10\.0\.0\.1 has another model"):
        deliver(group)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda order: order["packages"].update(torch="1.0"), r"this node has torch \S+, the driver 1\.0:"),
        (
            lambda order: order["identities"][0]["components"]["selector"].update(distribution_version="9"),
            r'this node has components\.selector\.distribution_version "\S+", the driver "9":',
        ),
        (lambda order: order["identities"][0].update(data_sha256="0"), r"this node has data_sha256"),
        (lambda order: order["specs"][0]["selector"].update(name="entorpy"), r'Did you mean "entropy"'),
    ],
)
def test_a_node_that_differs_is_refused(group: Group, change: Callable[[dict], None], sentence: str) -> None:
    order = json.loads(group.order())
    change(order)
    [refused] = work(json.dumps(order), {}, "here")
    assert isinstance(refused, Refused) and not refused.detail
    assert re.search(sentence, refused.sentence)


def test_builds_of_the_same_version_go_together(group: Group) -> None:
    order = json.loads(group.order())
    order["packages"]["torch"] = order["packages"]["torch"].partition("+")[0] + "+cu999"
    assert orders._plans(orders.Order.model_validate(order))


def test_an_error_of_a_plugin_is_told_with_its_traceback(
    group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path))  # no prompts are kept there
    with patch.object(type(group.plans[0].task), "prepare", side_effect=ZeroDivisionError("oh")):
        *_, refused = work(group.order(), {}, "here")
    assert isinstance(refused, Refused)
    assert refused.sentence.startswith("task knowledge_conflict of neuron-harness ")
    assert refused.sentence.endswith(": prepare() raised ZeroDivisionError: oh.") and "Traceback" in refused.detail


# -- one run's prompts over several workers ----------------------------------------------------------------------------


def test_what_several_workers_find_is_put_together(group: Group, tmp_path: Path) -> None:
    """Each part of the prompts is run by the worker whose it is; one that is lost leaves what it has finished."""
    parts: list[tuple[list[int] | None, int]] = []

    def fate(job: Job, message: Message) -> bool:
        found = isinstance(message, Piece) and message.last and re.fullmatch(r".*/part-(\d+).json", message.path)
        if not found:
            return False
        parts.append((json.loads(job.order)["share"], int(found[1])))
        return parts.count(([1, 2], 48)) == 1 and parts[-1][1] == 48  # the first that comes with it

    [there] = in_process([group.plans], tmp_path / "here")
    workers = Threads(fate, at_once=2)
    [made] = Runs([group.plans], tmp_path / "out", "test", False, Silent()).on(workers, shares=2)
    assert len(workers.jobs) == 4  # two shares, of which one was lost once, and what is made of all
    runs = 2
    assert parts.count(([0, 2], 0)) == parts.count(([0, 2], 32)) == parts.count(([1, 2], 16)) == runs
    assert parts.count(([1, 2], 48)) == runs + 1 and {start for _, start in parts} == {0, 16, 32, 48}
    for one, other in zip(finished_of(there), finished_of(made), strict=True):
        mine, theirs = files(one.path), files(other.path)
        assert mine.keys() == theirs.keys() and not other.reused
        for name in mine.keys() - {"provenance.json", "report.html"}:
            assert mine[name] == theirs[name], name


def test_a_notebook_has_an_event_loop_already(group: Group) -> None:
    """Ctrl-C stops the workers, too, and what has come is kept."""

    async def cell(workers: Threads) -> list[Made]:
        [made] = Runs([group.plans[:1]], group.driver.output, "test", False, Silent()).on(workers)
        return made

    notebook = asyncio.new_event_loop()
    with interruptible() as press, pytest.raises(KeyboardInterrupt):

        def fate(job: Job, message: Message) -> bool:
            if isinstance(message, Piece) and message.path.endswith("part-00000016.json"):
                press()
                time.sleep(0.2)
            return False

        notebook.run_until_complete(cell(Threads(fate)))
    kept = [path.name for path in group.driver.output.rglob("*") if path.name.startswith("part-")]
    assert sorted(kept) == ["part-00000000.json", "part-00000000.safetensors"]
    assert len(finished_of(notebook.run_until_complete(cell(again := Threads())))) == 1
    assert any("part-00000000" in name for files in again.jobs[0].kept.values() for name in files)
    notebook.close()


def test_a_run_of_one_part_is_made_by_one_worker(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.running.execute.PART", 256)
    workers = Threads()
    [made] = Runs([group.plans[:1]], group.driver.output, "test", False, Silent()).on(workers, shares=8)
    assert len(finished_of(made)) == len(workers.jobs) == 1
