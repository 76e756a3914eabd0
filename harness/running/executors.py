"""Where runs are made: an executor (:mod:`harness.plugin.executors`) is handed the groups of a command, and makes them
in this process (:mod:`harness.running.here`) or on workers elsewhere (:mod:`harness.running.driver`)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pydantic import ValidationError

from harness.errors import HarnessError, PluginError, RunsNotMade
from harness.files.wording import agree, counted
from harness.plugin import border
from harness.plugin.executors import Amount, Executor
from harness.plugin.specs import ComponentSpec, explain, parse_spec
from harness.running.spec import Resources

if TYPE_CHECKING:
    from harness.running.execute import Finished, Plan
    from harness.running.here import Here
    from harness.running.messages import Workers
    from harness.running.telling import Telling

T = TypeVar("T")

OPTIONS = {"address": "--address", "cpus": "--cpus-per-run", "gpus": "--gpus-per-run", "max_retries": "--max-retries"}
"""Parameters of executors that the command line has options for."""


@dataclass(frozen=True)
class NotMade:
    """A run that was refused, or failed."""

    name: str
    error: HarnessError


Made: TypeAlias = "Finished | NotMade"
"""What became of a run."""


def finished_of(runs: Iterable[Made]) -> list[Finished]:
    """Those that were made."""
    return [run for run in runs if not isinstance(run, NotMade)]


def check_all_made(runs: Iterable[Made]) -> None:
    """What is said when the others are finished.

    Raises:
        HarnessError: names each run that was not made, and why; of a single run, and of several that were refused for
            one reason, that reason alone.
    """
    asked = list(runs)
    failed = [run for run in asked if isinstance(run, NotMade)]
    if not failed:
        return
    reasons = {str(run.error): run.error for run in failed}
    if len(failed) == len(asked) and len(reasons) == 1:
        raise failed[0].error
    said = " ".join(f"{', '.join(x.name for x in failed if str(x.error) == reason)}: {reason}" for reason in reasons)
    of = f"{len(failed)} of {counted(len(asked), 'run')} {agree(len(failed), 'was', 'were')} not made"
    raise RunsNotMade(f"{of}. {said}", {run.name: run.error for run in failed}) from failed[0].error


@dataclass(frozen=True)
class Runs:
    """The groups of a command: :class:`harness.plugin.executors.RunGroups` for its executor."""

    groups: Sequence[Sequence[Plan]]
    output: Path
    command: str
    fresh: bool
    told: Telling

    @property
    def several(self) -> bool:
        """Whether there are other runs than one that is refused."""
        return sum(map(len, self.groups)) > 1

    @cached_property
    def _here(self) -> Here:
        from harness.running.here import Here

        return Here(self.told, self.output, self.command, self.fresh, self.several)

    def here(self, group: Sequence[Plan]) -> list[Made]:
        """Make a group in this process."""
        return self._here.group(group)

    def on(
        self, workers: Workers, max_retries: int = 3, cpus: Amount = None, gpus: Amount = None, shares: int = 1
    ) -> Iterator[list[Made]]:
        """Make all groups on workers."""
        from harness.running.driver import Driver

        asked = _resources(cpus, gpus)
        how = max_retries, asked, self.several, shares
        driver = Driver(workers, self.output, self.command, self.fresh, self.told, *how)
        yield from _awaited(driver.make(self.groups))

    def needs(self, cpus: Amount = None, gpus: Amount = None) -> set[tuple[float, float]]:
        """The CPUs and GPUs that workers are given, of all groups."""
        from harness.running.driver import needs

        return {needs(group, _resources(cpus, gpus)) for group in self.groups}

    def tell(self, sentence: str) -> None:
        """Say it where progress is shown."""
        self.told.tell(sentence)


def _awaited(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns; where an event loop is running already, as in a notebook, in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    loops: list[asyncio.AbstractEventLoop] = []

    async def known() -> T:
        loops.append(asyncio.get_running_loop())
        return await work

    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(asyncio.run, known())
        try:
            return found.result()
        except BaseException:  # Ctrl-C: what is under way is stopped, and waited for
            for loop in loops:
                for task in asyncio.all_tasks(loop):
                    loop.call_soon_threadsafe(task.cancel)
            raise


def _resources(cpus: Amount, gpus: Amount) -> Resources:
    try:
        return Resources(cpus=cpus, gpus=gpus)
    except ValidationError as error:
        raise HarnessError(f"cpus, gpus: {explain(error, Resources, 'a run')}") from error


def make(
    executor: Executor,
    groups: Sequence[Sequence[Plan]],
    output: Path,
    command: str,
    fresh: bool,
    told: Telling,
) -> Iterator[list[Made]]:
    """Have an executor make the runs of all groups; gives what became of them group by group, in order.

    One that cannot be made is told as soon as this is known, and the others go on. Reporters are told in this process,
    of each run once.

    Raises:
        HarnessError: nothing can be written to ``output``, or the executor cannot work, or it does not give what became
            of the runs that it was given.
    """
    from harness.files.store import check_writable

    told.ready([plan for group in groups for plan in group], output, command)
    with border.asking(executor, "ready()"):
        executor.ready()
    check_writable(output)  # last, for it makes the folder
    with border.asking(executor, "execute()"):
        found = iter(executor.execute(Runs(groups, output, command, fresh, told)))
    for group in groups:
        with border.asking(executor, "execute()"):
            made = [*next(found, ())]
        names = Counter(run.name if isinstance(run, NotMade) else run.record.name for run in made)
        if names != (asked := Counter(one.spec.name for one in group)):
            missing = ", ".join((asked - names) or (names - asked))
            raise PluginError(f"{border.owner(executor)}: execute() does not say what became of {missing}.")
        yield made
    with border.asking(executor, "execute()"):
        for _ in found:  # to its end: it may have a cluster to stop
            raise PluginError(f"{border.owner(executor)}: execute() gives more than the groups that it was handed.")


def executor_of(written: Any, options: Mapping[str, Any] | None = None) -> Executor:
    """The executor that a person names: ``ray:address=auto``, or ``ray`` with ``--address auto``.

    Args:
        options: parameters that are options of their own; those that are None are not given.

    Raises:
        HarnessError: there is none of this name, or a parameter is wrong, or not for it.
    """
    from harness.plugin.catalogue import catalogue

    spec, found = parse_spec(written, "--executor"), catalogue()
    cls = found.get(Executor, spec.name, "--executor")
    given = {name: value for name, value in (options or {}).items() if value is not None}
    for name in given:
        if name in spec.params:
            raise HarnessError(f"{OPTIONS[name]}: --executor {spec} has {name} already; give it once.")
        if name not in cls.model_fields:
            having = sorted(x for x, other in found.of(Executor).items() if name in other.model_fields)
            raise HarnessError(f"{OPTIONS[name]}: this is not for --executor {spec.name}, but for {', '.join(having)}.")
    return found.build(Executor, ComponentSpec(spec.name, {**spec.params, **given}), "--executor")
