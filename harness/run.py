"""One run from its specification to its folder: the stages, in order, each handing on one record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

import harness
from harness import leaderboard
from harness.components import (
    Component,
    ComponentSpec,
    Intervention,
    Metric,
    ModelLoader,
    SelectionContext,
    Selector,
    Task,
)
from harness.conditions import BASELINE, Condition, Head, Neuron, Selection, Unit, check_selection, site_of
from harness.controls import Controls, draw_controls
from harness.errors import HarnessError
from harness.outcomes import Figure, Frame, Outcomes, Prepared, Table
from harness.plugins import Catalogue, Origin
from harness.provenance import provenance
from harness.report.figures import write_shown
from harness.results import SCHEMA_VERSION, RunFolder, clean, digest, read_json, sample_rows, writing
from harness.spec import RunSpec

if TYPE_CHECKING:
    from harness.activations import ActivationStatistics, HeadStatistics
    from harness.engine import Engine, Progress
    from harness.model import Model
    from harness.statistics import MeasureSummary

CONTROLS = {"closed_form": 999, "batched": 100, "hooks": 100}
"""Control sets by default: 999 let p fall to 0.002 and stand a correction for several measures; 100 do not."""

SHORT = 40
"""Rows of a table that the record holds; longer ones are in their CSV file only."""

NOTHING = ComponentSpec("none", {})
"""The intervention of a task that looks at neurons and edits nothing."""

PART = 256
"""Prompts that are run under every condition before the outcomes are put on the disk."""


class Reporter(Protocol):
    """Shows how far a run is."""

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[Progress]:
        """A stage with ``total`` steps, or of unknown length; the context gives a function to tell of progress."""
        ...


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


def plan(spec: RunSpec, catalogue: Catalogue) -> Plan:
    """Find and validate every component of a run, before anything is loaded.

    Raises:
        HarnessError: an unknown component or a wrong parameter.
    """
    task = cast(Task, catalogue.build("task", spec.task, "--task"))
    wanted = spec.metrics or tuple(ComponentSpec(name, {}) for name in task.default_metrics)
    if task.intervenes == (spec.intervention is None):
        raise HarnessError(
            f"--intervention: the task {task.name} needs one, for example mean."
            if task.intervenes
            else f"--intervention: the task {task.name} looks at neurons and edits nothing; leave it out."
        )
    edits = spec.intervention or NOTHING
    components = [
        model := cast(ModelLoader, catalogue.build("model", spec.model, "--model")),
        task,
        selector := cast(Selector, catalogue.build("selector", spec.selector, "--selector")),
        intervention := cast(Intervention, catalogue.build("intervention", edits, "--intervention")),
        *(metrics := [cast(Metric, catalogue.build("metric", metric, "--metric")) for metric in wanted]),
    ]
    if not metrics:
        raise HarnessError(f"--metric: the task {task.name} has no metrics of its own; name at least one.")
    origins = {f"{x.kind} {x.name}": catalogue.origins[type(x)] for x in components}
    return Plan(spec, model, task, selector, intervention, tuple(metrics), origins)


@dataclass(frozen=True)
class Finished:
    """A finished run: where it is, what it found, and whether it was found already finished."""

    path: Path
    record: dict[str, Any]
    reused: bool


def execute(plan: Plan, output: Path, reporter: Reporter, command: str, fresh: bool = False) -> Finished:
    """Make a run, or continue it where it was interrupted, or return it if it is finished.

    Raises:
        HarnessError: whatever the user can mend; nothing but ``unfinished/`` is left behind then.
    """
    from filelock import FileLock

    from harness.closed_form import ClosedFormEngine
    from harness.engine import HookEngine

    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    started = time.time()
    with reporter.stage("loading the model"):
        model = plan.model.load()
    identity = _identity(plan, model)
    run_id = digest(identity)
    folder = RunFolder(output / f"{plan.spec.name}-{run_id[:8]}")
    with writing(folder.path):
        lock = FileLock(output / f".{folder.path.name}.lock")
        lock.acquire()
    try:
        if folder.complete and not fresh:
            record = read_json(folder.result)
            leaderboard.append(
                output / "leaderboard.jsonl", leaderboard.rows_of(record, read_json(folder.path / "provenance.json"))
            )
            return Finished(folder.path, record, reused=True)
        folder.open(fresh)
        engines = {"auto": ClosedFormEngine, "hooks": HookEngine}
        engine = engines[plan.spec.engine](model, plan.spec.batch_size)
        record, outcomes, shown = _work(plan, engine, folder, identity, run_id, reporter)
        assert outcomes.selection is not None
        about = provenance(command, started, run_id)
        files = {
            "samples.jsonl": sample_rows(outcomes),
            "neurons.jsonl": outcomes.selection.table(),
            "provenance.json": about,
        }
        with reporter.stage("drawing figures", len(shown)) as advance:
            write_shown(folder.path, shown, advance)
        folder.finish(files, outcomes, record)
        leaderboard.append(output / "leaderboard.jsonl", leaderboard.rows_of(record, about))
        return Finished(folder.path, clean(record), reused=False)
    except HarnessError:
        folder.abandon()
        raise
    finally:
        lock.release()


def _identity(plan: Plan, model: Model) -> dict[str, Any]:
    """Everything that the results depend on."""
    spec = plan.spec
    return {
        "schema_version": SCHEMA_VERSION,
        "harness_version": harness.__version__,
        "model": model.provenance(),
        "components": plan.components(),
        "data_sha256": plan.task.data_digest(),
        "inputs_sha256": {
            f"{x.name}.{key}": value
            for x in (plan.task, plan.selector, plan.intervention)
            for key, value in x.inputs().items()
        },
        "controls": spec.controls,
        "match": spec.match,
        "engine": spec.engine,
        "seed": spec.seed,
        "limit": spec.limit,
        "batch_size": spec.batch_size,
        "resamples": spec.resamples,
    }


def _work(
    plan: Plan, engine: Engine, folder: RunFolder, identity: Mapping[str, Any], run_id: str, reporter: Reporter
) -> tuple[dict[str, Any], Outcomes, list[Frame | Figure]]:
    """Prompts, selection, conditions, outcomes, scores."""
    from harness.statistics import derive_seed

    spec, model = plan.spec, engine.model
    with reporter.stage("preparing the prompts"):
        prepared = folder.load_prepared()
        if prepared is None:
            prepared = plan.task.prepare(engine, spec.limit, derive_seed(spec.seed, "task"))
            folder.save_prepared(prepared)
    if not prepared.prompts:
        raise HarnessError(f"task {plan.task.name}: there are no prompts.")
    with reporter.stage("selecting neurons"):
        selection = _select(plan, engine, prepared)
    plan = replace(plan, intervention=plan.intervention.prepare(selection))
    with reporter.stage("measuring activations"):
        statistics = _statistics(plan, engine, prepared, selection)
    frozen = plan.intervention.freeze(model)

    def condition(name: str, units: Sequence[Unit]) -> Condition:
        return Condition(name, plan.intervention.edits(units, statistics), frozen=frozen, units=tuple(units))

    treated = condition("treated", selection.neurons)
    controls = _controls(plan, engine, prepared, selection, treated)
    alone = list(plan.task.alone(selection, model))
    conditions = [
        BASELINE,
        treated,
        *(condition(f"control-{i:04d}", units) for i, units in enumerate(controls.sets)),
        *(condition(f"alone-{i:05d}", units) for i, units in enumerate(alone)),
    ]
    found = _observe(plan, engine, folder, prepared, conditions, reporter)
    outcomes = found.split(["+".join(map(str, units)) for units in alone], selection)
    with reporter.stage("computing statistics"):
        scores, shown = _scores(plan, outcomes, derive_seed(spec.seed, "bootstrap"))
    record = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "name": spec.name,
        "description": spec.description,
        "identity": identity,
        "engine": engine.path(conditions),
        "task": {
            "name": plan.task.name,
            "summary": plan.task.summary(),
            "n_prompts": len(prepared.prompts),
            "n_clusters": int(outcomes.clusters.max()) + 1,
            "steps": [step.to_dict() for step in prepared.steps],
            "details": prepared.details,
        },
        "selection": _selection(plan, selection, statistics, treated),
        "controls": controls.to_dict(),
        **scores,
    }
    return record, outcomes, shown


def _select(plan: Plan, engine: Engine, prepared: Prepared) -> Selection:
    from harness.statistics import derive_seed

    anatomy, source = engine.model.anatomy, f"selector {plan.selector.name}"
    tokens = [prompt.tokens for prompt in prepared.prompts]
    context = SelectionContext(engine.model, engine, tokens, derive_seed(plan.spec.seed, "selector"))
    selection = plan.selector.select(context)
    check_selection(selection.neurons, anatomy.n_layers, anatomy.d_mlp, anatomy.n_heads, source)
    chosen = "heads" if isinstance(selection.neurons[0], Head) else "neurons"
    if plan.task.intervenes and chosen != plan.intervention.site:
        raise HarnessError(
            f"--intervention: {plan.intervention.name} edits {plan.intervention.site}, but the {source} chose {chosen}."
        )
    return selection


def _statistics(
    plan: Plan, engine: Engine, prepared: Prepared, selection: Selection
) -> ActivationStatistics | HeadStatistics | None:
    """Activation statistics of the selection's layers over the task's reference positions, where they are wanted."""
    from harness.activations import activation_statistics, head_statistics
    from harness.statistics import derive_seed

    if not plan.intervention.needs_statistics:
        return None
    site, tokens = plan.intervention.site, [prompt.tokens for prompt in prepared.prompts]
    spans = plan.task.reference(prepared.prompts, site)
    layers = sorted({unit.layer for unit in (*selection.neurons, *(selection.pool or ()))})
    if site == "heads":
        return head_statistics(engine.model, tokens, layers, plan.spec.batch_size, spans)
    seed = derive_seed(plan.spec.seed, "activations")
    return activation_statistics(engine.model, tokens, layers, plan.spec.batch_size, seed, spans)


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
        spec.batch_size,
        derive_seed(spec.seed, "controls"),
    )


def _observe(
    plan: Plan,
    engine: Engine,
    folder: RunFolder,
    prepared: Prepared,
    conditions: Sequence[Condition],
    reporter: Reporter,
) -> Outcomes:
    """Run all conditions part by part; parts that an interrupted run finished are read back."""
    names = tuple(condition.name for condition in conditions)
    parts = []
    total = len(prepared.prompts) * len(conditions)
    with reporter.stage(f"{len(prepared.prompts)} prompts under {len(conditions)} conditions", total) as advance:
        for start in range(0, len(prepared.prompts), PART):
            prompts = prepared.prompts[start : start + PART]
            part = folder.load_part(start, prompts, names)
            if part is None:
                part = plan.task.observe(engine, prompts, conditions, advance)
                folder.save_part(start, part)
            else:
                advance(len(prompts) * len(conditions))
            parts.append(part)
    return Outcomes.join(parts)


def _selection(
    plan: Plan, selection: Selection, statistics: ActivationStatistics | HeadStatistics | None, treated: Condition
) -> dict[str, Any]:
    """The selected neurons with their scores, statistics and the values they are set to."""
    from harness.activations import ActivationStatistics

    rows = {neuron: row for row, neuron in enumerate(selection.candidates)}
    values = {
        Neuron(edit.layer, index): value
        for edit in treated.edits
        if site_of(edit) == "neurons"
        for index, value in zip(edit.indices, getattr(edit, "values", ()), strict=False)
    }

    def entry(neuron: Unit) -> dict[str, Any]:
        found: dict[str, Any] = {"neuron": str(neuron)}
        if neuron in rows:
            found |= {name: float(column[rows[neuron]]) for name, column in selection.scores.items()}
        if isinstance(statistics, ActivationStatistics) and isinstance(neuron, Neuron):
            names = ("mean", "sd", "minimum", "maximum")
            found |= {f"activation_{name}": statistics.value(name, [neuron])[0] for name in names}
        if isinstance(neuron, Neuron) and neuron in values:
            found["set_to"] = values[neuron]
        return found

    medians = {f"median_{name}": float(np.nanmedian(column)) for name, column in selection.scores.items()}
    return {
        "selector": plan.selector.name,
        "unit": "head" if isinstance(selection.neurons[0], Head) else "neuron",
        "intervention": plan.intervention.name,
        "intervention_summary": plan.intervention.summary(),
        "pool": None if selection.pool is None else [str(unit) for unit in selection.pool],
        "positions": plan.task.positions_treated,
        "rule": selection.rule,
        "neurons": [entry(neuron) for neuron in selection.neurons],
        "layer_medians": medians,
        "details": dict(selection.details),
        "activation_positions": statistics.n if statistics is not None else None,
    }


def _scores(plan: Plan, outcomes: Outcomes, seed: int) -> tuple[dict[str, Any], list[Frame | Figure]]:
    """Every metric's measures beside their controls, tables with tests, a verdict for each primary measure; and what is
    to be written beside the record."""
    from harness.statistics import adjust, summarise, verdict

    assert outcomes.selection is not None
    shown: list[Frame | Figure] = list(plan.selector.figures(outcomes.selection))
    clusters = outcomes.clusters
    summaries: list[tuple[str, MeasureSummary]] = []
    tables: list[dict[str, Any]] = []
    remarks: list[str] = []
    broken: str | None = None
    for metric in plan.metrics:  # one after another: the arrays of a metric are large
        found = metric.measure(outcomes)
        summaries += [(metric.name, summarise(x, clusters, seed, plan.spec.resamples)) for x in found.measures]
        tables += [_table(metric, table) for table in found.tables]
        shown += [*found.frames, *found.figures]
        remarks += found.remarks
        broken = broken or found.broken
    primary = [summary for _, summary in summaries if summary.primary]
    holm = dict(zip((x.name for x in primary), adjust([x.test.p_two_sided for x in primary], "holm"), strict=True))
    benjamini = dict(zip((x.name for x in primary), adjust([x.test.p_two_sided for x in primary], "bh"), strict=True))
    measures = []
    for metric_name, summary in summaries:
        row = {"metric": metric_name, **summary.to_dict()}
        if summary.primary:
            said = verdict(summary, holm[summary.name], broken=broken)
            row |= {
                "p_holm": holm[summary.name],
                "p_bh": benjamini[summary.name],
                "verdict": said.word,
                "verdict_sentence": said.sentence,
            }
        measures.append(row)
    scores = {
        "measures": measures,
        "family": {
            "adjusted": "Holm and Benjamini-Hochberg over the primary measures of this run",
            "size": len(primary),
        },
        "tables": tables,
        "frames": [_frame(item) for item in shown if isinstance(item, Frame)],
        "figures": [{"name": item.name, "title": item.title} for item in shown if isinstance(item, Figure)],
        "remarks": remarks,
        "broken": broken,
    }
    return scores, shown


def _frame(frame: Frame) -> dict[str, Any]:
    """A table as the record keeps it: with its rows while they are few."""
    rows = [dict(zip(frame.columns, row, strict=True)) for row in zip(*frame.columns.values(), strict=True)]
    return {"name": frame.name, "title": frame.title, "n": len(rows), "rows": rows if len(rows) <= SHORT else None}


def _table(metric: Metric, table: Table) -> dict[str, Any]:
    return {
        "metric": metric.name,
        "name": table.name,
        "title": table.title,
        "categories": table.categories,
        "treated": table.treated,
        "control_mean": table.controls.mean(axis=0) if len(table.controls) else None,
        "tests": table.tests.to_dict() if table.tests else None,
    }
