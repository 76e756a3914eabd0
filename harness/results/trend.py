"""Dose and response: whether a measure rises or falls with a number that runs differ in, more than under random sets.

Of each primary measure the slope is taken over the runs of a sweep, by least squares in the number, of the treated set
and of every control set. Where all runs have the same control sets, each is treated at every dose as the selected one
is, and p = (b + 1) / (m + 1) of the treated slope among the m control slopes tests the trend beyond random sets. A
slope is what a straight line says: a curve that rises and falls has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.results.beside import ControlSet
from harness.results.measures import Measure
from harness.statistics import adjust, permutation_test


@dataclass(frozen=True)
class Trend:
    """The slope of one measure over a sweep, in its unit a unit of the swept number.

    Attributes:
        metric, name, title, unit: of the measure.
        slope: of the treated set. mean, q05, q95: of the control slopes, which are ``n``.
        p_two_sided, p_holm: of the treated slope among them; the latter over the measures of the sweep.
    """

    metric: str
    name: str
    title: str
    unit: str
    slope: float
    n: int
    mean: float
    q05: float
    q95: float
    p_two_sided: float | None
    p_holm: float | None


def slopes(doses: Sequence[float], responses: np.ndarray) -> np.ndarray:
    """Least-squares slopes [...] of responses [n_doses, ...] over the doses; NaN where a response is."""
    x = np.asarray(doses, float) - np.mean(doses)
    found: np.ndarray = np.tensordot(x, np.asarray(responses, float), (0, 0)) / (x @ x)
    return found


def trends(
    doses: Sequence[float],
    measures: Sequence[dict[tuple[str, str], Measure]],
    controls: Sequence[Sequence[ControlSet]],
    shared: Sequence[tuple[str, str]],
) -> list[Trend] | None:
    """The trends of some measures over runs, one run a dose; None where the runs have not the same control sets.

    Args:
        measures: of each run, by metric and name. controls: of each run. shared: the measures that all have.
    """
    sets = [[tuple(row.units) for row in rows] for rows in controls]
    if not sets[0] or any(other != sets[0] for other in sets[1:]):
        return None
    found = []
    for metric, name in shared:
        treated = [run[metric, name].value for run in measures]
        column = f"{metric}.{name}"
        of = np.array([[_number(row.columns.get(column)) for row in rows] for rows in controls])
        if any(value is None for value in treated) or not np.isfinite(of).any():
            continue
        own, others = float(slopes(doses, np.array(treated, float))), slopes(doses, of)
        known = others[np.isfinite(others)]
        if not len(known):
            continue
        low, high = np.quantile(known, [0.05, 0.95])
        first, test = measures[0][metric, name], permutation_test(own, others)
        numbers = own, len(known), float(known.mean()), float(low), float(high), test.p_two_sided
        found.append(Trend(metric, name, first.title, first.unit, *numbers, None))
    return _adjusted(found)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _adjusted(found: Sequence[Trend]) -> list[Trend]:
    adjusted = adjust([trend.p_two_sided for trend in found])
    return [replace(trend, p_holm=p) for trend, p in zip(found, adjusted, strict=True)]
