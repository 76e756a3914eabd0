"""Tables of transitions: categories before (rows) and after (columns)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.errors import HarnessError
from harness.files.wording import only
from harness.statistics.margins import MarginTest, margin_test
from harness.statistics.measure import finite, ratio
from harness.statistics.permutation import adjust
from harness.statistics.stepdown import ALPHA


def transition_table(before: np.ndarray, after: np.ndarray, categories: Sequence[Any]) -> np.ndarray:
    """Counts [k, k] of the category pairs of n prompts: rows before, columns after.

    Raises:
        HarnessError: an entry of ``before`` or ``after`` [n] is none of the ``categories``.
    """
    k, (first, last) = len(categories), (_places(x, categories) for x in (before, after))
    return np.bincount(first * k + last, minlength=k**2).reshape(k, k)


def _places(values: np.ndarray, categories: Sequence[Any]) -> np.ndarray:
    """Place among the categories of every value [n]."""
    if isinstance(categories, range) and categories == range(len(categories)) and np.isin(values, categories).all():
        return np.asarray(values, np.int64)
    names = np.array(list(categories))
    matches = np.asarray(values)[:, None] == names
    for odd in np.asarray(values)[~matches.any(axis=1)]:
        raise HarnessError(f"transition table: {odd} is none of the categories {', '.join(map(str, names))}.")
    found: np.ndarray = matches.argmax(axis=1)
    return found


def conversion_ratios(table: np.ndarray, categories: Sequence[str]) -> dict[str, float | None]:
    """Conversion ratio of each category and the global transition score of a table [k, k], in percent.

    Of a category X, ``XCR`` = everything that became X / everything that was not X (Tighidet et al. 2025);
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
    """Did anything shift? (Not: more than under controls.)

    ``margins`` keeps the prompts of a fact together. The others are shown because they are known, and take prompts for
    independent: where those of a fact move together, they find too much. ``mcnemar`` is in the order of the table's
    categories.
    """

    n: int
    n_changed: int
    margins: MarginTest
    stuart_maxwell: ChiSquare
    bowker: ChiSquare
    mcnemar: tuple[McNemar, ...]
    note: str | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def table_tests(
    before: np.ndarray, after: np.ndarray, categories: Sequence[Any], clusters: np.ndarray, seed: int = 0
) -> TableTests:
    """Paired tests of a transition table: of its margins by clusters (:func:`margin_test`), and the classical ones.

    Stuart-Maxwell: equal margins before and after. Bowker: symmetry, n_ij = n_ji in expectation, over the pairs of
    categories that exchange something. Exact McNemar: for each category, as many prompts move in as out. The chi-square
    p are None when fewer than two categories occur.

    Args:
        before, after: of every prompt, one of the ``categories`` [n].
        clusters: cluster number of every prompt [n]; prompts of one cluster (fact) may move together.
        seed: of the flips of clusters, where they are drawn.

    Raises:
        HarnessError: an entry of ``before`` or ``after`` is none of the ``categories``.
    """
    first, last = (_places(x, categories) for x in (before, after))
    table = transition_table(first, last, range(len(categories)))
    margins = margin_test(first, last, clusters, len(categories), seed)
    changed = int((first != last).sum())
    return TableTests(
        len(first), changed, margins, stuart_maxwell(table), _bowker(table), moves(table), _note(margins, changed)
    )


def _note(margins: MarginTest, changed: int) -> str | None:
    """What the number of clusters that moved cannot show."""
    if changed and margins.smallest is None:
        return "no independent item moved on balance: there is nothing to test"
    if margins.smallest is not None and margins.smallest > ALPHA:
        return f"{only(margins.moved, 'independent item')} moved: no p by flips can be below {margins.smallest:.2g}"
    return None


def _chi_square(statistic: float, df: int, table: np.ndarray) -> ChiSquare:
    from scipy.stats import chi2

    if (table.sum(axis=0) + table.sum(axis=1) > 0).sum() < 2:
        return ChiSquare(0.0, 0, None)
    return ChiSquare(statistic, df, float(chi2.sf(statistic, df)) if df else 1.0)


def _bowker(table: np.ndarray) -> ChiSquare:
    """A pair that exchanges nothing has no term in the statistic, so it has no degree of freedom either."""
    there, back = table[np.triu_indices(len(table), 1)], table.T[np.triu_indices(len(table), 1)]
    exchanging = there + back > 0
    there, back = there[exchanging], back[exchanging]
    return _chi_square(float(((there - back) ** 2 / (there + back)).sum()), len(there), table)


def stuart_maxwell(table: np.ndarray) -> ChiSquare:
    """Are the margins of a table of counts [k, k] equal? Prompts are taken for independent.

    The covariance of the margins is singular where groups of categories exchange nothing: sum over such groups.
    """
    from scipy.sparse.csgraph import connected_components
    from statsmodels.stats.contingency_tables import SquareTable

    off = table - np.diag(np.diag(table))
    groups, group_of = connected_components(off, directed=False)
    blocks = [b for b in (np.flatnonzero(group_of == g) for g in range(groups)) if len(b) > 1]
    parts = [SquareTable(off[np.ix_(b, b)], shift_zeros=False).homogeneity() for b in blocks]
    return _chi_square(float(sum(x.statistic for x in parts)), int(sum(x.df for x in parts)), table)


def moves(table: np.ndarray) -> tuple[McNemar, ...]:
    """Prompts that moved into each category and out of it, of a table of counts [k, k], with exact McNemar tests."""
    from scipy.stats import binomtest

    off = table - np.diag(np.diag(table))
    moves = list(zip(off.sum(axis=0).tolist(), off.sum(axis=1).tolist(), strict=True))
    exact = [float(binomtest(into, into + out).pvalue) if into + out else 1.0 for into, out in moves]
    return tuple(McNemar(*move, p, holm) for move, p, holm in zip(moves, exact, adjust(exact), strict=True))
