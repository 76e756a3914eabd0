"""Curves over runs that differ in one number: a factor, the number of neurons, the size of the null space."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.files import harmless
from harness.files.store import canonical
from harness.files.wording import counted
from harness.plotting import shapes as drawing
from harness.plugin.records import Figure
from harness.report.formatting import by_key, number, p_value
from harness.results.beside import ControlSet
from harness.results.measures import Measure
from harness.results.record import Components, Identity, RunRecord
from harness.results.trend import trends

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

LINE = 24
"""Letters beside a panel: more do not fit its height."""

SAME = 1e-6
"""Share of the largest value that values may differ by and be the same."""

LEAST = 3
"""Fewer runs than this are no curve."""


@dataclass(frozen=True)
class Sweep:
    """Runs of one model and task that are alike but for one number, ascending in it.

    Attributes:
        parameter: ``intervention.factor``, ``selector.top`` ...
        values: the number in each run.
    """

    parameter: str
    values: tuple[float, ...]
    records: tuple[RunRecord, ...]

    @property
    def run(self) -> str:
        """The run whose matrix this is: its name up to the axes, dot included."""
        return f"{self.records[0].name.partition('.')[0]}."

    @property
    def name(self) -> str:
        """Of files."""
        return f"{self.run[:-1]}-{self.parameter.rpartition('.')[2]}"


def sweeps(records: Sequence[RunRecord]) -> list[Sweep]:
    """The sweeps among some records, each within one matrix or among runs of none, in the order of their first runs."""
    numbers = [_numbers(record.identity.components) for record in records]
    found: dict[tuple[str, str, str], list[int]] = {}
    for i, record in enumerate(records):
        matrix, dot, _ = record.name.partition(".")
        for parameter in numbers[i]:
            key = parameter, _rest(record.identity, parameter), matrix if dot else ""
            found.setdefault(key, []).append(i)
    sweeps = []
    for (parameter, _, _), rows in found.items():
        values = {numbers[i][parameter]: i for i in rows}
        alike = tuple(records[values[x]] for x in sorted(values))
        if len(values) >= LEAST and _shared(alike):
            sweeps.append(Sweep(parameter, tuple(sorted(values)), alike))
    return sweeps


def _numbers(components: Components) -> dict[str, float]:
    """The numeric parameters of selector, intervention and task."""
    return {
        f"{kind}.{key}": float(value)
        for kind, component in (
            ("selector", components.selector),
            ("intervention", components.intervention),
            ("task", components.task),
        )
        for key, value in component.params.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _rest(identity: Identity, parameter: str) -> str:
    """Everything that the runs of a sweep share: the identity without metrics and the parameter."""
    rest = identity.to_dict()
    components = {kind: component for kind, component in rest["components"].items() if kind != "metrics"}
    for kind, component in components.items():
        component["params"] = {k: v for k, v in component["params"].items() if f"{kind}.{k}" != parameter}
    return canonical(rest | {"components": components})


def _shared(records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Metric and name of the primary measures of the first run that all have; metrics may differ within a sweep."""
    found = [by_key(record) for record in records]
    return [key for key, row in found[0].items() if row.primary and all(key in others for others in found)]


def still(sweep: Sweep) -> list[str]:
    """Titles of the primary measures that are the same in every run of a sweep: a curve would be a flat line."""
    first = by_key(sweep.records[0])
    return [first[key].title for key in _still(sweep)]


def _still(sweep: Sweep) -> list[tuple[str, str]]:
    found = [by_key(record) for record in sweep.records]
    return [key for key in _shared(sweep.records) if _is_still([row[key].value for row in found])]


def _is_still(values: Sequence[float | None]) -> bool:
    known = [value for value in values if value is not None]
    reach = max(known) - min(known) if known else 0.0
    return reach <= SAME * max(map(abs, known), default=0.0)


def flat(sweep: Sweep) -> str:
    """What is said instead of a curve, where no primary measure depends on the number; else nothing."""
    if len(_still(sweep)) < len(_shared(sweep.records)):
        return ""
    values = ", ".join(f"{value:g}" for value in sweep.values)
    return (
        f"{sweep.parameter} makes no difference: at {values}, every primary measure is the same in all "
        f"{counted(len(sweep.records), 'run')}, so that no curve is drawn."
    )


