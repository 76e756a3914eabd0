"""What lost workers cost: 1,000 runs over 64 workers that fail at random, in virtual time.

    python benchmarks/lost_workers.py               # the table of docs/cluster.md
    python benchmarks/lost_workers.py --runs 200    # quicker

The books are the program's own (``harness/running/driver.py``): orders, retries, folders, files put in place, reporters
and the leaderboard. Only the cluster is a stand-in: its workers run no model, they wait, on a clock that goes to the
next event at once, and each is lost after a time drawn from an exponential distribution; another takes its place.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import selectors
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from harness.plugin.catalogue import catalogue
from harness.results.provenance import Provenance, provenance
from harness.running import Began, Job, Lost, Message, Opened, Piece
from harness.running.driver import Driver
from harness.running.execute import PART, Plan, plan
from harness.running.executors import Made, NotMade
from harness.running.spec import Resources, RunSpec
from harness.running.telling import Telling, reporters


class _AtOnce(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Waits for nothing: whoever would, is told how long."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.waited += timeout or 0.0
        return super().select(0)


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop whose clock goes to the next thing that is waited for."""

    def __init__(self) -> None:
        self._clock = _AtOnce()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.waited


@dataclass(frozen=True)
class World:
    """What is simulated; times in minutes.

    Attributes:
        setup: of every attempt: the model is loaded, neurons are selected.
        passes: of a run, in ``parts`` equal parts.
        lifetime: mean time until a worker is lost.
    """

    runs: int = 1000
    workers: int = 64
    parts: int = 16
    passes: float = 60.0
    setup: float = 2.0
    lifetime: float = 24 * 60.0
    max_retries: int = 1000
    seed: int = 0


def messages(job: Job, record: Mapping[str, Any], parts: int) -> Iterator[Message | None]:
    """What a worker sends of the one run of a job; None where it has worked: first at the set-up, then at each part."""
    order = json.loads(job.order)
    name, (mine, of), left = order["specs"][0]["name"], order["share"] or (0, 1), False
    run_id = hashlib.sha256(name.encode()).hexdigest()
    run = f"{name}-{run_id[:8]}"
    kept = job.kept.get(run, {})
    yield Opened(run, "files.sha256" in kept, "a worker")
    yield Began(run, run_id)
    if "files.sha256" in kept:
        return
    yield None
    if "unfinished/prepared.json" not in kept:
        yield Piece(run, "unfinished/prepared.json", 0, json.dumps({"prompts": [0] * PART * parts}).encode(), True)
    for part in range(parts):
        stem = f"unfinished/part-{part * PART:08d}"
        if f"{stem}.safetensors" in kept:
            continue
        if part % of != mine:
            left = True
            continue
        yield None
        yield Piece(run, f"{stem}.json", 0, b"{}", True)
        yield Piece(run, f"{stem}.safetensors", 0, b"outcomes", True)
    if not left and mine == 0:
        found = {"provenance.json": about().to_dict() | {"run_id": run_id}}
        found |= {"result.json": {**record, "name": name, "run_id": run_id}, "files.sha256": {}}
        for path, content in found.items():
            yield Piece(run, path, 0, json.dumps(content).encode(), True)


@cache
def about() -> Provenance:
    """Where and when, which takes a while to find."""
    return provenance("a simulation", 0.0, "")


@dataclass
class Cluster:
    """Workers that wait, and are lost.

    Attributes:
        spent: worker-minutes, by run. losses: how often its worker was lost.
    """

    world: World
    record: Mapping[str, Any]
    spent: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.world.seed)
        self._free: asyncio.Queue[int] = asyncio.Queue()
        self._ends = [self._lifetime() for _ in range(self.world.workers)]
        for worker in range(self.world.workers):
            self._free.put_nowait(worker)

    def _lifetime(self) -> float:
        return float(self._rng.exponential(self.world.lifetime))

    async def run(self, job: Job) -> AsyncGenerator[Message, None]:
        worker, steps = await self._free.get(), 0
        try:
            for message in messages(job, self.record, self.world.parts):
                if message is not None:
                    yield message
                    continue
                await self._work(worker, job, self.world.passes / self.world.parts if steps else self.world.setup)
                steps += 1
        finally:
            self._free.put_nowait(worker)

    async def _work(self, worker: int, job: Job, minutes: float) -> None:
        now = asyncio.get_running_loop().time()
        while self._ends[worker] < now:  # it was lost when it had nothing to do
            self._ends[worker] += self._lifetime()
        left = self._ends[worker] - now
        await asyncio.sleep(min(minutes, left))
        self.spent[job.name] += min(minutes, left)  # type: ignore[assignment]  # a counter of minutes
        if left < minutes:
            self._ends[worker] = now + left + self._lifetime()
            self.losses[job.name] += 1
            raise Lost(f"at minute {now + left:.0f}")


