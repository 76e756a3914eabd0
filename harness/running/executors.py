"""Where runs are made: here, one group after another, or on the nodes of a cluster
(:mod:`harness.running.ray_driver`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import ValidationError

from harness.errors import HarnessError, suggest
from harness.plugin.components import explain

if TYPE_CHECKING:
    from harness.files.terminal import Terminal
    from harness.running.execute import Finished, Plan, Reporter

EXECUTORS = ("local", "ray")


class Executor(Protocol):
    """Makes runs."""

    def execute(
        self, groups: Sequence[Sequence[Plan]], output: Path, command: str, fresh: bool
    ) -> Iterator[list[Finished]]:
        """Make the runs of all groups (:func:`harness.running.execute.execute_together`); gives their results group by
        group, in order.

        Whoever makes them, each run's folder in ``output`` holds the same bytes (where and when aside), its rows are in
        the leaderboard once, and runs that were interrupted continue from the prompts that are finished.

        Raises:
            HarnessError: what the user can mend, of the first run that fails, or after the others are finished.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """The default: this process makes one group after another, and ends with the first that fails."""

    reporter: Reporter

    def execute(
        self, groups: Sequence[Sequence[Plan]], output: Path, command: str, fresh: bool
    ) -> Iterator[list[Finished]]:
        from harness.running.execute import execute_together

        for group in groups:
            yield execute_together(group, output, self.reporter, command, fresh)


def choose(
    name: str,
    console: Terminal,
    quiet: bool,
    address: str | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
    max_retries: int | None = None,
) -> Executor:
    """The executor called ``name``.

    Args:
        address, cpus, gpus, max_retries: of a cluster; see :class:`harness.running.ray_driver.OnRay`.

    Raises:
        HarnessError: there is none of this name, or an option is wrong, or not for it.
    """
    if name not in EXECUTORS:
        raise HarnessError(f'--executor: expected local or ray, got "{name}".{suggest(name, EXECUTORS)}')
    if name == "ray":
        from harness.running.ray_driver import MAX_RETRIES, OnRay
        from harness.running.spec import Resources

        try:
            resources = Resources(cpus=cpus, gpus=gpus)
        except ValidationError as error:
            raise HarnessError(f"--cpus-per-run, --gpus-per-run: {explain(error, Resources, 'a run')}") from error
        return OnRay(console, quiet, address, resources, MAX_RETRIES if max_retries is None else max_retries)
    if any(option is not None for option in (address, cpus, gpus, max_retries)):
        raise HarnessError(
            "--address, --cpus-per-run, --gpus-per-run and --max-retries are for a cluster: add --executor ray."
        )
    from harness.report.progress import ConsoleReporter

    return InProcess(ConsoleReporter(console, quiet))
