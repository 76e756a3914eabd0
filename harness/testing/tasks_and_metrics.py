"""Checks of what observes a model, and of what is computed from the observations."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.conditions.conditions import BASELINE, Condition, Edit, Role, Selection, SetNeurons
from harness.conditions.head_edits import SetHeads
from harness.conditions.units import Head, Neuron, Unit, by_layer
from harness.engine.closed_form import ClosedFormEngine
from harness.files.wording import counted
from harness.model.model import Model
from harness.plugin import border
from harness.plugin import handed_outcomes as handed_back
from harness.plugin import handed_selections as handed_over
from harness.plugin.catalogue import catalogue
from harness.plugin.components import Metric, Task
from harness.plugin.records import Measurement, Outcomes, Prepared, Prompt
from harness.plugin.specs import ComponentSpec
from harness.testing.common import (
    NAME,
    accepted,
    as_json,
    check_shown,
    made,
    promise,
    running,
    same,
    twice,
    untouched,
)
from harness.testing.corpora_and_models import check_digest
from harness.testing.models import demo_model, tiny_model

CONTROLS = 3
"""Control conditions of the runs below."""


def check_task(
    cls: type[Task],
    /,
    *,
    on: Model | None = None,
    limit: int | None = 6,
    selection: Selection | None = None,
    **params: Any,
) -> Outcomes:
    """Check what a task promises: prompts that the model can read, the same ones for the same seed; outcomes of one
    shape for all conditions, which follow the conditions, and which do not depend on how the prompts are divided.

    Args:
        on: the model; default: ``tiny_model()``. A task that needs answers of the model wants ``demo_model()``.
        limit: so many items of the task's data.
        selection: what the conditions treat; default: neurons of the last layer.
        params: the task's parameters.

    Returns:
        the outcomes, for :func:`check_metric`.

    Raises:
        AssertionError: names the promise that was broken.
    """
    task, owner = made(cls, "task", params), f"task {getattr(cls, 'name', '')}"
    check_digest(task, made(cls, "task", params), owner)
    model = on or tiny_model()
    engine = ClosedFormEngine(model, batch_size=4)
    first, second = twice(owner, "prepare()", lambda: task.prepare(engine, limit, 1))
    _check_prompts(first, second, model, owner)
    _check_parts(task, first.prompts, model, owner)
    chosen = selection or _some(model)
    conditions = _conditions(task, model, chosen, owner)
    prompts, tokens = first.prompts, [prompt.tokens for prompt in first.prompts[:4]]

    def observe(some: Sequence[Prompt], under: Sequence[Condition] = conditions) -> Outcomes:
        found = running(owner, "observe()", lambda: task.observe(engine, some, under, lambda n: None))
        promise(isinstance(found, Outcomes), owner, "observe() returned no harness.plugin.records.Outcomes")
        return found

    with untouched(model, tokens, owner, "observe()"):
        outcomes = observe(prompts)
    _check_outcomes(outcomes, prompts, conditions, owner)
    _check_gives(task, outcomes, owner)
    _check_follows(task, outcomes, owner)
    if len(prompts) > 1:
        parts = [observe(prompts[:1]), observe(prompts[1:])]
        joined = running(owner, "joining parts of a run", lambda: Outcomes.join(parts))
        promise(_close(outcomes, joined), owner, "observe() in two parts gives other values than all prompts at once")
    if task.shares_passes:
        alone = observe(prompts, [x for x in conditions if x.shown])
        shared = _without(outcomes, [row for row, x in enumerate(conditions) if not x.shown])
        promise(_close(shared, alone), owner, "what is observed of a condition depends on others (shares_passes)")
    outcomes = outcomes.split(chosen)
    for name in task.default_metrics:
        metric = running(owner, "default_metrics", lambda name=name: _metric(name, cls))  # type: ignore[misc]
        running(owner, f"the metric {name}", lambda metric=metric: metric.measure(outcomes))  # type: ignore[misc]
    return outcomes


def check_metric(cls: type[Metric], outcomes: Outcomes | None = None, /, **params: Any) -> Measurement:
    """Check what a metric promises: finite measures, one value for every condition, that follow from the outcomes alone
    and from nothing but the baseline and the condition itself; tables and figures that can be written.

    Args:
        outcomes: what :func:`check_task` returned, say; default: :func:`demo_outcomes`.
        params: the metric's parameters.

    Raises:
        AssertionError: names the promise that was broken.
    """
    metric, owner = made(cls, "metric", params), f"metric {getattr(cls, 'name', '')}"
    outcomes = outcomes or demo_outcomes()
    missing = sorted(name for name in metric.needs if NAME.fullmatch(name) and name not in outcomes.values)
    promise(not missing, owner, f"it needs {', '.join(missing)}, which these outcomes do not have")
    before = {name: array.copy() for name, array in outcomes.values.items()}
    found, again = twice(owner, "measure()", lambda: metric.measure(outcomes))
    promise(isinstance(found, Measurement), owner, "measure() returned no harness.plugin.records.Measurement")
    changed = [name for name, array in outcomes.values.items() if not same(array, before[name])]
    promise(not changed, owner, f"measure() writes into the outcome {changed[0] if changed else None}")
    promise(
        bool(found.measures or found.tables or found.frames or found.figures),
        owner,
        "measure() returned nothing at all",
    )
    names = [measure.name for measure in found.measures]
    promise(len(set(names)) == len(names), owner, "two of its measures have the same name")
    fewer = _without(outcomes, outcomes.rows("control")[-1:])
    rest = {x.name: x for x in running(owner, "measure()", lambda: metric.measure(fewer)).measures}
    for measure, twin in zip(found.measures, again.measures, strict=True):
        values, n = np.asarray(measure.values), len(outcomes.conditions)
        promise(
            values.shape == (n,),
            owner,
            f'"{measure.name}" has {counted(values.size, "value")} for {counted(n, "condition")}',
        )
        promise(not np.isinf(values).any(), owner, f'"{measure.name}" is infinite')
        promise(same(values, twin.values), owner, f'"{measure.name}" differs from call to call')
        kept = measure.name in rest and np.allclose(values[:-1], rest[measure.name].values, equal_nan=True)
        promise(kept, owner, f'"{measure.name}" of a condition changes when a control is left out')
    accepted(handed_back.measurement, found, outcomes, f"{owner}: measure()")
    check_shown([*found.frames, *found.figures], owner)
    return found


@functools.cache
def demo_outcomes() -> Outcomes:
    """Outcomes of the task knowledge_conflict on some facts of the bundled model, under zero ablation and controls."""
    task = catalogue().build(Task, ComponentSpec("knowledge_conflict", {}), "demo_outcomes()")
    model = demo_model()
    engine = ClosedFormEngine(model)
    prompts = task.prepare(engine, 80, 0).prompts
    chosen = _some(model)
    return task.observe(engine, prompts, _conditions(task, model, chosen, "demo_outcomes()")).split(chosen)


def _metric(name: str, task: type[Task]) -> Metric:
    """A metric that an installed plugin offers, or the task's own module, which may not be installed yet."""
    for cls in vars(sys.modules[task.__module__]).values():
        if isinstance(cls, type) and issubclass(cls, Metric) and getattr(cls, "name", None) == name:
            return cls.model_validate({})
    return catalogue().build(Metric, ComponentSpec(name, {}), f"metric {name}")