class Quiet(Telling):
    """Keeps the leaderboard; tells nobody else."""

    def __init__(self) -> None:
        super().__init__(reporters(catalogue(), ["no:page", "no:live"]))


def plans(n: int) -> list[Plan]:
    """Runs that differ in their names."""
    spec = RunSpec.model_validate(
        {"name": "run", "task": "knowledge_conflict", "selector": "entropy", "intervention": "mean"}
    )
    one = plan(spec, catalogue())
    return [replace(one, spec=spec.model_copy(update={"name": f"run-{i:04d}"})) for i in range(n)]


def simulate(world: World, record: Mapping[str, Any], output: Path) -> tuple[Cluster, list[Made], float]:
    """The cluster afterwards, what became of the runs, and how many minutes have passed."""
    cluster = Cluster(world, record)
    driver = Driver(cluster, output, "a simulation", False, Quiet(), world.max_retries, Resources(), True)
    loop = VirtualTime()
    try:
        made = loop.run_until_complete(driver.make([[one] for one in plans(world.runs)]))
        return cluster, [run for group in made for run in group], loop.time()
    finally:
        loop.close()


def rows(output: Path) -> Counter[str]:
    """How often each row is in the leaderboard."""
    lines = (output / "leaderboard.jsonl").read_text(encoding="utf-8").splitlines()
    return Counter(json.loads(line)["row_id"] for line in lines)


def example() -> dict[str, Any]:
    """The record of a small run that is made now."""
    from harness.running.execute import execute

    with tempfile.TemporaryDirectory() as folder:
        spec = {"name": "example", "task": "knowledge_conflict", "selector": "neurons:neurons=[1.3]", "controls": 2}
        spec |= {"intervention": "zero", "metrics": "entropy_change", "limit": 8, "resamples": 100}
        made = execute(plan(RunSpec.model_validate(spec), catalogue()), Path(folder), Quiet(), "an example")
        return made.record.to_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=64)
    asked, record = parser.parse_args(), example()
    for hours in (24, 4, 1):
        for parts in (60, 15, 4, 1):
            world = World(asked.runs, asked.workers, parts, lifetime=hours * 60.0)
            with tempfile.TemporaryDirectory() as folder:
                cluster, made, minutes = simulate(world, record, Path(folder))
                found = rows(Path(folder))
            assert not any(isinstance(run, NotMade) for run in made)
            assert set(found.values()) == {1} and len(found) == asked.runs * len(record["measures"])
            whole, spent, losses = world.setup + world.passes, sum(cluster.spent.values()), cluster.losses
            print(
                f"lost every {hours:>3} h, parts of {world.passes / parts:>2.0f} min: {losses.total():>5} lost, at most"
                f" {max(losses.values(), default=0):>2} of one run; {1 - whole * asked.runs / spent:6.2%} repeated "
                f"(expected {1 - whole / expected(world):6.2%}); {minutes / 60:5.1f} h; each of {len(found)} rows once",
                flush=True,
            )


def expected(world: World) -> float:
    """Worker-minutes of a run. Where workers last T minutes on average, a step of s minutes that begins anew whenever
    its worker is lost takes T (exp(s / T) - 1) in all; of a part, with a set-up each time, exp(setup / T) times it."""
    mean, part = world.lifetime, world.passes / world.parts
    setup, each = mean * np.expm1(world.setup / mean), mean * np.exp(world.setup / mean) * np.expm1(part / mean)
    return float(setup + world.parts * each)


if __name__ == "__main__":
    main()