def curve(sweep: Sweep) -> Figure:
    """Primary measures against the number: treated with its interval, controls with their 5% to 95% range.

    Those that are the same in every run are named in the title and not drawn.

    Raises:
        ValueError: none depends on the number (:func:`flat` says so).
    """
    found, same = [by_key(record) for record in sweep.records], still(sweep)
    shared = [key for key in _shared(sweep.records) if key not in _still(sweep)]
    if not shared:
        raise ValueError(flat(sweep))
    panels = [[_numbers_of(measures[key]) for measures in found] for key in shared]
    columns: dict[str, list[Any]] = {sweep.parameter: [], "metric": [], "measure": []}
    for (metric, name), rows in zip(shared, panels, strict=True):
        for value, row in zip(sweep.values, rows, strict=True):
            columns[sweep.parameter].append(value)
            columns["metric"].append(metric)
            columns["measure"].append(name)
            for key, found_there in row.items():
                columns.setdefault(key, []).append(found_there)
    titles = _titles([found[0][key] for key in shared])

    def paint(canvas: Canvas) -> None:
        wide = min(2, len(panels))
        grid = canvas.subplots(-(-len(panels) // wide), wide, squeeze=False, sharex=True).ravel()
        for axes, title, rows in zip(grid, titles, panels, strict=False):
            low, mean, high, c_low, c_mean, c_high = (
                np.array([row[key] for row in rows], float)
                for key in ("ci_low", "value", "ci_high", "control_q05", "control_mean", "control_q95")
            )
            axes.fill_between(sweep.values, c_low, c_high, color=drawing.CONTROLS, alpha=0.3, linewidth=0)
            axes.plot(sweep.values, c_mean, color=drawing.CONTROLS, marker="o", markersize=3, label="random controls")
            bars = np.maximum([mean - low, high - mean], 0)
            axes.errorbar(sweep.values, mean, bars, color=drawing.SELECTED, marker="D", label="treated")
            axes.set_ylabel(harmless.figure(title))
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[max(0, len(panels) - wide) : len(panels)]:
            axes.set_xlabel(harmless.figure(sweep.parameter.rpartition(".")[2]))
            axes.xaxis.set_tick_params(labelbottom=True)
        drawing.legend(grid[0])

    title = (
        f"What does {sweep.parameter} change? Primary measures in {counted(len(sweep.records), 'run')}; bars: 95% "
        "intervals, band: 5% to "
        "95% of the random controls."
    )
    if same:
        title += f" The same in every run and not drawn: {', '.join(same)}."
    size = (6.9, 1.0 + 1.7 * -(-len(panels) // 2))
    return Figure(re.sub(r"[^A-Za-z0-9_-]", "_", sweep.name), title, columns, paint, size)


def trend_table(sweep: Sweep, controls: Sequence[Sequence[ControlSet]]) -> list[dict[str, str]]:
    """Slopes of the primary measures, a row each; none where the runs were not compared with the same random sets.

    Args:
        controls: of each run of the sweep.
    """
    measures = [by_key(record) for record in sweep.records]
    found = trends(sweep.values, measures, controls, _shared(sweep.records)) or []
    return [
        {
            "measure": f"{trend.title} ({trend.unit})",
            "slope": number(trend.slope),
            "random": f"{number(trend.mean)} ({number(trend.q05)} to {number(trend.q95)})",
            "p": p_value(trend.p_two_sided),
            "holm": p_value(trend.p_holm),
        }
        for trend in found
    ]


def _numbers_of(measure: Measure) -> dict[str, float | None]:
    controls = measure.controls
    mean, q05, q95 = (None, None, None) if controls is None else (controls.mean, controls.q05, controls.q95)
    return {
        "value": measure.value,
        "ci_low": measure.ci_low,
        "ci_high": measure.ci_high,
        "p_two_sided": measure.p_two_sided,
        "p_adjusted": measure.p_adjusted,
        "p_holm": measure.p_holm,
        "control_mean": mean,
        "control_q05": q05,
        "control_q95": q95,
    }


def _titles(measures: Sequence[Measure]) -> list[str]:
    """What the panels are called; with the metric's name where two metrics have a measure of one title."""
    titles = [measure.title.replace("share of the effect", "share") for measure in measures]
    told = [
        f"{title}, {measure.metric}" if titles.count(title) > 1 else title
        for title, measure in zip(titles, measures, strict=True)
    ]
    lines = [drawing.in_lines(title, LINE) for title in told]
    units = [measure.unit for measure in measures]
    return [f"{title}\n({unit})" if unit != "share" else title for title, unit in zip(lines, units, strict=True)]
