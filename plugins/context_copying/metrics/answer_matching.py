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
        rows = [matched(name, array, outcomes) for name, array in MATCHINGS.items()]
        title = "answers matched exactly (the paper's rule), normalised, and with other names of the objects"
        return Measurement(frames=(Frame("matching", title, columns_of(rows)),))


def matched(name: str, array: str, outcomes: Outcomes) -> dict[str, Any]:
    """One way to match, whose codes are the outcome ``array``: counts before and after, and the scores in percent."""
    from harness.statistics import conversion_ratios, permutation_test, transition_table

    before, after = outcomes.baseline, outcomes.treated

    def scored(codes: np.ndarray) -> dict[str, Any]:
        return conversion_ratios(transition_table(before[array], codes, range(len(SOURCES))), SOURCES)

    scores = scored(after[array])
    controls = np.array([scored(codes)["GTS"] for codes in outcomes.controls[array]], dtype=float)
    test = permutation_test(float(np.array(scores["GTS"], dtype=float)), controls)
    return {
        "matching": name,
        "GTS": scores["GTS"],
        "quantile": test.quantile,
        "p": test.p_two_sided,
        **{f"{code}CR": scores[f"{code}CR"] for code in SOURCES},
        "differ_before": int((before[array] != before["source"]).sum()),
        "differ_after": int((after[array] != after["source"]).sum()),
        **{f"{code}_before": int((before[array] == i).sum()) for i, code in enumerate(SOURCES)},
        **{f"{code}_after": int((after[array] == i).sum()) for i, code in enumerate(SOURCES)},
    }
