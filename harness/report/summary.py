"""A run as a notebook shows it: its question, verdicts, tables before and after, measures, and how sure they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.files import harmless
from harness.report.certainty import COLUMNS, EXPLAINED, certainty
from harness.report.formatting import amount, control, effect, interval, p_value, question, value, verdict
from harness.results.measures import Measure
from harness.results.record import RunRecord, Table


def html(record: RunRecord, path: Path) -> str:
    """A piece of HTML that loads nothing and holds no script.

    Args:
        path: the run's folder, which it names.
    """
    told = certainty(record)
    context = {
        "record": record,
        "path": str(path),
        "question": question(record),
        "verdicts": [(x.title, verdict(record, x), x.verdict_sentence) for x in record.primary],
        "certainty": told.sentences,
        "columns": COLUMNS,
        "explained": EXPLAINED,
        "rows": told.rows,
        "tables": [_table(table) for table in record.tables],
        "measures": [_measure(measure) for measure in record.primary],
    }
    return harmless.html_environment().get_template("summary.html.j2").render(context)


def _table(table: Table) -> dict[str, Any]:
    """A table of counts: of each category before, how many are in which after it, and their mean under the controls."""
    names, means = table.categories, table.control_mean

    def cell(i: int, j: int, count: float) -> str:
        return str(count) if means is None else f"{count} ~ {means[i][j]:.1f}"

    rows = [
        (name, *(cell(i, j, count) for j, count in enumerate(counts)), sum(counts))
        for i, (name, counts) in enumerate(zip(names, table.treated, strict=True))
    ]
    return {"title": table.title, "names": names, "rows": rows, "controls": means is not None}


def _measure(measure: Measure) -> tuple[str, ...]:
    return (
        measure.title,
        amount(measure.baseline, measure.unit),
        value(measure),
        interval(measure),
        control(measure),
        effect(measure),
        p_value(measure.p_two_sided),
        p_value(measure.p_adjusted),
    )
