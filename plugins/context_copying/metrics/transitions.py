"""Transitions between sources and conversion ratios (Tighidet et al. 2025).

Every measure is a ratio of sums over prompts, so that its controls, intervals and p-values come from one place
(:mod:`harness.statistics`). "Before" is the baseline, "after" each condition in turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from harness.plugin import Matrix, Measurement, Metric, Table

from ..figures import conversion_bars, source_counts, transition_scores
from ..task.answer_sources import SOURCES
from .transition_cells import LAYOUT, NAME, transition_cells

if TYPE_CHECKING:
    from harness.plugin import Each, Measure, Outcomes, Rows

NAMES = {"CK": "context", "PK": "memory", "ND": "neither"}


def measure(
    name: str, title: str, unit: str, numerator: Each, denominator: Each | np.ndarray, **rest: object
) -> Measure:
    from harness.plugin import Measure

    if isinstance(denominator, np.ndarray):
        denominator = np.broadcast_to(denominator, numerator.shape)
    return Measure(
        name=name,
        title=title,
        unit=unit,
        numerator=numerator,
        denominator=denominator,
        scale=100.0 if unit == "%" else 1.0,
        **rest,  # type: ignore[arg-type]
    )


def from_to(before: np.ndarray, first: int, last: int, seen: Rows) -> np.ndarray:
    """Which prompts have the source ``first`` before [n_prompts] and ``last`` after: bool [n_conditions, n_prompts]."""
    found: np.ndarray = (before == first) & (seen["source"] == last)
    return found


def _became(before: np.ndarray, code: int, seen: Rows) -> np.ndarray:
    found: np.ndarray = (before != code) & (seen["source"] == code)
    return found


def _agrees(fields: Mapping[str, Any]) -> bool:
    return bool(fields["counter_object"].lower() == fields["parametric_object"].lower())


class Transitions(Metric):
    """The 3 x 3 table of sources before and after, its row shares, and paired tests of it."""

    name = "transitions"
    needs = frozenset({"source"})
    layouts: ClassVar[dict[str, Matrix]] = {NAME: LAYOUT}
    collapse: float = Field(0.9, gt=0, le=1, description="share of ND from which the treated model counts as broken")

    def measure(self, outcomes: Outcomes) -> Measurement:
        from harness.statistics import table_tests, transition_table

        codes, everywhere = range(len(SOURCES)), np.broadcast_to(True, outcomes["source"].shape)
        before, after = outcomes.baseline["source"], outcomes.treated["source"]
        table = transition_table(before, after, codes)
        controls = np.array(
            [transition_table(before, x, codes) for x in outcomes.controls["source"]], dtype=table.dtype
        )
        controls = controls.reshape(-1, *table.shape)  # also where there are none
        cells = {
            (i, j): measure(
                f"{SOURCES[i]}_to_{SOURCES[j]}",
                f"{SOURCES[i]} -> {SOURCES[j]}, share of what was {SOURCES[i]}",
                "%",
                outcomes.each(partial(from_to, before, i, j)),
                before == i,
                null=100.0 if i == j else 0.0,
                description=f"of the prompts answered from {NAMES[SOURCES[i]]}, "
                f"how many are answered from {NAMES[SOURCES[j]]} after the intervention",
            )
            for i in codes
            for j in codes
        }
        measures = [cell for (i, j), cell in cells.items() if i != j]
        measures.append(
            measure(
                "invariant",
                "invariant share",
                "%",
                outcomes.each(lambda seen: before == seen["source"]),
                everywhere,
                description="prompts whose knowledge source stays what it was",
            )
        )
        undefined = [float((x == SOURCES.index("ND")).mean()) for x in (before, after)]
        broken = None
        if undefined[0] < self.collapse <= undefined[1]:
            broken = (
                f"{undefined[1]:.0%} of the treated answers come from neither context nor memory "
                f"({undefined[0]:.0%} before): the model no longer does the task"
            )
        shown = Table(
            name="transitions",
            title="knowledge source before (rows) and after (columns)",
            categories=SOURCES,
            treated=table,
            controls=controls,
            tests=table_tests(before, after, codes, outcomes.clusters),
        )
        agree = all("counter_object" in x.fields and _agrees(x.fields) for x in outcomes.prompts)
        remarks = ("every context agrees with memory: answers count as PK or ND, and CK cannot occur",) if agree else ()
        frames = (transition_cells(cells, outcomes.clusters),)
        return Measurement(tuple(measures), (shown,), frames, (source_counts(table, controls),), remarks, broken)


class ConversionRatios(Metric):
    """Conversion ratios CKCR, PKCR, NDCR and the global transition score, in percent."""

    name = "conversion_ratios"
    needs = frozenset({"source"})

    def measure(self, outcomes: Outcomes) -> Measurement:
        before = outcomes.baseline["source"]
        measures = [
            measure(
                f"{kind}CR",
                f"{kind} conversion ratio",
                "%",
                outcomes.each(partial(_became, before, code)),
                before != code,
                primary=True,
                description=f"of the prompts not answered from {NAMES[kind]} before, how many are after",
            )
            for code, kind in enumerate(SOURCES)
        ]
        score = measure(
            "GTS",
            "global transition score",
            "%",
            outcomes.each(lambda seen: before != seen["source"]),
            np.broadcast_to(True, outcomes["source"].shape),
            primary=True,
            description="prompts whose knowledge source changed",
        )
        histogram = (transition_scores(score),) if len(score.controls) else ()  # there is none without controls
        return Measurement((*measures, score), figures=(conversion_bars(measures), *histogram))
