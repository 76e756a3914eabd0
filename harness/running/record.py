"""The record of a run: what was selected, every measure beside its controls, tables, verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.conditions.conditions import site_of
from harness.conditions.positions import Positions
from harness.conditions.units import Unit
from harness.files.store import clean
from harness.files.wording import counted, noun_for
from harness.model.greedy import in_words
from harness.model.precision import to_record
from harness.model.quantised import in_words as quantisation
from harness.plugin import border
from harness.plugin.records import Figure, Frame, Outcomes, Table
from harness.plugin.standing import PERCENTILE, Standing, standings, warning
from harness.results import record
from harness.results.measures import Family, Measure
from harness.results.record import SCHEMA_VERSION, RunRecord

if TYPE_CHECKING:
    from harness.plugin.components import Intervention, Metric
    from harness.running.plan import Stage
    from harness.statistics import MeasureSummary

SHORT = 40
"""Rows of a table that the record holds; longer ones are in their CSV file only."""


@dataclass(frozen=True)
class _Scores:
    """What the metrics say of the outcomes.

    Attributes:
        shown: tables and figures, those of the selector and the intervention, too.
        controls: the measures' values under the controls [m], by ``metric.measure``, in the order of ``measures``.
    """

    measures: list[Measure]
    family: Family
    tables: list[record.Table]
    shown: list[Frame | Figure]
    remarks: list[str]
    broken: str | None
    controls: Mapping[str, np.ndarray]


def record_of(
    stage: Stage,
    outcomes: Outcomes,
    identity: Mapping[str, Any],
    run_id: str,
    engine: str,
    seed: int,
    tokens: Mapping[str, Any],
    near: np.ndarray | None,
) -> tuple[RunRecord, list[Frame | Figure], list[dict[str, Any]]]:
    """The record of a run, and what is written beside it: tables and figures, and the rows of ``controls.jsonl``.

    Args:
        engine: which implementation ran the conditions. seed: of the bootstrap.
        tokens: what prompts begin with (:func:`harness.model.tokens.first_tokens`).
        near: prompts after which two tokens lie closer than the rounding (:mod:`harness.model.precision`), if one
            looked.
    """
    plan, prepared = stage.plan, stage.prepared
    scores, depends_on = _scores(stage, outcomes, seed), record.Identity(**clean(identity))
    ties = to_record(near, [prompt.id for prompt in prepared.prompts])
    found = RunRecord(
        schema_version=SCHEMA_VERSION,
        run_id=run_id,
        name=plan.spec.name,
        description=plan.spec.description,
        identity=depends_on,
        engine=engine,
        texts=[record.Text(**text) for text in plan.texts()],
        task=record.Task(
            name=plan.task.name,
            title=plan.task.title(),
            summary=plan.task.summary(),
            n_prompts=len(prepared.prompts),
            n_clusters=int(outcomes.clusters.max()) + 1,
            tokens=record.FirstTokens(**tokens),
            near_ties=None if ties is None else record.NearTies(**ties),
            steps=[record.Step(**step.to_dict()) for step in prepared.steps],
            details=clean(prepared.details),
        ),
        selection=_selection(stage),
        controls=record.Controls(**clean(stage.controls.to_dict())),
        exploratory=stage.exploratory,
        measures=scores.measures,
        family=scores.family,
        tables=scores.tables,
        frames=[frame_of(item) for item in scores.shown if isinstance(item, Frame)],
        figures=[figure_of(item) for item in scores.shown if isinstance(item, Figure)],
        remarks=[*_remarks(depends_on.model, near), *scores.remarks],
        broken=scores.broken,
    )
    return found, scores.shown, _control_rows(stage, scores.controls)


def _remarks(model: record.Model, near: np.ndarray | None) -> Iterator[str]:
    """What a reader has to know of the model before the numbers."""
    if model.gguf is not None:
        kinds = ", ".join(f"{name} {n}" for name, n in model.gguf.types.items())
        yield (
            f"the model's weights were quantised ({counted(sum(model.gguf.types.values()), 'tensor')}: {kinds}) before "
            f"{model.gguf.file} was made, and dequantised here: what is said is of these weights"
        )
    if (quantised := model.quantised) is not None:
        how = quantisation(quantised.method, quantised.kind, quantised.packed, quantised.linear_maps)
        yield f"the model's weights are {how}: what is said is of these weights"
    if model.adapter is not None:
        yield f"the adapter {model.adapter.id} ({model.adapter.kind}) is merged into the model's weights"
    if near is not None:
        yield (
            f"the model's passes are in {model.dtype}, logits and statistics are not; after "
            f"{int(near.sum())} of {counted(len(near), 'prompt')} the two most likely tokens lie closer than its "
            "rounding (near_ties in result.json): what is said there may change with the batch, engine or machine"
        )
    if settings := model.generation_not_applied:
        yield (
            "whatever is generated is the most likely token at every step; of the model's generation_config, "
            f"{in_words(settings)} is not applied"
        )
    if unused := model.unused_tensors:
        yield f"the model does not use {len(unused)} tensors of its checkpoint ({', '.join(unused[:3])} ...)"


def _control_rows(stage: Stage, values: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """One row a control set: its units, and the value of every measure under it."""
    columns = {name: found.tolist() for name, found in values.items()}
    return [
        {"control": i, "units": [str(unit) for unit in units], **{name: found[i] for name, found in columns.items()}}
        for i, units in enumerate(stage.controls.sets)
    ]


def _selection(stage: Stage) -> record.Selection:
    """The selected neurons with their scores, statistics and the values they are set to."""
    from harness.engine.activation_summaries import ActivationStatistics

    plan, selection, treated = stage.plan, stage.selection, stage.treated
    measured = _measured(stage)
    rows = {neuron: row for row, neuron in enumerate(selection.candidates)}
    values = {
        (site_of(edit), edit.layer, index): value
        for edit in treated.edits
        for index, value in zip(edit.indices, getattr(edit, "values", ()), strict=False)
    }

    standing = standings(selection)

    def entry(neuron: Unit, stands: Standing) -> record.Chosen:
        found: dict[str, Any] = {"neuron": str(neuron)}
        if neuron in rows:
            for name, column in selection.scores.items():
                found[name] = float(column[rows[neuron]])
                if name in stands.percentiles:
                    found[f"{name}{PERCENTILE}"] = round(stands.percentiles[name], 3)
        if stands.ordinary:
            found["ordinary_in"] = list(stands.ordinary)
        if isinstance(statistics := measured.get(neuron), ActivationStatistics):
            names = {"mean": "mean", "sd": "std", "minimum": "minimum", "maximum": "maximum"}
            found |= {f"activation_{key}": statistics.value(name, [neuron])[0] for key, name in names.items()}
        if neuron.one_number and (key := (neuron.where, neuron.layer, neuron.index)) in values:
            found["set_to"] = values[key]
        return record.Chosen(**clean(found))

    steps = [Positions(step.positions) for step in plan.intervention.parts()]
    where = "" if all(x.text == "all" for x in steps) else "; ".join(map(str, steps))
    medians = {f"median_{name}": _median(column) for name, column in selection.scores.items()}
    return record.Selection(
        selector=plan.selector.name,
        unit=selection.word,
        intervention=plan.intervention.name,
        intervention_title=" and ".join(map(_titled, plan.intervention.parts())),
        intervention_summary=plan.intervention.summary(),
        pool=None if selection.pool is None else [str(unit) for unit in selection.pool],
        positions=where or plan.task.positions_treated,
        rule=selection.rule,
        neurons=[entry(*both) for both in zip(selection.units, standing, strict=True)],
        layer_medians=clean(medians),
        special=dict(selection.special),
        warning=warning(selection, standing),
        details=clean(selection.details),
        activation_positions=next((x.n for x in measured.values() if x is not None), None),
    )


def _titled(step: Intervention) -> str:
    """What an intervention is called, and where it acts if not everywhere."""
    return step.title() + ("" if step.positions == "all" else f" at {Positions(step.positions)}")


def _measured(stage: Stage) -> dict[Unit, Any]:
    """What was measured of each selected unit's activations, or None; of a circuit by its step."""
    found = stage.statistics
    steps = zip(stage.selection.parts, found, strict=True) if isinstance(found, tuple) else [(stage.selection, found)]
    return {unit: statistics for part, statistics in steps for unit in part.units}


