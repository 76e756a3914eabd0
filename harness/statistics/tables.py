"""Tables of transitions: categories before (rows) and after (columns)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.errors import HarnessError
from harness.statistics.measure import finite, ratio
from harness.statistics.permutation import adjust
from harness.wording import only

MIN_CHANGED = 10
"""Fewer changed prompts than this cannot carry a verdict, nor a chi-square approximation."""


def transition_table(before: np.ndarray, after: np.ndarray, categories: Sequence[Any]) -> np.ndarray:
    """Counts [k, k] of the category pairs of n prompts: rows before, columns after.

    Raises:
        HarnessError: an entry of ``before`` or ``after`` [n] is none of the ``categories``.
    """
    names = np.array(list(categories))
    codes = []
    for array in (np.asarray(before), np.asarray(after)):
        matches = array[:, None] == names
        for odd in array[~matches.any(axis=1)]:
            raise HarnessError(f"transition table: {odd} is none of the categories {', '.join(map(str, names))}.")
        codes.append(matches.argmax(axis=1))
    return np.bincount(codes[0] * len(names) + codes[1], minlength=len(names) ** 2).reshape(len(names), len(names))


def conversion_ratios(table: np.ndarray, categories: Sequence[str] = ("CK", "PK", "ND")) -> dict[str, float | None]:
    """Conversion ratio of each category and the global transition score of a table [k, k], in percent.

    ``CKCR`` = everything that became CK / everything that was not CK (Tighidet et al. 2025), PKCR and NDCR likewise;
    ``GTS`` = 100 (1 - trace / total). None where nothing could convert.
    """
    table = np.asarray(table, dtype=np.float64)
    stayed, total = np.diag(table), table.sum()
    ratios = ratio(table.sum(axis=0) - stayed, total - table.sum(axis=1), 100.0)
    score = ratio(total - stayed.sum(), total, 100.0)
    return {**{f"{c}CR": finite(r) for c, r in zip(categories, ratios, strict=True)}, "GTS": finite(score)}


@dataclass(frozen=True)
class ChiSquare:
    """A chi-square test."""

    statistic: float
    df: int
    p: float | None


@dataclass(frozen=True)
class McNemar:
    """One category against the rest: prompts that moved into it and out of it; exact p, and Holm's over categories."""

    into: int
    out: int
    p: float
    p_holm: float | None


@dataclass(frozen=True)
class TableTests:
    """Did anything shift? (Not: more than under controls.) ``mcnemar`` is in the order of the table's categories."""

    n: int
    n_changed: int
    bowker: ChiSquare
    stuart_maxwell: ChiSquare
    mcnemar: tuple[McNemar, ...]
    note: str | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def table_tests(table: np.ndarray) -> TableTests:
    """Paired tests of a table of counts [k, k].

    Bowker: symmetry, n_ij = n_ji in expectation, over the categories that occur. Stuart-Maxwell: equal margins before
    and after. Exact McNemar: for each category, as many prompts move in as out. The chi-square p are None when fewer
    than two categories occur.
    """
    from scipy.sparse.csgraph import connected_components
    from scipy.stats import binomtest, chi2
    from statsmodels.stats.contingency_tables import SquareTable

    table = np.asarray(table).astype(np.int64)
    off = table - np.diag(np.diag(table))
    changed = int(off.sum())
    occurs = np.flatnonzero(table.sum(axis=0) + table.sum(axis=1))
    if len(occurs) < 2:
        bowker = homogeneity = ChiSquare(0.0, 0, None)
    else:
        symmetry = SquareTable(table[np.ix_(occurs, occurs)], shift_zeros=False).symmetry()
        bowker = ChiSquare(float(symmetry.statistic), int(symmetry.df), float(symmetry.pvalue))
        # The covariance of the margins is singular where groups of categories exchange nothing: sum over such groups.
        groups, group_of = connected_components(off, directed=False)
        blocks = [b for b in (np.flatnonzero(group_of == g) for g in range(groups)) if len(b) > 1]
        parts = [SquareTable(off[np.ix_(b, b)], shift_zeros=False).homogeneity() for b in blocks]
        statistic, df = float(sum(x.statistic for x in parts)), int(sum(x.df for x in parts))
        homogeneity = ChiSquare(statistic, df, float(chi2.sf(statistic, df)) if df else 1.0)
    moves = list(zip(off.sum(axis=0).tolist(), off.sum(axis=1).tolist(), strict=True))
    exact = [float(binomtest(into, into + out).pvalue) if into + out else 1.0 for into, out in moves]
    mcnemar = tuple(McNemar(*move, p, holm) for move, p, holm in zip(moves, exact, adjust(exact), strict=True))
    note = None
    if changed < MIN_CHANGED:
        note = f"{only(changed, 'prompt')} changed: the chi-square approximation is poor, trust the exact McNemar tests"
    return TableTests(int(table.sum()), changed, bowker, homogeneity, mcnemar, note)
