"""The stages of a run before any condition is run: plan, prompts, selection, statistics, controls, conditions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from harness.conditions.conditions import BASELINE, Condition, Role, Selection
from harness.conditions.positions import Positions
from harness.conditions.units import Unit
from harness.controls.random import Controls, check_controls, draw_controls, too_few
from harness.errors import HarnessError
from harness.files.wording import only
from harness.plugin import border
from harness.plugin.base import Component
from harness.plugin.catalogue import Catalogue
from harness.plugin.components import Corpus, Intervention, Metric, ModelLoader, SelectionContext, Selector, Task
from harness.plugin.entries import Origin
from harness.plugin.handed_selections import lock_statistics
from harness.plugin.records import Prepared
from harness.plugin.specs import ComponentSpec
from harness.progress import Stage as Began
from harness.running.held_out import exploratory
from harness.running.positions import check_positions, check_reach
from harness.running.spec import RunSpec

if TYPE_CHECKING:
    from harness.conditions.conditions import Edit
    from harness.engine.activation_summaries import ActivationStatistics, HeadStatistics
    from harness.engine.engine import Engine, Progress

CONTROLS = {"closed_form": 999, "batched": 100, "hooks": 100}
"""Control sets by default. With 999 the smallest adjusted p is 0.001; more of them place the critical one better."""

NOTHING = ComponentSpec("none", {})
"""The intervention of a task that looks at neurons and edits nothing."""


class Listener(Protocol):
    """Shows how far a run is."""

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[Progress]:
        """A stage with ``total`` steps, or of unknown length; the context gives a function to tell of progress."""
        ...

    def note(self, sentence: str) -> None:
        """Tell what a user should know before the work is done."""
        ...

    def tell(self, sentence: str) -> None:
        """Tell what is to be expected, where progress is shown."""
        ...


def corpora_of(component: Component) -> Iterator[Corpus]:
    """Corpora among a component's parameters, and among those of the components that are its parameters."""
    for name in type(component).model_fields:
        value = getattr(component, name)
        if isinstance(value, Corpus):
            yield value
        elif isinstance(value, Component):
            yield from corpora_of(value)


@dataclass(frozen=True)
class Plan:
    """A run whose components are found and validated."""

    spec: RunSpec
    model: ModelLoader
    task: Task
    selector: Selector
    intervention: Intervention
    metrics: tuple[Metric, ...]
    origins: Mapping[str, Origin]

    @property
    def limit(self) -> int | None:
        """How many items of the task's data are used; None: all of them."""
        assert not isinstance(self.spec.limit, float)  # plan() has counted them
        return self.spec.limit

    def components(self) -> dict[str, Any]:
        """Identity of every component and the distribution that it comes from."""

        def entry(component: Component) -> dict[str, Any]:
            origin = self.origins[f"{component.kind} {component.name}"]
            return component.identity() | {"distribution": origin.distribution, "distribution_version": origin.version}

        return {
            "model": entry(self.model),
            "task": entry(self.task),
            "selector": entry(self.selector),
            "intervention": entry(self.intervention),
            "metrics": [entry(metric) for metric in self.metrics],
        }

    def texts(self) -> list[dict[str, Any]]:
        """The corpora that are read: each as it is written, and the kinds and names of the components that read it."""
        readers: dict[str, list[str]] = {}
        for component in (self.task, self.selector, self.intervention):
            for corpus in corpora_of(component):
                spec = ComponentSpec(corpus.name, corpus.model_dump(mode="json", exclude_defaults=True))
                said = str(spec) if spec.params else f"{spec.name} ({corpus.summary().rstrip('.')})"
                readers.setdefault(said, []).append(f"{component.kind} {component.name}")
        return [{"corpus": said, "read_by": list(dict.fromkeys(names))} for said, names in readers.items()]


def plan(spec: RunSpec, catalogue: Catalogue) -> Plan:
    """Find and validate every component of a run, before anything is loaded.

    Raises:
        HarnessError: an unknown component, a wrong parameter, or components that do not fit each other.
    """
    model = catalogue.build(ModelLoader, spec.model, "--model")
    task = catalogue.build(Task, spec.task, "--task", model.corpus)
    spec = spec.model_copy(update={"limit": _number(spec.limit, task)})
    wanted = spec.metrics or tuple(ComponentSpec(name, {}) for name in task.default_metrics)
    if task.intervenes == (spec.intervention is None):
        raise HarnessError(
            f"--intervention: the task {task.name} needs one, for example mean."
            if task.intervenes
            else f"--intervention: the task {task.name} looks at neurons and edits nothing; leave it out."
        )
    edits = spec.intervention or NOTHING
    components = [
        model,
        task,
        selector := catalogue.build(Selector, spec.selector, "--selector", model.corpus),
        intervention := catalogue.build(Intervention, edits, "--intervention", model.corpus),
        *(metrics := [catalogue.build(Metric, metric, "--metric") for metric in wanted]),
    ]
    if not metrics:
        raise HarnessError(f"--metric: the task {task.name} has no metrics of its own; name at least one.")
    _check_fit(task, selector, intervention, metrics, catalogue)
    origins = {f"{x.kind} {x.name}": catalogue.origins[type(x)] for x in components}
    return Plan(spec, model, task, selector, intervention, tuple(metrics), origins)