def _median(column: np.ndarray) -> float:
    """The median of a score, which most candidates must have: the others were chosen for something."""
    known = column[~np.isnan(column)]
    return float(np.median(known)) if 2 * len(known) >= len(column) > 0 else float("nan")


def _scores(stage: Stage, outcomes: Outcomes, seed: int) -> _Scores:
    """Every metric's measures beside their controls, tables with tests, a verdict for each primary measure."""
    from harness.statistics import summarise

    plan, selection = stage.plan, stage.selection
    taken: dict[tuple[type, str], str] = {}
    drawn = border.figures(plan.selector, lambda: plan.selector.figures(selection))
    shown = border.shown(plan.selector, "figures", drawn, taken)
    drawn = border.figures(plan.intervention, lambda: plan.intervention.figures(selection, stage.statistics))
    shown += border.shown(plan.intervention, "figures", drawn, taken)
    clusters = outcomes.clusters
    summaries: list[tuple[str, MeasureSummary]] = []
    controls: dict[str, np.ndarray] = {}
    tables: list[record.Table] = []
    remarks: list[str] = []
    broken: str | None = None
    for metric in plan.metrics:  # one after another: the arrays of a metric are large
        found = border.measure(metric, outcomes)
        for measure in found.measures:
            with border.asking(metric, f'the measure "{measure.name}"'):  # its function is the metric's
                summaries.append((metric.name, summarise(measure, clusters, seed, plan.spec.resamples)))
        controls |= {f"{metric.name}.{x.name}": x.controls for x in found.measures}  # in the order of the summaries
        tables += [_table(metric, table) for table in found.tables]
        shown += border.shown(metric, "measure", (*found.frames, *found.figures), taken)
        remarks += found.remarks
        broken = broken or found.broken
    judged, family = _judged(stage, [found for _, found in summaries], controls, broken)
    measures = [
        Measure(metric=metric_name, **clean(summary.to_dict() | judged.get(i, {})))
        for i, (metric_name, summary) in enumerate(summaries)
    ]
    return _Scores(measures, family, tables, shown, remarks, broken, controls)


