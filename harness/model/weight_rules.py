"""The published rules that choose entropy neurons by their weights (:mod:`harness.model.weight_scores`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import numpy as np

from harness.files.wording import the

Published: TypeAlias = Literal["tighidet2025", "stolfo2024", "du2025"]
PUBLISHED: tuple[Published, ...] = get_args(Published)

MIN_RHO, NORM_QUANTILE = 0.4, 0.75
"""The papers' numbers: Tighidet et al. 2025 (their code's default), Du et al. 2025."""

TIE_DECIMALS = 12
"""Scores that agree to so many decimals are equal: both lie in [0, 1] and come from float32 weights."""


def by_weights(
    rule: Published,
    scores: Mapping[str, np.ndarray],
    top: int,
    min_rho: float = MIN_RHO,
    norm_quantile: float = NORM_QUANTILE,
) -> tuple[np.ndarray, str]:
    """All neurons that pass a rule, best first, and in words what takes ``top`` of them.

    Args:
        scores: rho, logit_var and norm, [d_mlp] each.
    """
    alive = scores["norm"] > 0
    if rule == "stolfo2024":
        return ranked(alive, -scores["rho"], scores["norm"]), f"{the(top, 'neuron')} with the highest rho"
    if rule == "tighidet2025":
        keep = alive & (scores["rho"] >= min_rho)
        of = f"the neurons with rho >= {min_rho:g}"
    else:
        keep = alive & (scores["norm"] >= np.quantile(scores["norm"], norm_quantile))
        of = f"the {1 - norm_quantile:.0%} of neurons with the largest norm"
    return ranked(keep, scores["logit_var"], scores["norm"]), f"of {of}, the {top} with the lowest LogitVar"


def ranked(keep: np.ndarray, order: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """Indices of ``keep`` [d_mlp] by ``order``, ascending.

    What float32 weights cannot tell apart is ordered by norm, so that rounding decides nothing.
    """
    passing = np.flatnonzero(keep)
    found: np.ndarray = passing[np.lexsort((-norm[passing], order[passing].round(TIE_DECIMALS)))]
    return found


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two sets of indices; 1 for two empty ones."""
    union = len(np.union1d(first, second))
    return len(np.intersect1d(first, second)) / union if union else 1.0
