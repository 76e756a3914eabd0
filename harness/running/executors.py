"""Where runs are made: here, one group after another, or on the nodes of a cluster
(:mod:`harness.running.ray_driver`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import ValidationError

from harness.errors import HarnessError, RunsNotMade, suggest
from harness.files.wording import agree, counted
from harness.plugin.components import explain

if TYPE_CHECKING:
    from harness.files.terminal import Terminal
    from harness.model.model import Model
    from harness.plugin.components import ModelLoader
    from harness.running.execute import Finished, Plan
    from harness.running.telling import Telling

EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class NotMade:
    """A run that was refused, or failed."""

    name: str
    error: HarnessError


def finished_of(runs: Iterable[Finished | NotMade]) -> list[Finished]:
    """Those that were made."""
    return [run for run in runs if not isinstance(run, NotMade)]


def check_all_made(runs: Iterable[Finished | NotMade]) -> None:
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


class Executor(Protocol):
    """Makes runs."""

    def execute(
        self, groups: Sequence[Sequence[Plan]], output: Path, command: str, fresh: bool, told: Telling
    ) -> Iterator[list[Finished | NotMade]]:
        """Make the runs of all groups (:func:`harness.running.execute.execute_together`); gives their results group by
        group, in order. One that cannot be made is told as soon as this is known, and the others go on. Reporters are
        told in this process, of each run once.

        Whoever makes them, each run's folder in ``output`` holds the same bytes (where and when aside), its rows are in
        the leaderboard once, and runs that were interrupted continue from the prompts that are finished.

        Raises:
            HarnessError: nothing can be written to ``output``, or the cluster is not there.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """The default: this process makes one group after another."""

    def execute(
        self, groups: Sequence[Sequence[Plan]], output: Path, command: str, fresh: bool, told: Telling
    ) -> Iterator[list[Finished | NotMade]]:
        from harness.files.store import check_writable

        check_writable(output)
        told.ready([plan for group in groups for plan in group], output, command)
        made = _Made(told, output, command, fresh, several=sum(map(len, groups)) > 1)
        for group in groups:
            yield made.group(group)


@dataclass
class _Made:
    """Groups made one after another; those that follow one another on one model share it.

    Attributes:
        several: whether there are other runs than one that is refused.
        name: identity of the model that is loaded, or whose loading failed.
    """

    told: Telling
    output: Path
    command: str
    fresh: bool
    several: bool
    name: str = ""
    model: Model | HarnessError | None = None

    def group(self, plans: Sequence[Plan]) -> list[Finished | NotMade]:
        from harness.running.execute import execute_together

        not_made: list[NotMade] = []
        finished: list[Finished] = []

        def refuse(error: HarnessError, *refused: Plan) -> None:
            not_made.extend(NotMade(one.spec.name, error) for one in refused)
            if self.several:
                names = ", ".join(one.spec.name for one in refused)
                self.told.note(f"{names}: not made: {error}")

        try:
            finished = execute_together(
                plans,
                self.output,
                self.told,
                self.command,
                self.fresh,
                model=self._model(plans[0].model),
                refuse=lambda one, error: refuse(error, one),
            )
        except HarnessError as error:
            known = {run.name for run in not_made}
            refuse(error, *(one for one in plans if one.spec.name not in known))
        if not_made and not isinstance(self.model, HarnessError):
            self.name, self.model = "", None  # nobody knows how whatever failed has left it
        return [*finished, *not_made]

    def _model(self, loader: ModelLoader) -> Model:
        """The loader's model, which is not asked for again after it could not be loaded."""
        from harness.files.store import canonical
        from harness.running.execute import loaded

        if self.name != (name := canonical(loader.identity())):
            self.name, self.model = name, None  # one is there at a time
            try:
                self.model = loaded(loader, self.told)
            except HarnessError as error:
                self.model = error
        if isinstance(self.model, HarnessError):
            raise self.model
        assert self.model is not None
        return self.model


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
    return InProcess()
