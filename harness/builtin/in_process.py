"""The executor that is meant where none is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.plugin.executors import Executor, RunGroups

if TYPE_CHECKING:
    from harness.running.executors import Made


class Local(Executor):
    """In this process, one group of runs after another."""

    name = "local"

    def execute(self, work: RunGroups) -> Iterator[list[Made]]:
        for group in work.groups:
            yield work.here(group)