def _number(limit: int | float | None, task: Task) -> int | None:
    """How many items a limit is: of a share as many as lm-eval takes, rounded up.

    Raises:
        HarnessError: a share, of a task that cannot say how many items there are.
    """
    if not isinstance(limit, float):
        return limit
    n = border.n_items(task)
    if not n:
        raise HarnessError(
            f"--limit {limit:g}: the task {task.name} does not say how many items its data have before a model reads "
            "them, so that a share of them is no number; give one."
        )
    return math.ceil(n * limit)


def _check_fit(
    task: Task, selector: Selector, intervention: Intervention, metrics: Sequence[Metric], catalogue: Catalogue
) -> None:
    """Refuse components that say themselves that they do not go together."""
    kind = None if selector.site is None else catalogue.kind_at(selector.site)
    if task.intervenes and kind is not None and not intervention.acts_on(kind):
        raise HarnessError(
            f"--intervention: {intervention.name} edits {intervention.site}, but the selector {selector.name} chooses "
            f"{selector.site}."
        )
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise HarnessError(f"--metric: {twice} is named twice; a run records a metric once.")
    check_positions(task, intervention)
    with border.asking(task, "gives()"):
        given = task.gives()
    for metric in metrics:
        if given is not None and (missing := sorted(metric.needs - given)):
            fitting = [name for name, cls in catalogue.of(Metric).items() if cls.needs and cls.needs <= given]
            raise HarnessError(
                f'--metric: {metric.name} needs "{missing[0]}", which the task {task.name} does not observe. Metrics '
                f"that fit: {', '.join(sorted({*task.default_metrics, *fitting}))}."
            )


@dataclass(frozen=True)
class Stage:
    """A run that is ready: everything but its outcomes.

    Attributes:
        statistics: what the intervention's values were taken from, or None; of a circuit those of each step.
        alone: the task's further sets.
        conditions: baseline, treated, the controls, and one for each of ``alone``.
        exploratory: why verdicts are, in a sentence; None where the selector has seen none of the prompts.
    """

    plan: Plan
    prepared: Prepared
    selection: Selection
    statistics: ActivationStatistics | HeadStatistics | tuple[Any, ...] | None
    controls: Controls
    alone: tuple[tuple[Unit, ...], ...]
    conditions: tuple[Condition, ...]
    exploratory: str | None = None

    @property
    def treated(self) -> Condition:
        """The selection under the intervention."""
        return next(condition for condition in self.conditions if condition.role == "treated")


def look_ahead(plan: Plan, engine: Engine, reporter: Listener) -> Selection | None:
    """Refuse whatever the model's shape and the parameters tell to be wrong, before a prompt is made.

    Returns:
        what is selected, if the selector does not look at prompts.

    Raises:
        HarnessError: names the parameter, or what the selection does not fit.
    """
    for component in (plan.model, plan.task, plan.selector, plan.intervention, *plan.metrics):
        border.check(component, engine.model)
    if border.reads_prompts(plan.selector):
        return None
    with reporter.stage("selecting neurons"):
        selection = _select(plan, engine, Prepared(()), reporter.stage)
    check_controls(engine.model, selection, plan.spec.controls, plan.spec.match)
    border.alone(plan.task, selection, engine.model)
    border.ready(plan.intervention, selection)
    return selection


