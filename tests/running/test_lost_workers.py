"""Whenever workers are lost, each run is made once: the driver on a cluster that runs no model, in virtual time."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from golden import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from lost_workers import Quiet, VirtualTime, World, expected, messages, plans, rows, simulate

from harness.running import Job, Lost, Message, Piece
from harness.running.driver import Driver
from harness.running.executors import Made, NotMade
from harness.running.spec import Resources

RECORD = json.loads((GOLDEN / "record.json").read_text())
PARTS = 5


class Dying:
    """Its n-th job is lost when it has sent the n-th number of messages; jobs after these come to their end.

    Attributes:
        parts: how often each part of each run has come to the driver.
    """

    def __init__(self, fates: list[int]) -> None:
        self._fates = iter(fates)
        self.parts: Counter[str] = Counter()

    async def run(self, job: Job) -> AsyncGenerator[Message, None]:
        left = next(self._fates, None)
        for message in messages(job, RECORD, PARTS):
            await asyncio.sleep(1)  # others get their turn
            if message is None:
                continue
            if left == 0:
                raise Lost("a test")
            left = None if left is None else left - 1
            yield message
            if isinstance(message, Piece) and message.path.endswith(".safetensors"):
                self.parts[f"{message.run} {message.path}"] += 1


@contextmanager
def unhurried() -> Iterator[Path]:
    """A folder whose files need not survive a power cut."""
    with tempfile.TemporaryDirectory() as folder, patch("os.fsync"):
        yield Path(folder)


def command(cluster: Any, output: Path, n: int, shares: int = 1) -> list[Made]:
    """What a command makes of its runs."""
    driver = Driver(cluster, output, "a test", False, Quiet(), 2, Resources(), True, shares, {})
    loop = VirtualTime()
    try:
        return [run for group in loop.run_until_complete(driver.make([[x] for x in plans(n)])) for run in group]
    finally:
        loop.close()


@settings(max_examples=25, deadline=None)
@given(fates=st.lists(st.integers(0, 16), max_size=9), shares=st.integers(1, 3))
def test_each_run_is_made_once_whenever_workers_are_lost(fates: list[int], shares: int) -> None:
    """Rows are in the leaderboard once, what has come is not made again, and what is given up is named: by the first
    command; after the second, to which nothing happens, all is there."""
    n = 3
    with unhurried() as output:
        dying = Dying(fates)
        first = command(dying, output, n, shares)
        given_up = [run.name for run in first if isinstance(run, NotMade)]
        assert all("its worker was lost (a test), 3 times" in str(x.error) for x in first if isinstance(x, NotMade))
        assert len(given_up) <= len(fates) // 3
        found = rows(output) if len(given_up) < n else Counter[str]()
        assert len(found) == (n - len(given_up)) * len(RECORD["measures"]) and set(found.values()) <= {1}
        second = command(dying, output, n, shares)
        assert not any(isinstance(run, NotMade) for run in second)
        found = rows(output)
        assert len(found) == n * len(RECORD["measures"]) and set(found.values()) == {1}
        assert len(dying.parts) == n * PARTS and set(dying.parts.values()) == {1}
        for folder in output.glob("run-*-????????"):
            assert sorted(x.name for x in folder.iterdir()) == ["files.sha256", "provenance.json", "result.json"]


def test_a_run_goes_on_as_long_as_parts_come() -> None:
    """Each worker is lost after one part, more often than is tried in vain: ``first`` has the prompts to send, too."""
    first, then = 5, 4
    with unhurried() as output:
        [made] = command(Dying([first, then, then, then]), output, 1)
        assert not isinstance(made, NotMade)
        [given_up] = command(Dying([2, 2, 2]), output / "in vain", 1)
        assert isinstance(given_up, NotMade)


@pytest.mark.parametrize("parts", [1, 10])
def test_the_cost_of_lost_work_is_what_theory_says(parts: int) -> None:
    """Smaller parts: less is repeated. The mean over runs lies within four standard errors of the expected value."""
    world = World(runs=60, workers=8, parts=parts, lifetime=120.0, seed=1)
    with unhurried() as output:
        cluster, made, minutes = simulate(world, RECORD, output)
        assert len(made) == world.runs and set(rows(output).values()) == {1}
    spent = [cluster.spent[f"run-{i:04d}"] for i in range(world.runs)]
    mean, error = sum(spent) / world.runs, float(pytest.importorskip("numpy").std(spent)) / world.runs**0.5
    assert abs(mean - expected(world)) < 4 * error
    assert cluster.losses.total() > 5 and minutes * world.workers >= sum(spent)
