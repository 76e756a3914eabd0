"""One run from its specification to its folder: the stages, in order, each handing on one record."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

import harness
from harness import leaderboard
from harness.components import Component, Intervention, Metric, ModelLoader, SelectionContext, Selector, Task
from harness.conditions import (
    BASELINE,
    Condition,
    Neuron,
    Selection,
    check_selection,
    possible_controls,
    random_controls,
)
from harness.errors import HarnessError
from harness.outcomes import Outcomes, Prepared, Table
from harness.plugins import Catalogue, Origin
from harness.results import SCHEMA_VERSION, RunFolder, clean, digest, read_json, sample_rows, writing
from harness.spec import RunSpec

if TYPE_CHECKING:
    from harness.activations import ActivationStatistics
    from harness.engine import Engine, Progress
    from harness.model import Model
    from harness.statistics import MeasureSummary

CONTROLS = {"closed_form": 999, "batched": 100, "hooks": 100}
"""Control sets by default: 999 let p fall to 0.002 and stand a correction for several measures; 100 do not."""

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
    wanted = spec.metrics or tuple(map(_named, task.default_metrics))
    components = [
        model := cast(ModelLoader, catalogue.build("model", spec.model, "--model")),
        task,
        selector := cast(Selector, catalogue.build("selector", spec.selector, "--selector")),
        intervention := cast(Intervention, catalogue.build("intervention", spec.intervention, "--intervention")),
        *(metrics := [cast(Metric, catalogue.build("metric", metric, "--metric")) for metric in wanted]),
    ]
    if not metrics:
        raise HarnessError(f"--metric: the task {task.name} has no metrics of its own; name at least one.")
    origins = {f"{x.kind} {x.name}": catalogue.origins[type(x)] for x in components}
    return Plan(spec, model, task, selector, intervention, tuple(metrics), origins)


def _named(name: str) -> Any:
    from harness.components import ComponentSpec

    return ComponentSpec(name, {})


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
            leaderboard.append(output / "leaderboard.jsonl", _rows(record, read_json(folder.path / "provenance.json")))
            return Finished(folder.path, record, reused=True)
        folder.open(fresh)
        engines = {"auto": ClosedFormEngine, "hooks": HookEngine}
        engine = engines[plan.spec.engine](model, plan.spec.batch_size)
        record, outcomes, selection = _work(plan, engine, folder, identity, run_id, reporter)
        provenance = _provenance(command, started, record)
        files = {
            "samples.jsonl": sample_rows(outcomes),
            "neurons.jsonl": selection.table(),
            "provenance.json": provenance,
        }
        folder.finish(files, outcomes, record)
        leaderboard.append(output / "leaderboard.jsonl", _rows(record, provenance))
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
        "controls": spec.controls,
        "engine": spec.engine,
        "seed": spec.seed,
        "limit": spec.limit,
        "batch_size": spec.batch_size,
        "resamples": spec.resamples,
    }


def _work(
    plan: Plan, engine: Engine, folder: RunFolder, identity: Mapping[str, Any], run_id: str, reporter: Reporter
) -> tuple[dict[str, Any], Outcomes, Selection]:
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
        tokens = [prompt.tokens for prompt in prepared.prompts]
        selection = plan.selector.select(SelectionContext(model, engine, tokens, derive_seed(spec.seed, "selector")))
        check_selection(
            selection.neurons, model.anatomy.n_layers, model.anatomy.d_mlp, f"selector {plan.selector.name}"
        )
    statistics = None
    if plan.intervention.needs_statistics:
        from harness.activations import activation_statistics

        with reporter.stage("measuring activations"):
            layers = sorted({neuron.layer for neuron in selection.neurons})
            seed = derive_seed(spec.seed, "activations")
            statistics = activation_statistics(model, tokens, layers, spec.batch_size, seed)
    treated = Condition("treated", plan.intervention.edits(selection.neurons, statistics))
    n_controls = spec.controls
    if n_controls is None:
        possible = possible_controls(selection.neurons, model.anatomy.d_mlp)
        n_controls = min(CONTROLS[engine.path([treated])], possible)
    sets = random_controls(selection.neurons, n_controls, model.anatomy.d_mlp, derive_seed(spec.seed, "controls"))
    conditions = [
        BASELINE,
        treated,
        *(
            Condition(f"control-{i:04d}", plan.intervention.edits(neurons, statistics))
            for i, neurons in enumerate(sets)
        ),
    ]
    outcomes = _observe(plan, engine, folder, prepared, conditions, reporter)
    with reporter.stage("computing statistics"):
        scores = _scores(plan, outcomes, derive_seed(spec.seed, "bootstrap"))
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
        "selection": _selection(plan, selection, statistics, conditions[1]),
        "controls": {
            "n": len(sets),
            "match": "none",
            "layers": sorted({neuron.layer for neuron in selection.neurons}),
            "sets": [[str(neuron) for neuron in neurons] for neurons in sets],
        },
        **scores,
    }
    return record, outcomes, selection


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
    plan: Plan, selection: Selection, statistics: ActivationStatistics | None, treated: Condition
) -> dict[str, Any]:
    """The selected neurons with their scores, statistics and the values they are set to."""
    rows = {neuron: row for row, neuron in enumerate(selection.candidates)}
    values = {
        Neuron(edit.layer, index): value
        for edit in treated.edits
        for index, value in zip(edit.indices, getattr(edit, "values", ()), strict=False)
    }

    def entry(neuron: Neuron) -> dict[str, Any]:
        found: dict[str, Any] = {"neuron": str(neuron)}
        if neuron in rows:
            found |= {name: float(column[rows[neuron]]) for name, column in selection.scores.items()}
        if statistics is not None:
            names = ("mean", "sd", "minimum", "maximum")
            found |= {f"activation_{name}": statistics.value(name, [neuron])[0] for name in names}
        if neuron in values:
            found["set_to"] = values[neuron]
        return found

    medians = {f"median_{name}": float(np.nanmedian(column)) for name, column in selection.scores.items()}
    return {
        "selector": plan.selector.name,
        "intervention": plan.intervention.name,
        "intervention_summary": plan.intervention.summary(),
        "positions": "all",
        "rule": selection.rule,
        "neurons": [entry(neuron) for neuron in selection.neurons],
        "layer_medians": medians,
        "details": dict(selection.details),
        "activation_positions": statistics.n if statistics is not None else None,
    }


def _scores(plan: Plan, outcomes: Outcomes, seed: int) -> dict[str, Any]:
    """Every metric's measures beside their controls, tables with tests, and a verdict for each primary measure."""
    from harness.statistics import adjust, summarise, verdict

    clusters = outcomes.clusters
    summaries: list[tuple[str, MeasureSummary]] = []
    tables: list[dict[str, Any]] = []
    remarks: list[str] = []
    broken: str | None = None
    for metric in plan.metrics:  # one after another: the arrays of a metric are large
        found = metric.measure(outcomes)
        summaries += [(metric.name, summarise(x, clusters, seed, plan.spec.resamples)) for x in found.measures]
        tables += [_table(metric, table) for table in found.tables]
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
    return {
        "measures": measures,
        "family": {
            "adjusted": "Holm and Benjamini-Hochberg over the primary measures of this run",
            "size": len(primary),
        },
        "tables": tables,
        "remarks": remarks,
        "broken": broken,
    }


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