def set_up(
    plan: Plan,
    engine: Engine,
    prepared: Prepared,
    reporter: Listener,
    known: dict[Hashable, Any] | None = None,
    selection: Selection | None = None,
) -> Stage:
    """Select, measure activations, draw controls, and write down every condition.

    Args:
        known: statistics that runs on the same prompts have measured before; this run's are added.
        selection: what :func:`look_ahead` has selected.

    Raises:
        HarnessError: the selection and the rest do not go together.
    """
    if selection is None:
        with reporter.stage("selecting neurons"):
            selection = _select(plan, engine, prepared, reporter.stage)
    plan = replace(plan, intervention=border.ready(plan.intervention, selection))
    with reporter.stage("measuring activations"):
        statistics = _statistics(plan, engine, prepared, selection, {} if known is None else known)
    frozen, positions = border.freeze(plan.intervention, engine.model), Positions(plan.intervention.positions)

    def condition(name: str, role: Role, units: tuple[Unit, ...], twice: bool = False) -> Condition:
        edits: tuple[Edit, ...] = ()
        if plan.task.intervenes:
            edits = border.edits(plan.intervention, units, statistics, engine.model, twice)
        return Condition(name, edits, positions, frozen, units, role)

    treated = condition("treated", "treated", selection.units, twice=True)
    check_reach(treated, prepared.prompts, engine.model)
    controls = _controls(plan, engine, prepared, selection, treated)
    if plan.spec.controls is None and (
        said := too_few(len(controls.sets))
    ):  # of a number that is asked for it is known
        reporter.note(
            f"{plan.spec.name}: the pool of the selection holds {only(len(controls.sets), 'distinct set')} to compare "
            f"with; {said}."
        )
    alone = border.alone(plan.task, selection, engine.model)
    conditions = (
        BASELINE,
        treated,
        *(condition(f"control-{i:04d}", "control", units) for i, units in enumerate(controls.sets)),
        *(condition(f"alone-{i:05d}", "alone", units) for i, units in enumerate(alone)),
    )
    return Stage(plan, prepared, selection, statistics, controls, alone, conditions, exploratory(plan, prepared))


def _select(plan: Plan, engine: Engine, prepared: Prepared, stage: Began) -> Selection:
    from harness.statistics import derive_seed

    prompts = prepared.held_out or prepared.prompts
    tokens, known = [prompt.tokens for prompt in prompts], [prompt.fields for prompt in prompts]
    seed = derive_seed(plan.spec.seed, "selector")
    context = SelectionContext(engine.model, engine, tokens, seed, bool(prepared.held_out), stage, known)
    selection = border.select(plan.selector, context)
    if selection.parts and plan.task.intervenes and len(plan.intervention.parts()) == 1:
        raise HarnessError(
            f"--intervention: {plan.intervention.name} is one intervention, but the selector {plan.selector.name} "
            f"chooses for {len(selection.parts)} steps: take the intervention circuit, with one for each step."
        )
    chosen = type(selection.units[0])  # of a circuit each step looks at its own
    if plan.task.intervenes and not plan.intervention.acts_on(chosen):
        raise HarnessError(
            f"--intervention: {plan.intervention.name} edits {plan.intervention.site}, but the selector "
            f"{plan.selector.name} chose {chosen.site}."
        )
    return selection


def _statistics(
    plan: Plan, engine: Engine, prepared: Prepared, selection: Selection, known: dict[Hashable, Any]
) -> Any:
    """Activation statistics of the selection's layers over the task's reference positions, where they are wanted; of a
    circuit those of each step."""
    from harness.engine.activation_summaries import activation_statistics, head_statistics
    from harness.statistics import derive_seed

    if selection.parts:
        steps = zip(plan.intervention.parts(), selection.parts, strict=True)
        return tuple(
            _statistics(replace(plan, intervention=step), engine, prepared, part, known) for step, part in steps
        )
    if not plan.intervention.needs_statistics:
        return None
    unit, tokens = selection.units[0], [prompt.tokens for prompt in prepared.prompts]
    spans = border.reference(plan.task, prepared.prompts, unit.site)
    layers = tuple(sorted({unit.layer for unit in (*selection.units, *(selection.pool or ()))}))
    key = unit.where, layers
    if key not in known and not unit.one_number:
        known[key] = head_statistics(engine.model, tokens, layers, engine.batch_size, spans, unit.where)
    elif key not in known:
        seed = derive_seed(plan.spec.seed, "activations")
        known[key] = activation_statistics(
            engine.model, tokens, layers, engine.batch_size, seed, spans, site=unit.where
        )
    lock_statistics(known[key])
    return cast("ActivationStatistics | HeadStatistics", known[key])


def _controls(plan: Plan, engine: Engine, prepared: Prepared, selection: Selection, treated: Condition) -> Controls:
    """As many sets as were asked for; by default as many as are cheap, and as the pool holds."""
    from harness.statistics import derive_seed

    spec = plan.spec
    most = CONTROLS[engine.path([treated])] if spec.controls is None else None
    return draw_controls(
        engine.model,
        selection,
        spec.controls,
        most,
        spec.match,
        [prompt.tokens for prompt in prepared.prompts],
        engine.batch_size,
        derive_seed(spec.seed, "controls"),
    )
