"""Before a run: a baseline pass and a handful of control sets say which effects it could find, and how long it takes.

The selected units themselves are never treated here: a plan that looked at their effect would choose its numbers by the
outcome. Their selection is needed all the same, for it says where control sets lie and how large they are.
:mod:`harness.running.outlook` makes numbers of what is seen here.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from harness.conditions.conditions import BASELINE, Condition, Selection
from harness.conditions.units import Unit
from harness.errors import HarnessError, PluginError
from harness.files.wording import counted, only
from harness.plugin import border
from harness.plugin.records import Outcomes, Prompt
from harness.running.expectations import of_prompts
from harness.running.held_out import split
from harness.running.plan import Listener, Plan, Stage, look_ahead, set_up
from harness.running.positions import located

if TYPE_CHECKING:
    from harness.engine.engine import Engine
    from harness.statistics import AnyMeasure

SETS = {"closed_form": 100, "batched": 12, "hooks": 12}
"""Control sets of a pilot, by the engine that runs them: a handful, or what costs little beside the baseline."""

LIMIT = 100
"""Items of the task's data that a pilot uses."""

FEWEST = 5
"""Control sets from which a spread can be told at all."""

WARM_UP = 4
"""Items, and prompts, that are run before anything is timed: what is compiled is compiled then."""


Primary: TypeAlias = "tuple[tuple[str, AnyMeasure], ...]"
"""Primary measures with their metrics' names; row 0 is the baseline, all others are control sets."""


@dataclass(frozen=True)
class Times:
    """Seconds on this machine.

    Attributes:
        fixed: loading the model, and what precedes the prompts.
        item: making prompts and selecting, for each item of the data.
        prompt: a prompt under the untouched model and one more condition. condition: under each further condition.
    """

    fixed: float
    item: float
    prompt: float
    condition: float

    def of(self, items: float, prompts: float, controls: int) -> float:
        """Of a run's prompts and conditions; statistics, figures and page come on top."""
        return self.fixed + self.item * items + prompts * (self.prompt + self.condition * controls)


@dataclass(frozen=True)
class Pilot:
    """What was seen of control sets.

    Attributes:
        measures: the primary ones.
        clusters: number of every prompt's fact, or other independent item [n_prompts].
        items: items of the data that were used, some of which may have given no prompt.
        in_data: how many the data have; None where that cannot be told.
        controls: how many control sets the run itself would have. engine: which implementation ran the conditions.
    """

    measures: Primary
    clusters: np.ndarray
    items: int
    in_data: int | None
    controls: int
    engine: str
    times: Times

    @property
    def n_clusters(self) -> int:
        return len(np.unique(self.clusters))


