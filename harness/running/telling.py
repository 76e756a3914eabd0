"""Who is told of runs, and how: to every reporter what it is owed, whatever becomes of another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from harness.errors import HarnessError, suggest
from harness.files.wording import agree, counted
from harness.plugin import border
from harness.plugin.reporters import Asked, AskedRun, BegunRun, FinishedRun, Reporter, Work
from harness.plugin.specs import ComponentSpec, parse_spec
from harness.results.folder import read_provenance, read_record
from harness.running.spec import COMPONENT_FIELDS

if TYPE_CHECKING:
    from harness.plugin.catalogue import Catalogue
    from harness.running.plan import Plan
    from harness.running.request import Written

KEPT = ("page", "leaderboard", "live")
"""Reporters that keep what runs have found, or how far they are, in every command that makes runs."""

SHOWN = "console"
"""The reporter that a person watches. It comes last: what it says of a run is there then."""

WITHOUT = "no:"
"""What stands before the name of a reporter that shall not be told."""


def reporters(found: Catalogue, asked: Sequence[Written] = (), console: ComponentSpec | None = None) -> list[Reporter]:
    """Those that a command tells: the usual ones, and what is asked for.

    Args:
        asked: ``"wandb:project=neurons"``; a usual one with parameters of its own, ``"console:report=json"``;
            ``"no:page"`` leaves one out.
        console: how the terminal is told; None: not at all.

    Raises:
        HarnessError: there is none of a name, or a parameter is wrong.
    """
    usual = {name: ComponentSpec(name, {}) for name in KEPT} | ({SHOWN: console} if console else {})
    others: list[ComponentSpec] = []
    for one in asked:
        if isinstance(one, str) and one.startswith(WITHOUT):
            name = one.removeprefix(WITHOUT)
            if usual.pop(name, None) is None:
                known = [*KEPT, *([SHOWN] if console else [])]
                raise HarnessError(
                    f'--report {one}: "{name}" is told of no run unless you say so.{suggest(name, known)} Can be left '
                    f"out: {', '.join(known)}."
                )
            continue
        spec = parse_spec(one, "--report")
        if spec.name in usual:
            usual[spec.name] = ComponentSpec(spec.name, {**usual[spec.name].params, **spec.params})
        else:
            others.append(spec)
    last = usual.pop(SHOWN, None)
    built = [found.build(Reporter, spec, "--report") for spec in [*usual.values(), *others, *([last] if last else [])]]
    return _each_once(built)


def _each_once(told: Sequence[Reporter]) -> list[Reporter]:
    """Without those that a registry and a command, say, both ask for in the same words.

    Raises:
        HarnessError: two would write to one place, and differ otherwise.
    """
    kept: list[Reporter] = []
    for one in told:
        settings = _settings(one)
        alike = [other for other in kept if type(other) is type(one)]
        if settings in map(_settings, alike):
            continue
        place = settings.get(one.positional or "")
        if isinstance(place, Path) and any(place == _settings(other)[one.positional or ""] for other in alike):
            raise HarnessError(f"--report {one.name}: two that differ would write to {place}; name another folder.")
        kept.append(one)
    return kept


def _settings(reporter: Reporter) -> dict[str, Any]:
    """Its parameters; a folder is the same however it is written."""
    dumped = reporter.model_dump()
    return {key: value.resolve() if isinstance(value, Path) else value for key, value in dumped.items()}


class Telling:
    """Tells reporters of the runs of one command, which are made within ``with telling:``. What a reporter raises is
    kept for the end (:meth:`check`).

    It shows how far a run is (:class:`harness.running.plan.Listener`) by telling them of it.
    """

    def __init__(self, told: Sequence[Reporter] = ()) -> None:
        self.told = tuple(told)
        self.about: tuple[BegunRun, ...] = ()
        """The runs that are worked at."""
        self._ready = False
        self._silent: list[Reporter] = []
        self._failures: dict[str, None] = {}
        self._finished: list[Path] = []

    # -- before anything is loaded -------------------------------------------------------------------------------------

    def ready(self, plans: Sequence[Plan], output: Path, command: str) -> None:
        """Ask every reporter once, of all runs of the command, whether it can work.

        Raises:
            HarnessError: one cannot.
        """
        if not self._ready:
            asked = Asked(tuple(map(asked_of, plans)), output, command)
            for reporter in reversed(self.told):  # the usual ones last: the leaderboard makes the folder
                with border.asking(reporter, "ready()"):
                    reporter.ready(asked)
            self._ready = True

    # -- while work is done --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """A stage with ``total`` steps, or of unknown length; the context gives a function to tell of progress."""
        work, done = Work(title, total, self.about), False
        self.begins(work)
        try:
            yield lambda n: self.advances(work, n)
            done = True
        finally:
            self.ends(work, done)

    def begins(self, work: Work) -> None:
        """Tell of work that somebody else does, too (:class:`harness.running.working.Heard`)."""
        self._tell("work_begins", work)

    def advances(self, work: Work, steps: int) -> None:
        """Tell that so many more of its steps are done; none where that is all there is to say."""
        self._tell("work_advances", work, steps)

    def ends(self, work: Work, done: bool) -> None:
        """Tell that it is over."""
        self._tell("work_ends", work, done)

    def note(self, sentence: str) -> None:
        """Tell what a user should know before the work is done."""
        self._tell("noted", sentence, True)

    def tell(self, sentence: str) -> None:
        """Tell what is to be expected, where progress is shown."""
        self._tell("noted", sentence, False)

    # -- of runs -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def of(self, runs: Sequence[BegunRun]) -> Iterator[None]:
        """Within the block, what takes a while is done for these runs."""
        before, self.about = self.about, tuple(runs)
        try:
            yield
        finally:
            self.about = before

    def begun(self, plan: Plan, run_id: str, folder: Path, command: str, reused: bool) -> BegunRun:
        """A run has begun; whoever failed before is told again from here on."""
        self._silent.clear()
        run = BegunRun(asked_of(plan), run_id, folder, command, reused)
        self._tell("begun", run)
        return run

    def finished(self, run: BegunRun) -> FinishedRun:
        """A run's folder is whole."""
        record, provenance = read_record(run.folder), read_provenance(run.folder)
        found = FinishedRun(**{x.name: getattr(run, x.name) for x in fields(run)}, record=record, provenance=provenance)
        self._finished.append(run.folder)
        for reporter in self.told:
            if reporter.does is None:
                self._ask(reporter, "finished", found)
            else:
                with self.stage(reporter.does):
                    self._ask(reporter, "finished", found)
        return found

    def failed(self, run: BegunRun, why: str) -> None:
        """A run was not finished, and is not worked at any more."""
        self.about = tuple(one for one in self.about if one is not run)
        self._tell("failed", run, why)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """No further run is made, whatever has ended the work."""
        self._silent.clear()
        self._tell("ended", tuple(self._finished))

    def check(self) -> None:
        """What is said when all runs are made.

        Raises:
            HarnessError: a reporter has failed; says which, and why.
        """
        if self._failures:
            n, runs = len(self._failures), counted(len(self._finished), "run")
            raise HarnessError(
                f"{runs} {agree(len(self._finished), 'is', 'are')} finished, but not reported as asked: "
                f"{' '.join(self._failures)} The same command makes no run again, and reports "
                f"{'it' if n == 1 else 'them'} anew."
            )

    def _tell(self, event: str, *given: Any) -> None:
        for reporter in self.told:
            self._ask(reporter, event, *given)

    def _ask(self, reporter: Reporter, event: str, *given: Any) -> None:
        """Tell one; what it raises is noted, and it is told no more for now."""
        if any(reporter is one for one in self._silent):
            return
        try:
            with border.asking(reporter, f"{event}()"):
                getattr(reporter, event)(*given)
        except HarnessError as error:
            self._silent.append(reporter)
            said = str(error) if reporter.name in str(error) else f"{border.owner(reporter)}: {error}"
            if said not in self._failures:
                self._failures[said] = None
                self.note(said)


def asked_of(plan: Plan) -> AskedRun:
    """What reporters are told of a plan."""
    spec = plan.spec
    components = {"name", "description", *COMPONENT_FIELDS, "metrics", "resources"}
    settings = spec.model_dump(mode="json", exclude=components)
    return AskedRun(spec.name, spec.description, plan.components(), settings)
