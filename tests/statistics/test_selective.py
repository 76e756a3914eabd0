"""Many runs on one board: what is found among them, and how often it is not there."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.statistics import ALPHA, adjust, controls_needed, generator, permutation_test, selective_findings

FAMILIES = st.lists(
    st.lists(st.one_of(st.none(), st.sampled_from([1 / 1000, 1 / 200, 0.0125, 0.05, 0.2, 1.0])), max_size=5), max_size=8
)


def test_a_board_by_hand() -> None:
    families = [[0.012, 0.3, None], [0.02, 0.026], [0.9], [None], [], [0.04]]
    found = selective_findings(families, ALPHA)
    # Of four runs the smallest are .012, .02, .04 and .9; the second reaches .05 * 2 / 4, the third not .05 * 3 / 4.
    assert (found.n, found.selected, found.level) == (4, 2, 0.025)
    assert found.runs == (True, True, False, None, None, False)
    assert found.findings == ((True, False, None), (True, False), (False,), (None,), (), (False,))


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7, 20, 49, 50, 60, 99])
def test_p_that_equals_its_level_counts(n: int) -> None:
    """1 / (m + 1) and alpha / n are the same number where (m + 1) alpha = n, however they are rounded."""
    smallest = 1 / (20 * n)
    assert selective_findings([[smallest], *[[1.0]] * (n - 1)], ALPHA).selected == 1
    assert selective_findings([[smallest * (1 + 1e-6)], *[[1.0]] * (n - 1)], ALPHA).selected == 0
    assert controls_needed(n, ALPHA) == 20 * n - 1
    assert selective_findings([[0.05]] * n, ALPHA).selected == n


def test_a_board_of_one_run_is_the_run_itself() -> None:
    assert selective_findings([[0.05, 0.051, 0.01, None]], ALPHA).findings == ((True, False, True, None),)


def test_nothing_tested_is_nothing_found() -> None:
    assert selective_findings([], ALPHA).n == selective_findings([[], [None]], ALPHA).n == 0
    assert selective_findings([[None]], ALPHA).runs == (None,)


@given(FAMILIES, st.randoms(use_true_random=False))
def test_the_order_of_runs_does_not_matter(families: list[list[float | None]], random: object) -> None:
    order = list(range(len(families)))
    random.shuffle(order)  # type: ignore[attr-defined]
    found, again = selective_findings(families), selective_findings([families[i] for i in order])
    assert again.findings == tuple(found.findings[i] for i in order)
    assert (again.n, again.level) == (found.n, found.level)


@given(FAMILIES, st.data())
def test_a_smaller_p_loses_no_finding(families: list[list[float | None]], data: st.DataObject) -> None:
    places = [(i, j) for i, family in enumerate(families) for j, p in enumerate(family) if p is not None]
    if not places:
        return
    i, j = data.draw(st.sampled_from(places))
    before = selective_findings(families)
    smaller = [[p / 10 if p is not None and (a, b) == (i, j) else p for b, p in enumerate(family)]
               for a, family in enumerate(families)]  # fmt: skip
    after = selective_findings(smaller)
    assert all(
        not x or y for xs, ys in zip(before.findings, after.findings, strict=True) for x, y in zip(xs, ys, strict=True)
    )


@given(FAMILIES)
def test_every_selected_run_has_a_finding_and_no_other_has(families: list[list[float | None]]) -> None:
    found = selective_findings(families)
    for run, measures, family in zip(found.runs, found.findings, families, strict=True):
        assert bool(run) == any(measures)
        assert [x is None for x in measures] == [p is None for p in family]


# -- how often it errs -------------------------------------------------------------------------------------------------

RUNS, MEASURES, CONTROLS, BOARDS = 20, 6, 399, 150


def board(rng: np.random.Generator, moved: int, shift: float, shared: float) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided p [RUNS, MEASURES] of a board, and p adjusted within each run by the largest distance of a set.

    The measures of a run are correlated by .5; ``shared``: how much of the values, control by control, is the same in
    all runs (one model and the same sets under several interventions). Two measures of the first ``moved`` runs have
    an effect of ``shift`` sd.
    """
    sets = (CONTROLS + 1, MEASURES)
    common, run = rng.standard_normal(sets), rng.standard_normal((RUNS, *sets))
    run = math.sqrt(0.5) * run + math.sqrt(0.5) * run[..., :1]
    values = math.sqrt(shared) * common + math.sqrt(1 - shared) * run
    values[:moved, 0, :2] += shift
    p = np.array([[permutation_test(x[0], x[1:]).p_two_sided for x in one.T] for one in values], float)
    far = np.abs(values - values.mean(axis=1, keepdims=True)) / values.std(axis=1, keepdims=True)
    farthest = far.max(axis=2)  # Westfall and Young 1993, in a single step: the set's own row is one of them
    return p, (farthest[:, :, None] >= far[:, :1]).mean(axis=1)


@pytest.mark.parametrize(("moved", "shared"), [(0, 0.0), (0, 0.5), (5, 0.0), (5, 0.5)])
def test_of_the_runs_with_findings_at_most_one_in_twenty_has_a_false_one(moved: int, shared: float) -> None:
    rng, runs, rows, power, flat = generator(0, "board", str(moved), str(shared)), [], [], [], []
    for _ in range(BOARDS):
        p, adjusted = board(rng, moved, 4.0, shared)
        found = selective_findings(adjusted.tolist(), ALPHA)
        findings = np.array(found.findings, bool)
        true = np.zeros_like(findings)
        true[:moved, :2] = True
        wrong = (findings & ~true).any(axis=1)
        runs.append(wrong.sum() / max(found.selected, 1))
        rows.append((findings & ~true).sum() / max(findings.sum(), 1))
        over_rows = np.array(adjust(p.ravel().tolist(), "bh"), float).reshape(p.shape) <= ALPHA
        power.append(findings[true].mean() if moved else 0.0)
        flat.append(over_rows[true].mean() if moved else 0.0)
    for rates in (runs, rows):
        error = np.std(rates) / math.sqrt(BOARDS) if moved else math.sqrt(ALPHA * (1 - ALPHA) / BOARDS)
        assert np.mean(rates) <= ALPHA + 2 * error
    if moved:
        assert np.mean(power) > np.mean(flat) + 0.2
