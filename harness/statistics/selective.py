"""Many runs on one board: which of them show anything, and which of their measures do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.statistics.stepdown import ALPHA

ROUNDING = 1e-12
"""Relative: p-values and levels are ratios of small numbers, and p == level counts."""


@dataclass(frozen=True)
class Selective:
    """What stands of several runs.

    Attributes:
        n: runs that tested something.
        runs: for each run whether it is selected; None where it tested nothing.
        findings: for each run and measure whether it is a finding; None where it has no p.
        level: alpha * selected / n, what a measure of a selected run is compared with; 0 where none is selected.
    """

    n: int
    runs: tuple[bool | None, ...]
    findings: tuple[tuple[bool | None, ...], ...]
    level: float

    @property
    def selected(self) -> int:
        """How many runs are selected; each has one finding or more."""
        return sum(map(bool, self.runs))


def selective_findings(families: Sequence[Sequence[float | None]], alpha: float = ALPHA) -> Selective:
    """Findings among runs of several measures each (Benjamini & Bogomolov 2014, J. R. Stat. Soc. B 76, 297-318).

    A run shows something where Benjamini and Hochberg's procedure at ``alpha`` over the smallest p of every run selects
    it; of its measures those are findings whose p <= alpha * selected / n. The expected share, among the selected runs,
    of those with a false finding is at most ``alpha``, for runs that are independent; how far it holds for runs that
    share model, prompts and control sets is simulated in the tests.

    Args:
        families: for each run the p-values of its measures, adjusted within the run so that its familywise error is
            controlled at every level (the smallest is then a p-value of "nothing in this run"). None passes through; a
            run that has no other tests nothing and is not among the ``n``.
    """
    smallest = [min((p for p in family if p is not None), default=None) for family in families]
    known = np.sort([p for p in smallest if p is not None])
    n = len(known)
    places = np.arange(1, n + 1)
    below = places[[_reaches(p, alpha * place / n) for p, place in zip(known, places, strict=True)]] if n else places
    level = alpha * float(below.max(initial=0)) / n if n else 0.0
    return Selective(
        n=n,
        runs=tuple(None if p is None else _reaches(p, level) for p in smallest),
        findings=tuple(tuple(None if p is None else _reaches(p, level) for p in family) for family in families),
        level=level,
    )


def controls_needed(n: int, alpha: float = ALPHA) -> int:
    """The fewest control sets m with which a run can be selected among ``n`` runs though no other one is.

    The smallest p of m control sets is 1 / (m + 1).
    """
    m = max(1, int(n / alpha) - 2)
    while not _reaches(1 / (m + 1), alpha / n):
        m += 1
    return m


def _reaches(p: float, level: float) -> bool:
    return bool(p <= level * (1 + ROUNDING))
