"""Several measures of one run: p-values adjusted by the control sets that all of them share."""

from __future__ import annotations

import numpy as np

from harness.statistics.permutation import alike

ALPHA = 0.05
"""The level of every verdict: what would be found where there is nothing, in one run of twenty at most."""


def step_down_min_p(treated: np.ndarray, controls: np.ndarray, null: np.ndarray | None = None) -> list[float | None]:
    """Adjusted p of each of k measures, one error in the whole family (Westfall & Young 1993, algorithm 2.8).

    The treated set and the m controls are M = m + 1 rows that are exchangeable if the treated set is as any other.
    Each row i has a two-sided permutation p_ij within each measure j. Going from the treated row's most extreme measure
    to its least extreme one, the adjusted p is the share of rows whose most extreme of the measures that are left is at
    least as extreme; it never falls on the way. The measures' dependence is that of the rows, so nothing is lost where
    they say nearly the same, and a measure that cannot move takes nothing from the others: its p is 1 in every row.

    Equal p are put in order by the distance from the measure's mean over all rows in standard deviations: both are the
    same functions of every row, so the test stays exact, and its smallest adjusted p is 1 / M. (It may lie below the
    single two-sided p, whose smallest is 2 / M, because that one does not look at distances.)

    A row without a value of a measure is never extreme there, the treated one as any other. Where only some rows have
    one, the adjusted p is at least the share among these that are as extreme: that the treated set has a value, as few
    others do, says nothing of how extreme it is.

    Args:
        treated: [k]; not finite where a measure has no value. controls: [k, m]; NaN where a set has none.
        null: [k] value of no effect; values within rounding of it are taken for it. Default: 0.

    Returns:
        k numbers; None for a measure without a treated value, and for all without controls.
    """
    treated, controls = np.asarray(treated, np.float64), np.asarray(controls, np.float64)
    adjusted: list[float | None] = [None] * len(treated)
    if controls.shape[1] == 0:
        return adjusted
    rows = np.column_stack([treated, controls])
    order = _order(rows, np.zeros(len(rows)) if null is None else np.asarray(null, np.float64))
    largest = 0.0
    left = np.argsort(order[:, 0], kind="stable")
    for place, j in enumerate(left):
        most_extreme = order[left[place:]].min(axis=0)
        largest = max(largest, float((most_extreme <= order[j, 0]).mean()))
        if np.isfinite(treated[j]):
            adjusted[j] = max(largest, float((order[j, ~np.isnan(rows[j])] <= order[j, 0]).mean()))
    return adjusted


def critical_rank(controls: np.ndarray, alpha: float = ALPHA, null: np.ndarray | None = None) -> int:
    """How far into the controls a treated value may lie and still be found: it must lie beyond all but ``rank - 1``.

    That is what :func:`step_down_min_p` asks of its first measure, told from the control sets alone, for either side.
    Where it is 1, that may not be enough: two rows of every measure lie beyond its others, and the distance from the
    mean decides among these.

    Args:
        controls: [k, m] values of the k measures. null: as of :func:`step_down_min_p`.

    Returns:
        0 where no value could be found, because 1 / (m + 1) > alpha.
    """
    controls = np.asarray(controls, np.float64)
    rows = controls.shape[1] + 1
    others = int(alpha * rows + 1e-9) - 1  # rows beside the treated one that may be as extreme
    if others < 0 or len(controls) == 0 or rows == 1:
        return 0
    p, _ = _extremity(controls, np.zeros(len(controls)) if null is None else np.asarray(null, np.float64))
    smallest = np.sort(p.min(axis=0))
    found: int = max(1, round(float(smallest[min(others, rows - 2)]) * rows / 2) - 1)  # more extreme than that row
    return found


def _order(rows: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Place of every entry [k, M] among all, the most extreme first; equal ones share a place."""
    p, distance = _extremity(rows, null)
    p, distance = p.ravel(), distance.ravel()
    sequence = np.lexsort((-distance, p))  # np.unique of pairs would do it, and takes five times as long
    p, distance = p[sequence], distance[sequence]
    places = np.empty(len(sequence), int)
    places[sequence] = np.cumsum(np.append(False, (p[1:] != p[:-1]) | (distance[1:] != distance[:-1])))
    return places.reshape(rows.shape)


def _extremity(rows: np.ndarray, null: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided p of every entry within its measure, and its distance from the mean in standard deviations [k, M]."""
    p, distance = np.ones(rows.shape), np.zeros(rows.shape)
    for j, found in enumerate(rows):
        known = ~np.isnan(found)
        values = alike(found[known], null[j])
        finite = found[np.isfinite(found)]
        if len(finite) == 0 or values.min() == values.max():
            continue
        ranked = np.sort(values)
        greater = len(values) - np.searchsorted(ranked, values, "left")
        less = np.searchsorted(ranked, values, "right")
        p[j, known] = np.minimum(1.0, 2 * np.minimum(greater, less) / len(values))
        sd = finite.std()
        # Rounded, so that what is a tie in exact arithmetic is one here.
        distance[j, known] = np.round(np.abs(found[known] - finite.mean()) / sd, 6) if sd else 0.0
    return p, distance
