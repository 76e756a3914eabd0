"""What the first answer token's distribution says (Tighidet et al. 2025): its entropy, and the sources' log-odds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.plugin import Measurement, Metric, counted

from ..figures import log_odds
from ..task.answer_sources import SOURCES
from .transitions import measure

if TYPE_CHECKING:
    from harness.plugin import Outcomes

PAIRS = (("CK", "PK"), ("ND", "CK"), ("ND", "PK"))
"""Sources whose odds are compared, log(P_first / P_last)."""


class EntropyChange(Metric):
    """Change of the entropy of the first answer token: over all prompts, and for each cell of the table."""

    name = "entropy_change"
    needs = frozenset({"source", "entropy"})

    def measure(self, outcomes: Outcomes) -> Measurement:
        source, entropy = outcomes["source"], outcomes["entropy"]
        change = entropy - entropy[:1]
        cells = [
            measure(
                f"entropy_change_{first}_{last}",
                f"change of entropy, {first} -> {last}",
                "nats",
                np.where(inside := (source[:1] == i) & (source == j), change, 0.0),
                inside,
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
            np.ones(change.shape, bool),
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
        measures = []
        for first, last in PAIRS:
            odds = outcomes[f"log_p_{first.lower()}"] - outcomes[f"log_p_{last.lower()}"]
            everywhere = np.broadcast_to(distinct, odds.shape)
            of = f"log(P_{first}/P_{last}) of the first answer token"
            measures += [
                measure(
                    f"log_odds_shift_{first}_{last}",
                    f"shift of log(P_{first}/P_{last})",
                    "nats",
                    np.where(everywhere, odds - odds[:1], 0.0),
                    everywhere,
                    primary=(first, last) == ("CK", "PK"),
                    description=f"mean change of {of}",
                ),
                measure(
                    f"log_odds_{first}_{last}",
                    f"log(P_{first}/P_{last})",
                    "nats",
                    np.where(everywhere, odds, 0.0),
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
        before, after = (
            {
                f"log(P_{first}/P_{last})": (outcomes[f"log_p_{first.lower()}"] - outcomes[f"log_p_{last.lower()}"])[
                    row
                ][distinct[0]]
                for first, last in PAIRS
            }
            for row in (0, 1)
        )
        figures = (log_odds(before, after),) if distinct.any() else ()
        return Measurement(tuple(measures), figures=figures, remarks=remarks)