def _judged(
    stage: Stage, summaries: Sequence[MeasureSummary], controls: Mapping[str, np.ndarray], broken: str | None
) -> tuple[dict[int, dict[str, Any]], Family]:
    """What is said of each primary measure, by its place among the summaries, and of their family.

    Args:
        controls: values of every measure under the controls [m], in the order of the summaries.
    """
    from harness.statistics import Circumstances, adjust, conclusion, family_of, verdict

    spec, selection, prepared = stage.plan.spec, stage.selection, stage.prepared
    places = [i for i, summary in enumerate(summaries) if summary.primary]
    primary = [summaries[i] for i in places]
    values = np.array([list(controls.values())[i] for i in places]).reshape(len(places), len(stage.controls.sets))
    treated = [np.nan if x.value is None else x.value for x in primary]
    family = family_of(treated, values, [x.null for x in primary])
    p = [x.test.p_two_sided for x in primary]
    clusters = len({prompt.cluster for prompt in prepared.prompts})
    items = spec.limit or (prepared.steps[0].kept if prepared.steps else clusters)
    around = Circumstances(
        broken=broken,
        blocked=stage.controls.details.get("blocks"),
        selected=f"the selected {noun_for(len(selection.units), selection.word)}",
        items_per_cluster=items / clusters,
        limited=spec.limit is not None,
    )
    judged: dict[int, dict[str, Any]] = {}
    corrections = zip(places, primary, adjust(p, "holm"), adjust(p, "bh"), strict=True)
    for place, (i, summary, holm, bh) in enumerate(corrections):
        said = verdict(summary, family, place, replace(around, margin=spec.margins.get(summary.name)))
        above, below = said.detectable or (None, None)
        judged[i] = {
            "p_adjusted": family.p[place],
            "p_holm": holm,
            "p_bh": bh,
            "verdict": said.word,
            "verdict_sentence": said.sentence,
            "margin": said.margin,
            "detectable": None if said.detectable is None else max(said.detectable),
            "detectable_above": above,
            "detectable_below": below,
            "detectable_limit": None if said.half is None else math.ceil(said.half.clusters * around.items_per_cluster),
            "detectable_controls": None if said.half is None else said.half.controls,
        }
    entropy = next((judged[i]["verdict"] for i in places if summaries[i].name == "entropy_change"), None)
    for i in (i for i in places if summaries[i].specific):
        said_of_it = judged[i]["verdict_sentence"], conclusion(judged[i]["verdict"], entropy)
        judged[i]["verdict_sentence"] = " ".join(filter(None, said_of_it))
    return judged, Family(
        adjusted="Westfall-Young step-down min-p over the primary measures of this run, by their shared controls",
        size=len(primary),
        alpha=family.alpha,
        rows=family.rows,
        smallest=family.smallest,
    )


def frame_of(frame: Frame) -> record.Frame:
    """A table as the record keeps it: with its rows while they are few."""
    rows = [dict(zip(frame.columns, row, strict=True)) for row in zip(*frame.columns.values(), strict=True)]
    return record.Frame(
        name=frame.name, title=frame.title, n=len(rows), rows=clean(rows) if len(rows) <= SHORT else None
    )


def figure_of(figure: Figure) -> record.Figure:
    """A figure as the record names it."""
    return record.Figure(name=figure.name, title=figure.title)


def _table(metric: Metric, table: Table) -> record.Table:
    return record.Table(
        metric=metric.name,
        name=table.name,
        title=table.title,
        categories=list(table.categories),
        treated=clean(table.treated),
        control_mean=clean(table.controls.mean(axis=0)) if len(table.controls) else None,
        tests=record.TableTests(**clean(table.tests.to_dict())) if table.tests else None,
    )
