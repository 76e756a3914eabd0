"""What the first answer token's distribution says (Tighidet et al. 2025): its entropy, and the sources' log-odds."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from harness.plugin import Measurement, Metric, counted

from ..figures import log_odds
from ..task.answer_sources import SOURCES
from .transitions import from_to, measure

if TYPE_CHECKING:
    from harness.plugin import Outcomes, Rows

PAIRS = (("CK", "PK"), ("ND", "CK"), ("ND", "PK"))
"""Sources whose odds are compared, log(P_first / P_last)."""


class EntropyChange(Metric):
    """Change of the entropy of the first answer token: over all prompts, and for each cell of the table."""

    name = "entropy_change"
    needs = frozenset({"source", "entropy"})

    def measure(self, outcomes: Outcomes) -> Measurement:
        before = outcomes.baseline["source"]
        change = outcomes.each(partial(change_of_entropy, outcomes))
        cells = [
            measure(
                f"entropy_change_{first}_{last}",
                f"change of entropy, {first} -> {last}",
                "nats",
                outcomes.each(partial(_change_inside, outcomes, i, j)),
                outcomes.each(partial(from_to, before, i, j)),
                description="mean change of the entropy of the first answer token over the prompts of this cell",
            )
            for i, first in enumerate(SOURCES)
            for j, last in enumerate(SOURCES)
        ]
        total = measure(
            "entropy_change",
            "change of entropy",
            "nats",
            change,
            np.broadcast_to(True, change.shape),
            primary=True,
            description="mean change of the entropy of the first answer token",
        )
        return Measurement((total, *cells))


class LogOdds(Metric):
    """Log-odds between the sources' first tokens, log(P_CK/P_PK), log(P_ND/P_CK), log(P_ND/P_PK), and their shifts."""

    name = "log_odds"
    needs = frozenset({"log_p_ck", "log_p_pk", "log_p_nd", "field first_tokens"})

    def measure(self, outcomes: Outcomes) -> Measurement:
        tokens = np.array([prompt.fields["first_tokens"] for prompt in outcomes.prompts])
        distinct = (tokens[:, 0] != tokens[:, 1])[None]
        everywhere = np.broadcast_to(distinct, (len(outcomes.conditions), len(tokens)))
        measures = []
        for first, last in PAIRS:
            of = f"log(P_{first}/P_{last}) of the first answer token"
            measures += [
                measure(
                    f"log_odds_shift_{first}_{last}",
                    f"shift of log(P_{first}/P_{last})",
                    "nats",
                    outcomes.each(partial(_shift, outcomes, first, last, distinct)),
                    everywhere,
                    primary=(first, last) == ("CK", "PK"),
                    description=f"mean change of {of}",
                ),
                measure(
                    f"log_odds_{first}_{last}",
                    f"log(P_{first}/P_{last})",
                    "nats",
                    outcomes.each(partial(_odds, first, last, distinct)),
                    everywhere,
                    description=f"mean {of}",
                ),
            ]
        alike = int((~distinct).sum())
        remarks = (
            (
                f"log-odds leave out {counted(alike, 'prompt')} whose counter and parametric object begin with "
                "the same token",
            )
            if alike
            else ()
        )
        drawn = (
            {f"log(P_{first}/P_{last})": log_odds_of(seen, first, last)[distinct[0]] for first, last in PAIRS}
            for seen in (outcomes.baseline, outcomes.treated)
        )
        figures = (log_odds(*drawn),) if distinct.any() else ()
        return Measurement(tuple(measures), figures=figures, remarks=remarks)


def change_of_entropy(outcomes: Outcomes, seen: Rows) -> np.ndarray:
    """Of each prompt [n_conditions, n_prompts]."""
    found: np.ndarray = seen["entropy"] - outcomes.baseline["entropy"]
    return found


def _change_inside(outcomes: Outcomes, first: int, last: int, seen: Rows) -> np.ndarray:
    """The same of the prompts of one cell, 0 elsewhere."""
    inside = from_to(outcomes.baseline["source"], first, last, seen)
    return np.where(inside, change_of_entropy(outcomes, seen), 0.0)


def _odds(first: str, last: str, distinct: np.ndarray, seen: Rows) -> np.ndarray:
    return np.where(distinct, log_odds_of(seen, first, last), 0.0)


def _shift(outcomes: Outcomes, first: str, last: str, distinct: np.ndarray, seen: Rows) -> np.ndarray:
    return np.where(distinct, log_odds_of(seen, first, last) - log_odds_of(outcomes.baseline, first, last), 0.0)


def log_odds_of(seen: Rows, first: str, last: str) -> np.ndarray:
    """log(P_first / P_last) of the first answer token [..., n_prompts]."""
    odds: np.ndarray = seen[f"log_p_{first.lower()}"] - seen[f"log_p_{last.lower()}"]
    return odds
