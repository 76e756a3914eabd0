"""Runs from their plans to their folders. Runs on the same prompts share the model's work."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

import harness
from harness.conditions.conditions import Selection
from harness.errors import HarnessError, PluginError
from harness.files.store import canonical, check_writable, digest, writing
from harness.files.wording import counted
from harness.model.precision import is_half, near_ties
from harness.model.tokens import first_tokens
from harness.plugin import border
from harness.plugin.records import Outcomes, Prepared, Prompt
from harness.plugin.reporters import BegunRun, FinishedRun
from harness.report.figure_files import write_shown
from harness.results.folder import RunFolder, sample_rows
from harness.results.provenance import provenance
from harness.results.record import SCHEMA_VERSION, RunRecord
from harness.running import kept_prompts
from harness.running.expectations import of_prompts
from harness.running.fitting import Fit
from harness.running.held_out import split
from harness.running.margins import check_margins
from harness.running.plan import Listener, Plan, Stage, look_ahead, plan, set_up
from harness.running.positions import located
from harness.running.record import record_of
from harness.running.shared_passes import distinct_conditions
from harness.running.telling import Telling

if TYPE_CHECKING:
    from harness.engine.engine import Engine
    from harness.model.model import Model
    from harness.plugin.components import ModelLoader

__all__ = [
    "Finished",
    "Listener",
    "Plan",
    "execute",
    "execute_together",
    "grouped_by_prompts",
    "identity_of",
    "plan",
]

PART = 256
"""Prompts that are run under every condition before the outcomes are put on the disk."""

INTERRUPTED = "it was interrupted; the same command continues it."

Refuse: TypeAlias = Callable[[Plan, HarnessError], object]
"""Is told of a run that cannot be made, and why."""

Share: TypeAlias = tuple[int, int]
"""(i, n): every n-th part of the prompts from the i-th on, where n processes divide a run's prompts among them."""


@dataclass(frozen=True)
class Finished:
    """A finished run: where it is, what it found, and whether it was found already finished."""

    path: Path
    record: RunRecord
    reused: bool


@dataclass
class _Job:
    """One run under way."""

    plan: Plan
    folder: RunFolder
    identity: dict[str, Any]
    run_id: str
    parts: list[Outcomes] = field(default_factory=list)
    selection: Selection | None = None
    """What was selected before the prompts were made."""
    stage: Stage | None = None
    near: np.ndarray | None = None
    """Of a model in half precision, the prompts after which two tokens lie closer than its rounding."""
    given_up: bool = False
    """Whether it was refused while the others go on."""
    begun: BegunRun = field(init=False)
    """What reporters are told of it; there when its folder is locked."""
    finished: FinishedRun | None = None
    left: bool = False
    """Whether parts of its prompts are left to other processes."""


