"""The paper's rule for entropy neurons at several shares of norm and numbers of neurons: how much is shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.model import by_weights
from harness.statistics import adjust, chance_overlap

if TYPE_CHECKING:
    from .neurons import FinalLayer

SHARES, COUNTS = (0.05, 0.1, 0.25, 0.5, 1.0), (5, 10, 20, 50, 100)
"""Shares of norm and numbers of neurons, where only the others are named."""


def entropy_neurons(scores: Mapping[str, np.ndarray], share: float, n: int) -> np.ndarray:
    """Indices of the ``n`` with the lowest LogitVar of the ``share`` with the largest norms."""
    return by_weights("du2025", scores, n, norm_quantile=1 - share)[0][:n]


def grid_rows(
    base: FinalLayer, tuned: FinalLayer, shares: Sequence[float], counts: Sequence[int]
) -> list[dict[str, Any]]:
    """Intersection over union at every share and number, beside random sets of the layer; p by Holm over all."""
    rows: list[dict[str, Any]] = []
    for share in sorted(set(shares)):
        for n in sorted(set(counts)):
            first, second = (entropy_neurons(layer.scores, share, n) for layer in (base, tuned))
            both = len(np.intersect1d(first, second))
            found = chance_overlap([(both, len(first), len(second), len(base.w_out))])
            cell = {"share of norm": share, "neurons": n, "base": len(first), "tuned": len(second), "shared": both}
            rows.append(cell | {"IoU": found.iou, "chance": found.expected_iou, "p": found.p})
    for made, p in zip(rows, adjust([row["p"] for row in rows]), strict=True):
        made["p Holm"] = p
    return rows


def grid_sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """How far the overlap depends on the rule's two numbers."""
    least, most = (pick(rows, key=lambda row: row["IoU"]) for pick in (min, max))

    def cell(row: Mapping[str, Any]) -> str:
        return f"{row['IoU']:.2f} ({row['neurons']} of the {row['share of norm']:.0%} with the largest norms)"

    return f"Entropy neurons by the rule of Du et al. at {len(rows)} settings: IoU from {cell(least)} to {cell(most)}."
