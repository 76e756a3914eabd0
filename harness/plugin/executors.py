"""Where runs are made: the contract of executors, and what one is handed."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from harness.plugin.base import Component

if TYPE_CHECKING:
    from harness.running.execute import Plan
    from harness.running.executors import Made
    from harness.running.messages import Workers


Amount: TypeAlias = float | None
"""How many, of every run; None: as its specification says."""


class RunGroups(Protocol):
    """The runs of a command, and two ways to make them: in this process, or by workers elsewhere.

    Attributes:
        groups: runs on the same prompts are one group, which is made together: they share the model's passes.
        output: the folder that their folders and the leaderboard are in.
    """

    @property
    def groups(self) -> Sequence[Sequence[Plan]]: ...

    @property
    def output(self) -> Path: ...

    def here(self, group: Sequence[Plan]) -> list[Made]:
        """Make a group in this process: what became of each of its runs. Groups that follow one another on one model
        share it."""
        ...

    def on(
        self, workers: Workers, max_retries: int = 3, cpus: Amount = None, gpus: Amount = None, shares: int = 1
    ) -> Iterator[list[Made]]:
        """Make all groups on workers of other processes or machines; gives what became of them, in their order.

        The bookkeeping is done here: folders are locked, the files that workers send are put in their places, a group
        whose worker is lost begins again elsewhere with what had come in, and finished runs are entered into the
        leaderboard, once.

        Args:
            max_retries: how often a group is begun again after its worker was lost.
            cpus, gpus: of every run; None: as its specification says, else 1 CPU and no GPU.
            shares: among how many workers the prompts of each run are divided. What they find is put together here, and
                one worker makes the record of all.
        """
        ...

    def needs(self, cpus: Amount = None, gpus: Amount = None) -> set[tuple[float, float]]:
        """The CPUs and GPUs that workers of :meth:`on` are given, of all groups."""
        ...

    def tell(self, sentence: str) -> None:
        """Say it where progress is shown."""
        ...


class Executor(Component):
    """Makes runs: in this process, in others, on other machines.

    Whoever makes them, each run's folder holds the same bytes (where and when aside), its rows are in the leaderboard
    once, and runs that were interrupted continue from the prompts that are finished: :class:`RunGroups` sees to it. An
    executor is no part of a run's identity.
    """

    kind = "executor"

    def ready(self) -> None:
        """Refuse what cannot work, before anything is done: a package that is not installed, a program that is not
        there. By default nothing is refused.

        Raises:
            HarnessError: says what is missing, and how to get it.
        """

    @abc.abstractmethod
    def execute(self, work: RunGroups) -> Iterator[Sequence[Made]]:
        """Make the runs of all groups; gives what :class:`RunGroups` gives of each, in the order of ``work.groups``.

        A run that cannot be made is among them, and the others go on.

        Raises:
            HarnessError: nothing can be made, because the cluster is not there, say.
        """
