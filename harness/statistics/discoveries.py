"""Sets of units beside chance: what was found of what is planted, how alike choices are, and one p of several seeds.

Everything is about sets drawn uniformly from ``n`` candidates: the numbers that they share are hypergeometric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 9999
"""Random sets of :func:`agreement`."""


@dataclass(frozen=True)
class Chance:
    """How many planted units ``chosen`` random ones would hit (``expected``), and p of hitting ``true`` or more."""

    expected: float
    p: float


def beside_chance(chosen: int, true: int, planted: int, candidates: int) -> Chance:
    """``true`` of ``planted`` units among ``chosen`` of ``candidates``; p is the exact hypergeometric tail."""
    from scipy.stats import hypergeom

    p = float(hypergeom.sf(true - 1, candidates, planted, chosen))
    return Chance(chosen * planted / candidates, min(1.0, p))


@dataclass(frozen=True)
class Agreement:
    """How alike pairs of sets are: mean intersection over union, what it is of random pairs, and p = (b + 1)/(m + 1).

    Attributes:
        p: None where it cannot be told (no pairs).
    """

    iou: float
    expected: float
    p: float
    pairs: int


def agreement(pairs: Sequence[tuple[int, int, int, int]], seed: int, draws: int = DRAWS) -> Agreement | None:
    """Mean IoU of pairs of sets, each (shared, in the first, in the second, candidates), beside random pairs.

    In each of ``draws`` repetitions every pair is drawn anew: two uniform sets of its sizes; b counts the repetitions
    whose mean IoU is at least the observed one. None without pairs.
    """
    if not pairs:
        return None
    rng = np.random.default_rng(seed)
    shared, first, second, candidates = (np.array(column) for column in zip(*pairs, strict=True))
    drawn = rng.hypergeometric(first, candidates - first, second, size=(draws, len(pairs)))
    chance = (drawn / (first + second - drawn)).mean(1)
    observed = float((shared / (first + second - shared)).mean())
    b = int((chance >= observed - 1e-12).sum())
    return Agreement(observed, float(chance.mean()), (b + 1) / (draws + 1), len(pairs))


def combined_p(values: Sequence[float]) -> float | None:
    """One p of several of the same hypothesis, however they depend on each other: min(1, 2 mean(p)).

    Twice the arithmetic mean is a p-value under any dependence (Vovk & Wang 2020, Biometrika 107(4)); a single p is
    itself. None without any.
    """
    if not values:
        return None
    return float(values[0]) if len(values) == 1 else min(1.0, 2 * float(np.mean(values)))
