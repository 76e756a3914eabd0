"""The transition table cell by cell: proportions, intervals, and where each lies among the controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.outcomes import Frame

from .matching import SOURCES


def transition_cells(tables: np.ndarray) -> Frame:
    """A row for each cell of the transition table.

    Args:
        tables: counts [conditions, 3, 3], before by after; row 0 is the baseline (not used), row 1 the treated one, the
            others are controls.

    Returns:
        Columns: ``count``; ``share`` of the row and ``of_all`` of the table, in percent; ``ci_low``, ``ci_high``:
        Wilson's 95% interval of the share, which takes prompts for independent; ``control_mean`` and ``control_se`` of
        the controls' shares (mean +- sd / sqrt(m)), ``control_count`` their mean count; ``quantile``: percent of the
        controls below, ties counted half; ``p``: two-sided.
    """
    from harness.statistics import binomial_interval, control_summary, permutation_test
    from harness.statistics.measure import ratio

    counts, shares = tables[1:], ratio(tables[1:], tables[1:].sum(axis=2, keepdims=True), 100.0)
    total = int(counts[0].sum())
    rows = []
    for i, before in enumerate(SOURCES):
        for j, after in enumerate(SOURCES):
            count, n = int(counts[0, i, j]), int(counts[0, i].sum())
            interval = binomial_interval(count, n)
            controls, test = control_summary(shares[1:, i, j]), permutation_test(shares[0, i, j], shares[1:, i, j])
            rows.append(
                {
                    "before": before,
                    "after": after,
                    "count": count,
                    "share": 100 * count / n if n else None,
                    "ci_low": 100 * interval[0] if interval else None,
                    "ci_high": 100 * interval[1] if interval else None,
                    "control_mean": controls["mean"],
                    "control_se": controls["standard_error"],
                    "quantile": test.quantile,
                    "p": test.p_two_sided,
                    "control_count": float(counts[1:, i, j].mean()) if len(counts) > 1 else None,
                    "of_all": 100 * count / total if total else None,
                }
            )
    return Frame(
        "transition_cells",
        "each cell of the table: share of its row (%), Wilson's interval, mean and standard error under the controls",
        columns_of(rows),
    )


def columns_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows of a table as columns."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
