"""What the results are when answers are matched less strictly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plugin import Frame, Measurement, Metric

from ..task.answer_sources import MATCHINGS, SOURCES
from .transition_cells import columns_of

if TYPE_CHECKING:
    from harness.plugin import Outcomes


class Matching(Metric):
    """Sources, global transition score and conversion ratios under exact (the paper's), normalised and alias matching,
    and how many prompts differ from exact matching."""

    name = "matching"
    needs = frozenset({"source", "source_normalised", "source_alias"})

    def measure(self, outcomes: Outcomes) -> Measurement:
        exact = outcomes["source"]
        rows = [matched(name, outcomes[array], exact) for name, array in MATCHINGS.items()]
        title = "answers matched exactly (the paper's rule), normalised, and with other names of the objects"
        return Measurement(frames=(Frame("matching", title, columns_of(rows)),))


def matched(name: str, source: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """One way to match: counts before and after, and the scores in percent; sources [conditions, prompts]."""
    from harness.statistics import conversion_ratios, permutation_test, transition_table

    tables = [transition_table(source[0], after, range(len(SOURCES))) for after in source[1:]]
    scores = [conversion_ratios(table, SOURCES) for table in tables]
    gts = np.array([score["GTS"] for score in scores], dtype=float)
    test = permutation_test(gts[0], gts[1:])
    return {
        "matching": name,
        "GTS": scores[0]["GTS"],
        "quantile": test.quantile,
        "p": test.p_two_sided,
        **{f"{code}CR": scores[0][f"{code}CR"] for code in SOURCES},
        "differ_before": int((source[0] != exact[0]).sum()),
        "differ_after": int((source[1] != exact[1]).sum()),
        **{f"{code}_before": int((source[0] == i).sum()) for i, code in enumerate(SOURCES)},
        **{f"{code}_after": int((source[1] == i).sum()) for i, code in enumerate(SOURCES)},
    }
