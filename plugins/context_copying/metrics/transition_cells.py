"""The transition table cell by cell: proportions, intervals, and where each lies among the controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plugin import Frame, Matrix

from ..task.answer_sources import SOURCES

if TYPE_CHECKING:
    from harness.plugin import Measure

NAME = "transition_cells"

LAYOUT = Matrix(
    name="transitions",
    caption="Knowledge sources before (rows) and after (columns): share of the row in \\% and count; beneath, mean "
    "share under the controls $\\pm$ standard error",
    row="before",
    column="after",
    row_label="From {}",
    column_label="To {}",
    share="share",
    count="count",
    mean="control_mean",
    error="control_se",
)
"""How the table is set in a paper."""


def transition_cells(cells: Mapping[tuple[int, int], Measure], clusters: np.ndarray) -> Frame:
    """A row for each cell of the transition table.

    Args:
        cells: share of what was source i that is source j after, in percent, by (i, j).
        clusters: cluster (fact) of every prompt [n_prompts]; prompts of one may move together.

    Returns:
        Columns: ``count``; ``share`` of the row and ``of_all`` of the table, in percent; ``ci_low``, ``ci_high``: 95%
        interval of the share (:func:`harness.statistics.korn_graubard`), with the ``design_effect`` pooled over all
        conditions; ``control_mean`` and ``control_se`` of the controls' shares (mean +- sd / sqrt(m)),
        ``control_count`` their mean count; ``quantile``: percent of the controls below, ties counted half; ``p``:
        two-sided; ``p_adjusted``: over the cells (:func:`harness.statistics.step_down_min_p`).
    """
    from harness.statistics import step_down_min_p

    treated, controls, null = (
        np.array(column) for column in zip(*((x.treated, x.controls, x.null) for x in cells.values()), strict=True)
    )
    rows = [{"before": SOURCES[i], "after": SOURCES[j], **_row(cell, clusters)} for (i, j), cell in cells.items()]
    for row, p in zip(rows, step_down_min_p(treated, controls, null), strict=True):
        row["p_adjusted"] = p
    title = (
        "each cell of the table: share of its row (%), Korn-Graubard interval over facts, mean and standard error "
        "under the controls"
    )
    return Frame(NAME, title, columns_of(rows))


def _row(cell: Measure, clusters: np.ndarray) -> dict[str, Any]:
    from harness.statistics import CONTROLS, TREATED, control_summary, design_effect, korn_graubard, permutation_test

    counts, n = cell.tally.events, int(cell.tally.trials[TREATED])
    count, deff = int(counts[TREATED]), design_effect(cell, clusters)
    interval = korn_graubard(count, n, deff, len(np.unique(clusters[cell.counting])))
    controls, test = control_summary(cell.controls), permutation_test(cell.treated, cell.controls, cell.null)
    return {
        "count": count,
        "share": 100 * count / n if n else None,
        "ci_low": 100 * interval[0] if interval else None,
        "ci_high": 100 * interval[1] if interval else None,
        "control_mean": controls["mean"],
        "control_se": controls["standard_error"],
        "quantile": test.quantile,
        "p": test.p_two_sided,
        "p_adjusted": None,  # filled in from all cells
        "control_count": float(counts[CONTROLS].mean()) if len(cell.controls) else None,
        "of_all": 100 * count / len(clusters) if len(clusters) else None,
        "design_effect": deff if n else None,
    }


def columns_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows of a table as columns."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
