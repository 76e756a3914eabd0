"""Every metric of lm-eval's tasks and groups: its value before and after, and its change beside the controls."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plugin import Measurement, Metric, Outcomes, Table

if TYPE_CHECKING:
    from harness.plugin import AnyMeasure

WORDS = ("wrong", "right")


@dataclass(frozen=True)
class _Metric:
    """A metric of a task, or of a group.

    Attributes:
        summed: outcomes whose only array, "summed", is what is summed of each document: [C, N], or [C, N, 2]; NaN where
            a document has none.
        weights: of the documents [N].
    """

    name: str
    summed: Outcomes
    weights: np.ndarray
    aggregation: str
    higher_is_better: bool | None
    primary: bool


class LmEvalMetric(Metric):
    """All metrics of the task lm_eval, as lm-eval aggregates them: the value, and its change, paired by document.

    The change of each task's first metric is primary, or that of the group's, where a group was asked for that lm-eval
    averages over. Metrics that are right or wrong of a document get a table of both, before and after, with its tests.
    """

    name = "lm_eval"
    needs = frozenset({"scores of lm-eval"})

    def measure(self, outcomes: Outcomes) -> Measurement:
        measures: list[AnyMeasure] = []
        tables: list[Table] = []
        remarks: list[str] = []
        groups = list(_groups(outcomes, remarks))
        for group in groups:
            measures += _measures(group)
        asked = [
            name for name in outcomes.details["task"]["tasks"] if any(g.name.startswith(f"{name}.") for g in groups)
        ]
        seen = {task for name in asked for task in outcomes.details["groups"][name]["tasks"]}
        for key in (key for key in outcomes.details if key in outcomes.values):
            about = outcomes.details[key]
            primary = about["task"] not in seen
            seen.add(about["task"])
            if about["aggregation"] == "own":
                measures += _aggregated(key, about, primary, outcomes)
                continue
            values = outcomes[key]
            found = _Metric(
                _said(key),
                _summed(outcomes, values),
                np.ones(values.shape[1]),
                about["aggregation"],
                about["higher_is_better"],
                primary,
            )
            measures += _measures(found)
            if primary and _right_or_wrong(values):
                tables.append(_table(found, outcomes.clusters))
        return Measurement(tuple(measures), tuple(tables), remarks=tuple(remarks))


def _summed(outcomes: Outcomes, values: np.ndarray) -> Outcomes:
    """Of the same conditions and prompts, this array alone."""
    return replace(outcomes, values={"summed": values})


def _said(key: str) -> str:
    """ "arc_easy.acc" of "arc_easy.acc,none"; other filters stay."""
    return key.removesuffix(",none")


def _right_or_wrong(values: np.ndarray) -> bool:
    return values.ndim == 2 and bool(np.isin(values[~np.isnan(values)], (0, 1)).all())


def _measures(metric: _Metric) -> Iterator[AnyMeasure]:
    """Change and value of a metric whose aggregation is a function of sums."""
    from harness.plugin import Functional, Measure

    from .scoring import MEANS, SUMS

    name, better, summed = metric.name, metric.higher_is_better, metric.summed
    values, before = summed["summed"], summed.baseline["summed"]
    unit = "share" if _right_or_wrong(values) else ""
    known, known_before = (~np.isnan(x if values.ndim == 2 else x[..., 0]) for x in (values, before))
    if metric.aggregation in MEANS:
        weights = known * metric.weights
        there, moved = (
            np.where(x, y, 0) * weights for x, y in ((known, values), (known & known_before, values - before))
        )
        yield Measure(f"{name} change", f"change of {name}", "", moved, weights, 1.0, better, metric.primary)
        yield _with_null(Measure(name, name, unit, there, weights, 1.0, better))
        return
    value = SUMS[metric.aggregation].value
    pairs = np.where(known[..., None], values if values.ndim == 3 else np.stack([values, known], -1), 0.0)

    def level(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return value(sums[..., 0], sums[..., 1])

    both = np.concatenate([pairs, np.broadcast_to(pairs[list(summed.rows("baseline"))], pairs.shape)], axis=-1)
    change = lambda sums: level(sums[..., :2]) - level(sums[..., 2:])  # noqa: E731
    yield Functional(f"{name} change", f"change of {name}", unit, both, change, better, metric.primary)
    yield _with_null(Functional(name, name, unit, pairs, level, better))


def _with_null(measure: Any) -> Any:
    """The same, and no effect is what the untouched model has."""
    before = measure.baseline
    return replace(measure, null=before if np.isfinite(before) else 0.0)


def _aggregated(key: str, about: Mapping[str, Any], primary: bool, outcomes: Outcomes) -> Iterator[AnyMeasure]:
    """Change and value of a metric that lm-eval, or the task, aggregates by a function of its own."""
    from harness.plugin import Aggregated

    from .scoring import aggregation_of
    from .task import LmEval

    task = LmEval.model_validate(outcomes.details["task"]).loaded().tasks[about["task"]]
    _, function = aggregation_of(task, key.removeprefix(f"{about['task']}.").rpartition(",")[0])
    items = [json.loads(text) for text in outcomes.categories[key]]
    name, rest = _said(key), (outcomes[key], items, function)
    better = about["higher_is_better"]
    yield Aggregated(f"{name} change", f"change of {name}", "", *rest, True, better, primary)
    yield _with_null(Aggregated(name, name, "", *rest, False, better))


def _table(metric: _Metric, clusters: np.ndarray) -> Table:
    """Documents right and wrong, before and after."""
    from harness.statistics import table_tests, transition_table

    before, after, controls = (
        x["summed"] for x in (metric.summed.baseline, metric.summed.treated, metric.summed.controls)
    )
    known = ~np.isnan(before)
    before, after, controls = (x[..., known].astype(int) for x in (before, after, controls))
    treated = transition_table(before, after, (0, 1))
    counts = np.array([transition_table(before, codes, (0, 1)) for codes in controls], dtype=treated.dtype)
    title = f"{metric.name}: documents before (rows) and after (columns)"
    tests = table_tests(before, after, (0, 1), clusters[known])
    return Table(metric.name, title, WORDS, treated, counts.reshape(-1, *treated.shape), tests)


def _groups(outcomes: Outcomes, remarks: list[str]) -> Iterator[_Metric]:
    """What lm-eval averages over its groups; the first metric of those that were asked for by name is primary."""
    asked = outcomes.details["task"]["tasks"]
    for name, group in outcomes.details["groups"].items():
        primary = name in asked
        for one in group["metrics"]:
            own = {task: f"{task}.{one['metric']}," for task in group["tasks"]}
            there = {key.removeprefix(x) for x in own.values() for key in outcomes.values if key.startswith(x)}
            for kind in one["filters"] or sorted(there):
                keys = {task: x + kind for task, x in own.items() if x + kind in outcomes.values}
                said = _said(f"{name}.{one['metric']},{kind}")
                if any(outcomes.details[key]["aggregation"] not in ("mean", "brier_score") for key in keys.values()):
                    remarks.append(f"{said} is not shown: a mean over metrics that are no means themselves.")
                elif keys:
                    values, weights = _over_tasks(keys, one["weight_by_size"], outcomes)
                    better = outcomes.details[next(iter(keys.values()))]["higher_is_better"]
                    yield _Metric(said, _summed(outcomes, values), weights, "mean", better, primary)
                    primary = False


def _over_tasks(keys: Mapping[str, str], weight_by_size: bool, outcomes: Outcomes) -> tuple[np.ndarray, np.ndarray]:
    """One metric of several tasks as one array [C, N], with the documents' weights [N]: all alike, which gives the mean
    over documents, or 1 / (documents of the task), which gives the mean of the tasks' means."""
    task = np.array([prompt.fields["task"] for prompt in outcomes.prompts])
    values, weights = np.full((len(outcomes.conditions), len(task)), np.nan), np.zeros(len(task))
    for name, key in keys.items():
        here = task == name
        values[:, here] = outcomes[key][:, here]
        weights[here] = 1.0 if weight_by_size else 1.0 / here.sum()
    return values, weights
