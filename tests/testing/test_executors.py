"""The check of executors: those that keep the promises pass, and a broken promise is named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from workers import Threads

from harness.builtin.in_process import Local
from harness.plugin import Executor, HarnessError, RunGroups
from harness.running import Piece
from harness.testing import check_executor

pytestmark = pytest.mark.usefixtures("blank_figures")


class Elsewhere(Executor):
    """In threads, the first of which is lost when it sends a record."""

    name = "elsewhere"

    def execute(self, work: RunGroups) -> Iterator[list[Any]]:
        lost: list[object] = []

        def fate(job: Any, message: Any) -> bool:
            if lost or not (isinstance(message, Piece) and message.path == "result.json"):
                return False
            lost.append(message)
            return True

        yield from work.on(Threads(fate))


@pytest.mark.parametrize("cls", [Local, Elsewhere])
def test_what_keeps_the_promises_passes(cls: type[Executor]) -> None:
    said = check_executor(cls)
    assert sum("refused: not made" in sentence for sentence in said) == 2  # it is asked for twice
    lost = [sentence for sentence in said if "continues elsewhere (retry 1 of 3)" in sentence]
    assert len(lost) == (cls is Elsewhere)


def _first(work: RunGroups) -> Iterator[list[Any]]:
    yield work.here(work.groups[0])


def _touched(work: RunGroups) -> Iterator[list[Any]]:
    for group in work.groups:
        yield work.here(group)
    for path in work.output.glob("zero-*/controls.jsonl"):
        path.write_text(path.read_text() + "\n")


def _twice(work: RunGroups) -> Iterator[list[Any]]:
    for group in work.groups:
        yield work.here(group)
    rows = work.output / "leaderboard.jsonl"
    rows.write_text(rows.read_text() + rows.read_text().splitlines()[0] + "\n")


def _absent(work: RunGroups) -> Iterator[list[Any]]:
    raise HarnessError("no cluster is there")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "broken"),
    [
        (_first, r"execute\(\) does not say what became of seeded"),
        (_touched, r"zero-[0-9a-f]{8}/controls.jsonl has other bytes than of a run in this process"),
        (_twice, "a row is in the leaderboard twice"),
        (_absent, "execute.* no cluster is there"),
    ],
)
def test_a_broken_promise_is_named(how: Any, broken: str) -> None:
    class Broken(Executor):
        """Does not what it should."""

        name = "broken"

        def execute(self, work: RunGroups) -> Iterator[Sequence[Any]]:
            return how(work)

    with pytest.raises(AssertionError, match=f"executor broken: .*{broken}"):
        check_executor(Broken)