def _provenance(command: str, started: float, record: Mapping[str, Any]) -> dict[str, Any]:
    """What may differ between two runs of the same bytes: when, where, how long, with which packages."""
    import resource
    from importlib.metadata import version

    import torch

    packages = ("neuron-harness", "torch", "transformers", "tokenizers", "numpy", "scipy", "safetensors")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "run_id": record["run_id"],
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "wall_seconds": round(time.time() - started, 3),
        "peak_memory_mib": peak // 1024,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: version(name) for name in packages},
        "git": _git(),
    }


def _git() -> dict[str, Any] | None:
    """Commit of the harness's own checkout, if it runs from one."""
    import subprocess

    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def ask(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD") or None, "dirty": bool(ask("status", "--porcelain"))}
    except OSError:  # no git on this machine
        return None


def _rows(record: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Leaderboard rows of a run: one for each measure, each self-contained, columns of stable types."""
    identity = record["identity"]
    components = identity["components"]
    shared = {
        "schema_version": SCHEMA_VERSION,
        "run_id": record["run_id"],
        "run": record["name"],
        "time_utc": provenance["finished"],
        "harness_version": identity["harness_version"],
        "git_commit": (provenance["git"] or {}).get("commit"),
        "git_dirty": (provenance["git"] or {}).get("dirty"),
        "command": provenance["command"],
        "model": identity["model"]["id"],
        "model_revision": identity["model"]["commit"] or identity["model"]["revision"],
        "weights_sha256": identity["model"]["weights_sha256"],
        "tokenizer_sha256": identity["model"]["tokenizer_sha256"],
        "dtype": identity["model"]["dtype"],
        "device": identity["model"]["device"],
        **{kind: components[kind]["name"] for kind in ("task", "selector", "intervention")},
        **{
            f"{kind}_{key}": clean(components[kind][source]) if key != "params" else _json(components[kind][source])
            for kind in ("task", "selector", "intervention")
            for key, source in (("version", "version"), ("params", "params"), ("distribution", "distribution"))
        },
        "data_sha256": identity["data_sha256"],
        "n_prompts": record["task"]["n_prompts"],
        "n_clusters": record["task"]["n_clusters"],
        "neurons": [x["neuron"] for x in record["selection"]["neurons"]],
        "engine": record["engine"],
        "n_controls": record["controls"]["n"],
        "control_match": record["controls"]["match"],
        "seed": identity["seed"],
        "limit": identity["limit"],
        "hardware": provenance["accelerator"] or provenance["processor"],
        "wall_seconds": provenance["wall_seconds"],
    }
    return [
        {
            "row_id": digest([record["run_id"], measure["metric"], measure["name"]])[:16],
            **shared,
            **_measure_row(measure),
        }
        for measure in record["measures"]
    ]


def _json(value: Any) -> str:
    """Parameters as JSON text: a column of one type, whatever the component."""
    from harness.results import canonical

    return canonical(value)


def _measure_row(measure: Mapping[str, Any]) -> dict[str, Any]:
    keep = [
        "metric",
        "name",
        "title",
        "unit",
        "higher_is_better",
        "primary",
        "baseline",
        "value",
        "count",
        "denominator",
        "ci_low",
        "ci_high",
        "p_greater",
        "p_less",
        "p_two_sided",
        "quantile",
        "p_holm",
        "p_bh",
        "verdict",
    ]
    control = measure["controls"]
    return {("measure" if key == "name" else key): measure.get(key) for key in keep} | {
        f"control_{key}": control.get(key) if control else None
        for key in ("mean", "sd", "standard_error", "min", "q05", "q50", "q95", "max")
    }