def grouped_by_prompts(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Plans in groups that share model, task and prompts, in the order of their first members."""
    groups: dict[Hashable, list[Plan]] = {}
    for one in plans:
        spec = one.spec
        shared = [one.model.identity(), one.task.identity(), spec.seed, spec.limit, spec.batch_size, spec.engine]
        groups.setdefault(canonical(shared), []).append(one)
    return list(groups.values())


def execute(plan: Plan, output: Path, told: Telling, command: str, fresh: bool = False) -> Finished:
    """Make one run; see :func:`execute_together`."""
    return execute_together([plan], output, told, command, fresh)[0]


def execute_together(
    plans: Sequence[Plan],
    output: Path,
    told: Telling,
    command: str,
    fresh: bool = False,
    folder: Callable[[Path], RunFolder] = RunFolder,
    model: Model | None = None,
    refuse: Refuse | None = None,
    share: Share | None = None,
) -> list[Finished]:
    """Make runs of one group (:func:`together`): continue those that were interrupted, return those that are finished.

    The model is loaded once, the prompts are made once, and where the task allows it (``Task.shares_passes``) the
    conditions of all runs are run at once. Every run's folder holds what it would hold if it were made alone.

    Args:
        told: is told of each run in turn, as soon as its folder is whole.
        folder: opens the folder of a run; another machine's tells of what it keeps (:mod:`harness.running.orders`).
        model: the plans' model, if it is there already.
        refuse: is told of a run that cannot be made, as soon as this is known; the others are made. None: it ends all.
        share: run these parts of the prompts and leave the others, and what is made of all of them, to other processes;
            of the first share a run is finished where that leaves no part.

    Raises:
        HarnessError: whatever the user can mend, and what a component does wrong, of a run or of all of them; nothing
            but the finished parts in ``unfinished/`` is left behind then.
    """
    from filelock import FileLock

    told.ready(plans, output, command)
    check_writable(output)  # last, for it makes the folder
    started = time.time()
    if model is None:
        model = loaded(plans[0].model, told)
    jobs = [_job(one, model, output, folder) for one in plans]
    with contextlib.ExitStack() as stack:
        for path in sorted({job.folder.path for job in jobs}):  # in one order: two processes cannot wait for each other
            with writing(path):
                stack.enter_context(FileLock(output / f".{path.name}.lock"))
        waiting = [job for job in jobs if fresh or not job.folder.recorded]
        for job in jobs:
            reused = all(job is not one for one in waiting)
            if reused:
                job.folder.settle()
            job.begun = told.begun(job.plan, job.run_id, job.folder.path, command, reused)
        try:
            if waiting:
                fit = Fit.of(plans[0].spec, model, told)
                with told.of([job.begun for job in waiting]):
                    _work(waiting, fit, told, fresh, refuse, share)
            for job in _remaining(jobs):
                if job.left:
                    continue
                with _each(job, waiting, told, refuse), told.of([job.begun]):
                    if not job.begun.reused:
                        _finish(job, fit, told, command, started)
                    job.finished = told.finished(job.begun)
        except BaseException as error:
            said = _ended(error, _remaining(waiting))
            for job in _remaining(jobs):
                if job.finished is None:
                    told.failed(job.begun, str(said))
            if isinstance(error, PluginError) and said is not error:
                raise said from error
            raise
        return [Finished(x.folder, x.record, x.reused) for job in jobs if (x := job.finished) is not None]


def loaded(loader: ModelLoader, reporter: Listener) -> Model:
    """The loader's model, loaded now."""
    with reporter.stage("loading the model"):
        return border.load(loader)


def _remaining(jobs: Sequence[_Job]) -> list[_Job]:
    return [job for job in jobs if not job.given_up]


def _ended(error: BaseException, jobs: Sequence[_Job]) -> BaseException:
    """Leave nothing of jobs of which nothing is done; returns what is said of the others."""
    if isinstance(error, KeyboardInterrupt):
        return KeyboardInterrupt(INTERRUPTED)
    kept = [job.folder.abandon() for job in jobs]
    return _continued(error) if isinstance(error, PluginError) and any(kept) else error


@contextlib.contextmanager
def _each(job: _Job, jobs: Sequence[_Job], told: Telling, refuse: Refuse | None) -> Iterator[None]:
    """What is done for one of several runs: an error of its own gives up this one alone, if somebody is told of it."""
    try:
        yield
    except HarnessError as error:
        if refuse is not None:
            kept = job.folder.abandon()
            job.given_up = True
            said = _continued(error) if kept and isinstance(error, PluginError) else error
            told.failed(job.begun, str(said))
            refuse(job.plan, said)
        elif len(jobs) > 1 and type(error) is HarnessError:  # which of them, where others would be made
            raise HarnessError(f"{job.plan.spec.name}: {error}") from error
        else:
            raise


def _continued(error: PluginError) -> PluginError:
    """Hours of work may be there, and the plugin be mended."""
    return PluginError(f"{error} What the model was run for is kept: the same command goes on from there.")


def _job(plan: Plan, model: Model, output: Path, folder: Callable[[Path], RunFolder]) -> _Job:
    identity = identity_of(plan, model)
    run_id = digest(identity)
    return _Job(plan, folder(output / f"{plan.spec.name}-{run_id[:8]}"), identity, run_id)


def identity_of(plan: Plan, model: Model | None) -> dict[str, Any]:
    """Everything that the results depend on; without a model, all that can be known before one is loaded."""
    spec = plan.spec
    return {
        "schema_version": SCHEMA_VERSION,
        "harness_version": harness.__version__,
        "model": None if model is None else model.provenance(),
        "components": plan.components(),
        "data_sha256": border.data_digest(plan.task),
        "inputs_sha256": {
            f"{x.name}.{key}": value
            for x in (plan.task, plan.selector, plan.intervention)
            for key, value in border.inputs(x).items()
        },
        "controls": spec.controls,
        "match": spec.match,
        "hold_out": spec.hold_out,
        "margins": dict(sorted(spec.margins.items())),
        "engine": spec.engine,
        "seed": spec.seed,
        "limit": spec.limit,
        "batch_size": spec.batch_size,
        "resamples": spec.resamples,
    }


def _work(
    asked: Sequence[_Job],
    fit: Fit,
    reporter: Telling,
    fresh: bool,
    refuse: Refuse | None,
    share: Share | None,
) -> None:
    """Prompts, selections, conditions and outcomes of all jobs."""
    from harness.running.forecast import foretell

    engine = fit.engine
    for job in asked:
        job.folder.open(fresh)
    for job in asked:
        with _each(job, asked, reporter, refuse):
            job.selection = fit(look_ahead, job.plan, engine, reporter)
    if not (jobs := _remaining(asked)):
        return
    prepared = located([job.plan for job in jobs], fit(_prepared, jobs, engine, reporter, fresh), engine.model)
    parts: dict[Hashable, tuple[Prepared, list[_Job]]] = {}  # runs that hold out the same evaluate the same prompts
    for job in jobs:
        own = split(job.plan, prepared)
        parts.setdefault(tuple(prompt.id for prompt in own.prompts), (own, []))[1].append(job)
    for own, group in parts.values():
        reporter.tell(of_prompts(group[0].plan, own.prompts).sentence(len(own.prompts)))
        fit.begin(own.prompts)
        near = fit(_near_ties, engine, own, reporter)
        known: dict[Hashable, Any] = {}
        for job in group:
            with _each(job, asked, reporter, refuse):
                job.stage = fit(set_up, job.plan, engine, own, reporter, known, job.selection)
                job.near = near
                if job.plan.spec.margins:
                    with reporter.stage("looking for the measures"):
                        fit(check_margins, job.stage, engine)
        first = next((job.stage for job in _remaining(group)), None)
        if first is not None:
            fit(foretell, first, engine, reporter)
    for own, group in parts.values():
        ready = _remaining(group)
        for some in [ready] if ready and jobs[0].plan.task.shares_passes else [[job] for job in ready]:
            _observe(some, fit, own.prompts, reporter, share)


def _near_ties(engine: Engine, prepared: Prepared, reporter: Listener) -> np.ndarray | None:
    """Prompts at which half precision may decide what comes next; None for a model that is in none."""
    if not is_half(engine.model):
        return None
    tokens = [prompt.tokens for prompt in prepared.prompts]
    with reporter.stage("looking for near-ties", len(tokens)) as advance:
        return near_ties(engine.model, tokens, engine.batch_size, advance)


def _prepared(jobs: Sequence[_Job], engine: Engine, reporter: Listener, fresh: bool) -> Prepared:
    """The prompts, which an interrupted run may have left, or an earlier one on the same model and data."""
    task = jobs[0].plan.task
    kept = [job.folder.load_prepared() for job in jobs]
    prepared = next((found for found in kept if found is not None), None)
    if prepared is None:
        prepared = prompts_of(jobs[0].plan, engine, reporter, fresh)
    if not prepared.prompts:
        raise HarnessError(f"task {task.name}: there are no prompts.")
    for job, found in zip(jobs, kept, strict=True):
        if found is None:
            job.folder.save_prepared(prepared)
    return prepared


def prompts_of(plan: Plan, engine: Engine, reporter: Listener, fresh: bool) -> Prepared:
    """The prompts of a plan, of those that are kept for the next run (:mod:`harness.running.kept_prompts`) or new.

    Args:
        fresh: make them anew, and keep these.
    """
    from harness.statistics import derive_seed

    path = kept_prompts.path_of(plan, engine.model)
    if path is not None and not fresh:
        found = kept_prompts.load(path)
        if found is not None:
            return found
    with reporter.stage("preparing the prompts"):
        prepared = border.prepare(plan.task, engine, plan.limit, derive_seed(plan.spec.seed, "task"))
    if path is not None:
        kept_prompts.save(path, prepared)
    return prepared


def _observe(
    jobs: Sequence[_Job], fit: Fit, prompts: Sequence[Prompt], reporter: Listener, share: Share | None
) -> None:
    """Run all conditions of all jobs part by part; parts that an interrupted run finished are read back."""
    mine, of = share or (0, 1)
    stages = [job.stage for job in jobs if job.stage is not None]
    n = max(len(distinct_conditions(stages)[0]), 1)
    runs = f" of {counted(len(jobs), 'run')}" if len(jobs) > 1 else ""
    parts = [tuple(prompts[start : start + PART]) for start in range(0, len(prompts), PART)]
    own = sum(map(len, parts[mine::of]))
    with reporter.stage(f"{counted(len(prompts), 'prompt')} under {counted(n, 'condition')}{runs}", own * n) as advance:
        for number, part in enumerate(parts):
            start, missing = number * PART, []
            for job in jobs:
                assert job.stage is not None
                kept = job.folder.load_part(start, part, job.stage.conditions)
                if kept is None:
                    missing.append(job)
                else:
                    job.parts.append(kept)
            if missing and number % of != mine:
                for job in missing:
                    job.left = True
            elif missing:
                stages = [job.stage for job in missing if job.stage is not None]
                made = fit.observe(stages, parts, number, advance)
                for job, outcomes in zip(missing, made, strict=True):
                    job.folder.save_part(start, outcomes)
                    job.parts.append(job.folder.on_disk(start, outcomes))
            elif number % of == mine:
                advance(len(part) * n)
    for job in jobs:
        job.left |= mine > 0


def _finish(job: _Job, fit: Fit, reporter: Listener, command: str, started: float) -> None:
    """Scores, figures and files of a job."""
    from harness.statistics import derive_seed

    stage = job.stage
    assert stage is not None
    outcomes = job.folder.join(job.parts, stage.selection)
    with reporter.stage("computing statistics"):
        seed = derive_seed(job.plan.spec.seed, "bootstrap")
        path = fit.engine.path(stage.conditions)
        tokens = first_tokens(fit.engine.model, [prompt.tokens for prompt in stage.prepared.prompts])
        record, shown, control_rows = record_of(stage, outcomes, job.identity, job.run_id, path, seed, tokens, job.near)
    with reporter.stage("drawing figures", len(shown)) as advance:
        write_shown(job.folder.path, shown, advance)
    files = {
        "samples.jsonl": sample_rows(outcomes),
        "neurons.jsonl": stage.selection.table(),
        "controls.jsonl": control_rows,
        "provenance.json": provenance(command, started, job.run_id, fit.smallest).to_dict(),
    }
    job.folder.finish(files, record)
    job.folder.settle()
    job.parts.clear()