def pilot(
    plan: Plan, reporter: Listener, sets: int | None = None, check: Callable[[Sequence[str]], object] = list
) -> Pilot:
    """Run the first control sets of ``plan`` on its prompts; the selected units are left as they are.

    Args:
        sets: how many; by default :data:`SETS`, at most as many as the run has.
        check: is given the names of the primary measures as soon as they are known, and may raise.

    Raises:
        HarnessError: whatever a run would refuse; fewer than three control sets; no primary measure.
    """
    from harness.running.fitting import Fit
    from harness.statistics import derive_seed

    clock = _Clock()
    with reporter.stage("loading the model"):
        model = border.load(plan.model)
    fit = Fit.of(plan.spec, model, reporter)
    engine = fit.engine
    chosen = fit(look_ahead, plan, engine, reporter)
    seed = derive_seed(plan.spec.seed, "task")
    with reporter.stage("preparing the prompts"):
        with contextlib.suppress(HarnessError):  # so few may leave no prompt
            fit(border.prepare, plan.task, engine, WARM_UP, seed)
        fixed = clock.lap()
        prepared = fit(border.prepare, plan.task, engine, plan.limit, seed)
    if not prepared.prompts:
        raise HarnessError(f"task {plan.task.name}: there are no prompts.")
    prepared = split(plan, located([plan], prepared, model))
    fit.begin(prepared.prompts)
    stage = fit(set_up, plan, engine, prepared, reporter, selection=chosen)
    prepared_in = clock.lap()
    path = engine.path(stage.conditions)
    most = min(SETS[path] if sets is None else sets, len(stage.controls.sets))
    if most < FEWEST:
        raise HarnessError(f"plan: {only(most, 'control set')} cannot tell how sets differ; it takes {FEWEST} or more.")
    selection, conditions = _standing_in(stage, engine, most)

    def observe(prompts: Sequence[Prompt], conditions: Sequence[Condition], title: str) -> Outcomes:
        return fit(_observed, plan, engine, prompts, conditions, reporter, title)

    def primary(found: Outcomes) -> Primary:
        return tuple(_primary(plan, found.split(selection)))

    first = observe(prepared.prompts[:WARM_UP], conditions, "warming up")
    with contextlib.suppress(PluginError):  # a metric may want more prompts
        check([measure.name for _, measure in primary(first)])
    # The prompts are run under two conditions and under all of them: the difference is what the others cost. Whatever
    # runs first is slow, so that the former is done twice.
    laps = []
    for _ in range(2):
        clock.lap()
        observe(prepared.prompts, [x for x in conditions if x.shown], "timing")
        laps.append(clock.lap())
    few = min(laps)
    measures = primary(observe(prepared.prompts, conditions, "control sets"))
    others = max(0.0, clock.lap() - few) / (len(prepared.prompts) * sum(not x.shown for x in conditions))
    check([measure.name for _, measure in measures])
    clusters = np.unique([prompt.cluster for prompt in prepared.prompts], return_inverse=True)[1]
    expected = of_prompts(plan, prepared.prompts)
    items = expected.data
    times = Times(fixed, prepared_in / items, few / len(prepared.prompts), others)
    return Pilot(measures, clusters, items, expected.there, len(stage.controls.sets), path, times)


def look(stage: Stage, engine: Engine, prompts: Sequence[Prompt], n: int, reporter: Listener, title: str) -> Primary:
    """The primary measures on some prompts under the first ``n`` control sets of a run; nothing else is treated."""
    selection, conditions = _standing_in(stage, engine, n)
    found = _observed(stage.plan, engine, prompts, conditions, reporter, title)
    return tuple(_primary(stage.plan, found.split(selection)))


def _standing_in(stage: Stage, engine: Engine, n: int) -> tuple[Selection, tuple[Condition, ...]]:
    """The conditions of a run in which a control set stands where the selected units would: it is "treated"."""
    plan = stage.plan
    controls = [condition for condition in stage.conditions if condition.role == "control"][:n]
    first, *others = controls
    selection = replace(stage.selection, units=stage.controls.sets[0], rule="a control set in the selection's place")
    alone = border.alone(plan.task, selection, engine.model)

    def condition(name: str, units: tuple[Unit, ...]) -> Condition:
        edits = border.edits(plan.intervention, units, stage.statistics, engine.model) if plan.task.intervenes else ()
        return replace(first, name=name, edits=edits, units=units, role="alone")

    further = (condition(f"alone-{i:05d}", units) for i, units in enumerate(alone))
    return selection, (BASELINE, replace(first, name="treated", role="treated"), *others, *further)


def _observed(
    plan: Plan,
    engine: Engine,
    prompts: Sequence[Prompt],
    conditions: Sequence[Condition],
    reporter: Listener,
    title: str,
) -> Outcomes:
    """Outcomes of some conditions, part by part as in a run."""
    from harness.running.execute import PART

    what = f"{title}: {counted(len(prompts), 'prompt')} under {counted(len(conditions), 'condition')}"
    with reporter.stage(what, len(prompts) * len(conditions)) as advance:
        parts = [tuple(prompts[start : start + PART]) for start in range(0, len(prompts), PART)]
        return Outcomes.join([border.observe(plan.task, engine, part, conditions, advance) for part in parts])


def _primary(plan: Plan, outcomes: Outcomes) -> Iterator[tuple[str, AnyMeasure]]:
    for metric in plan.metrics:
        for measure in border.measure(metric, outcomes).measures:
            if measure.primary:
                yield metric.name, measure


class _Clock:
    """Seconds between calls."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now, before = time.perf_counter(), self._last
        self._last = now
        return now - before