def _some(model: Model) -> Selection:
    """Every fourth neuron of the last layer: so many that an ablation shows."""
    last, d_mlp = model.anatomy.n_layers - 1, model.anatomy.d_mlp
    every = tuple(Neuron(last, i) for i in range(d_mlp))
    return Selection(every[::4], "every fourth neuron of the last layer", every, {"norm": np.ones(d_mlp)})


def _conditions(task: Task, model: Model, chosen: Selection, owner: str) -> list[Condition]:
    """Baseline, zero ablation of the selection, and controls; the first control edits nothing at all."""

    def zeroed(units: Sequence[Unit]) -> tuple[Edit, ...]:
        places = {type(unit): by_layer(x for x in units if type(x) is type(unit)) for unit in units}
        silent = (0.0,) * model.anatomy.d_head
        return (
            *(SetNeurons(layer, tuple(x), (0.0,) * len(x)) for layer, x in places.get(Neuron, {}).items()),
            *(SetHeads(layer, tuple(x), (silent,) * len(x)) for layer, x in places.get(Head, {}).items()),
        )

    def condition(name: str, role: Role, units: Sequence[Unit], edited: bool = True) -> Condition:
        return Condition(name, zeroed(units) if edited and task.intervenes else (), units=tuple(units), role=role)

    def moved(by: int) -> list[Unit]:
        size = {Head: model.anatomy.n_heads, Neuron: model.anatomy.d_mlp}
        return [type(x)(x.layer, (x.index + by) % size[type(x)]) for x in chosen.units]

    controls = [condition(f"control-{i:04d}", "control", moved(i), edited=i > 0) for i in range(CONTROLS)]
    alone = running(owner, "alone()", lambda: task.alone(chosen, model))
    return [
        BASELINE,
        condition("treated", "treated", chosen.units),
        *controls,
        *(condition(f"alone-{i:05d}", "alone", units) for i, units in enumerate(alone)),
    ]


def _without(outcomes: Outcomes, rows: Sequence[int]) -> Outcomes:
    """The same without some conditions."""
    kept = [row for row in range(len(outcomes.conditions)) if row not in rows]
    values = {name: array[kept] for name, array in outcomes.values.items()}
    return replace(outcomes, conditions=tuple(outcomes.conditions[row] for row in kept), values=values)


def _check_prompts(first: Prepared, second: Prepared, model: Model, owner: str) -> None:
    """Prompts can be told apart, read by the model, and written down."""
    promise(isinstance(first, Prepared), owner, "prepare() returned no harness.plugin.records.Prepared")
    promise(bool(first.prompts), owner, "prepare() made no prompts for this model; give another one (on=demo_model())")
    ids = [prompt.id for prompt in first.prompts]
    promise(len(set(ids)) == len(ids), owner, "two prompts have the same id")
    n_tokens = model.hf.get_input_embeddings().weight.shape[0]
    for prompt in first.prompts:
        known = bool(prompt.tokens) and all(0 <= token < n_tokens for token in prompt.tokens)
        promise(known, owner, f"prompt {prompt.id} is empty or holds a token that the model does not have")
        longest = model.n_positions or len(prompt.tokens)
        promise(len(prompt.tokens) <= longest, owner, f"prompt {prompt.id} is longer than the model's positions")
        as_json(prompt.fields, owner, f"the fields of prompt {prompt.id}")
        kept = Prompt.from_dict(json.loads(json.dumps(prompt.to_dict())))
        promise(kept.to_dict() == prompt.to_dict(), owner, f"prompt {prompt.id} changes when it is written and read")
    as_json(first.details, owner, "details")
    accepted(handed_over.prepared, first, model, f"{owner}: prepare()")
    equal = [x.to_dict() for x in first.prompts] == [x.to_dict() for x in second.prompts]
    promise(equal, owner, "prepare() makes other prompts the second time; draw with the seed that it is given")


def _check_parts(task: Task, prompts: Sequence[Prompt], model: Model, owner: str) -> None:
    """Every prompt has the parts that interventions may act at."""
    names = running(owner, "acts_at()", task.acts_at) - {"prompt", "generated"}
    found = running(owner, "named_spans()", lambda: border.spans(task, prompts, model)) if names else []
    for prompt, spans in zip(prompts, found, strict=False):
        left = sorted(names - spans.keys())
        why = f"acts_at() names {', '.join(left)}, which named_spans() does not give of prompt {prompt.id}"
        promise(not left, owner, why)


OF_OWN_UNITS = "activations"
"""The outcome that is of each condition's own neurons: NaN where it has fewer than another, or none."""


def _check_outcomes(outcomes: Outcomes, prompts: Sequence[Prompt], conditions: Sequence[Condition], owner: str) -> None:
    """Names, shapes and numbers."""
    names = [condition.name for condition in conditions]
    given = [getattr(condition, "name", condition) for condition in outcomes.conditions]
    promise(given == names, owner, f"outcomes are of {given}, expected {names}")
    promise(tuple(outcomes.prompts) == tuple(prompts), owner, "the outcomes' prompts are not those that it was given")
    promise(bool(outcomes.values), owner, "observe() observed nothing")
    for name, array in outcomes.values.items():
        numbers = np.asarray(array).dtype.kind in "biuf"
        promise(numbers, owner, f'the outcome "{name}" holds {array.dtype}, expected numbers')
        finite = ~np.isinf(array) if name == OF_OWN_UNITS else np.isfinite(array)
        promise(bool(finite.all()), owner, f'the outcome "{name}" is not finite')
    for row, answers in enumerate(outcomes.answers):
        promise(
            len(answers) == len(prompts),
            owner,
            f"{counted(len(answers), 'answer')} in row {row} for {counted(len(prompts), 'prompt')}",
        )
    promise(len(outcomes.answers) <= 2, owner, "answers are those of baseline and treated model only")
    accepted(handed_back.outcomes, outcomes, prompts, conditions, f"{owner}: observe()")


def _check_gives(task: Task, outcomes: Outcomes, owner: str) -> None:
    """What the task says that metrics may count on is there."""
    for name in sorted(task.gives() or ()):
        kind, _, rest = name.partition(" ")
        if kind == "series":
            there = rest in outcomes.series
        elif kind == "field":
            there = all(rest in prompt.fields for prompt in outcomes.prompts)
        else:  # words that only the task's own metrics ask for
            there = name in outcomes.values or not NAME.fullmatch(name)
        promise(there, owner, f'gives() names "{name}", which observe() does not give')


def _check_follows(task: Task, outcomes: Outcomes, owner: str) -> None:
    """A condition that edits nothing is the baseline, and one that ablates a quarter of a layer is not."""
    if not task.intervenes:
        return
    for name in outcomes.values.keys() - {OF_OWN_UNITS}:
        baseline, unedited = outcomes.baseline[name].astype(float), outcomes.controls[name][0].astype(float)
        equal = np.allclose(baseline, unedited, rtol=1e-4, atol=1e-4)
        promise(equal, owner, f'a condition without edits has another "{name}" than the baseline')
    differs = any(not same(outcomes.baseline[name], outcomes.treated[name]) for name in outcomes.values)
    promise(differs, owner, "the ablation changes no outcome: hand the conditions to the engine")


def _close(first: Outcomes, second: Outcomes) -> bool:
    """Whether values and answers are equal up to the rounding of differently padded batches."""
    return first.answers == second.answers and all(
        array.shape == second.values[name].shape
        and np.allclose(array.astype(float), second.values[name].astype(float), rtol=1e-3, atol=1e-4, equal_nan=True)
        for name, array in first.values.items()
    )
