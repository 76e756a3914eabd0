"""Did the margins of a transition table move? A test that keeps the prompts of one fact together."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from harness.statistics.clusters import cluster_sums
from harness.statistics.seeds import generator

DRAWS = 9999
"""Random flips, where not all are enumerated."""

MOST_OUTCOMES = 50_000
"""Distinct outcomes of the flips up to which all are enumerated; 13 clusters never have more than 2^13."""


@dataclass(frozen=True)
class MarginShift:
    """One category: prompts ``gained`` (after minus before), t = gained / sqrt(sum of squares of the clusters' gains),
    p of ``|t|`` alone and adjusted over the categories; None where no cluster gained or lost any on balance."""

    gained: int
    t: float | None
    p: float | None
    p_adjusted: float | None


@dataclass(frozen=True)
class MarginTest:
    """What :func:`margin_test` found.

    Attributes:
        statistic: T; 0 where no cluster moved.
        df: rank of its covariance.
        p: share of the flips that give as large a T; None where no cluster moved.
        clusters: how many there are; moved: how many of them gained or lost something on balance.
        smallest: no p of this test can be smaller; None where no cluster moved.
        exact: all flips were enumerated, not drawn.
        shifts: of each category, in the table's order.
    """

    statistic: float
    df: int
    p: float | None
    clusters: int
    moved: int
    smallest: float | None
    exact: bool
    shifts: tuple[MarginShift, ...]


def margin_test(before: np.ndarray, after: np.ndarray, clusters: np.ndarray, k: int, seed: int = 0) -> MarginTest:
    """Score test of equal margins before and after, of matched prompts in clusters; p by flipping whole clusters.

    d_c [k] is what cluster c gains of every category: its prompts there after, minus before. If nothing happens
    systematically, d_c is as likely as -d_c. T = D' V^+ D of D = sum d_c and V = sum d_c d_c', which no flip changes.
    Of two categories, T is the modified Obuchowski test of Yang, Sun & Hardin (2010, Biometrical Journal 52:638), after
    Obuchowski (1998, Statistics in Medicine 17:1495); that of Durkalski et al. (2003, Statistics in Medicine 22:2417)
    differs by the weights of clusters of unequal size. With one prompt a cluster and two categories, T is McNemar's
    chi-square and its p the exact one.

    p is the share of the flips of whole clusters that give as large a T: exact where d_c is symmetric about 0, right
    for many clusters wherever its mean is 0 (flipped score contributions: Hemerik, Goeman & Finos 2020, JRSS B 82:841).
    Categories are tested by ``|t|``, adjusted by step-down maxima over the same flips, which keeps the familywise error
    whichever of them moved (Westfall & Young 1993; Romano & Wolf 2005, JASA 100:94).

    Args:
        before, after: category of every prompt, 0 to k - 1 [n].
        clusters: cluster number of every prompt [n].
        seed: of the flips, where they are drawn.
    """
    codes = np.arange(k)[:, None]
    moves = np.subtract(np.asarray(after) == codes, np.asarray(before) == codes, dtype=np.int64)
    gains = cluster_sums(moves, np.asarray(clusters)).T
    n, gains = len(gains), gains[gains.any(axis=1)]
    gained: list[int] = moves.sum(axis=1).tolist()
    if len(gains) == 0:
        return MarginTest(0.0, 0, None, n, 0, None, True, tuple(MarginShift(x, None, None, None) for x in gained))
    kinds, sizes, net = _kinds(gains)
    flips, weights, exact = _flips(net, sizes, seed)
    # Along the singular vectors, each divided by its value, the covariance is the identity and T a squared length.
    _, spread, axes = np.linalg.svd(kinds * np.sqrt(sizes)[:, None], full_matrices=False)
    df = int((spread > 1e-9 * spread[0]).sum())
    lengths = ((flips @ (kinds @ axes[:df].T / spread[:df])) ** 2).sum(axis=1, keepdims=True)
    moving = np.flatnonzero(kinds.any(axis=0))
    t = flips @ (kinds[:, moving] / np.sqrt(sizes @ kinds[:, moving] ** 2))
    found = np.stack([t[0], _p(np.abs(t), weights), _step_down(np.abs(t), weights)], axis=1)
    shown = dict(zip(moving.tolist(), found.tolist(), strict=True))
    shifts = [MarginShift(x, *shown.get(i, (None,) * 3)) for i, x in enumerate(gained)]
    smallest = max(2.0 ** (1 - len(gains)), 0.0 if exact else 1 / len(flips))
    return MarginTest(
        float(lengths[0, 0]), df, float(_p(lengths, weights)[0]), n, len(gains), smallest, exact, tuple(shifts)
    )


def _kinds(gains: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct gains up to their sign [u, k]; clusters of each kind [u]; those of its sign minus the others [u]."""
    first = gains[np.arange(len(gains)), (gains != 0).argmax(axis=1)]
    sign = np.sign(first)
    kinds, kind, sizes = np.unique(gains * sign[:, None], axis=0, return_inverse=True, return_counts=True)
    return kinds, sizes, np.bincount(kind.ravel(), sign)


def _flips(net: np.ndarray, sizes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """What flips make of ``net`` [flips, u], the observed first; their weights; whether these are all.

    Flipping clusters of one kind gives a binomial number, so few outcomes are distinct. Drawn ones weigh as much as the
    observed one, which makes p = (b + 1) / (draws + 1) (Phipson & Smyth 2010).
    """
    from scipy.stats import binom

    if prod(n + 1 for n in sizes.tolist()) > MOST_OUTCOMES:
        drawn = generator(seed, "margins").binomial(sizes, 0.5, (DRAWS, len(sizes)))
        return np.vstack([net, 2 * drawn - sizes]), np.ones(DRAWS + 1), False
    every = np.stack(np.meshgrid(*(np.arange(n + 1) for n in sizes), indexing="ij"), axis=-1).reshape(-1, len(sizes))
    weights = binom.pmf(every, sizes, 0.5).prod(axis=1)
    return np.vstack([net, 2 * every - sizes]), np.concatenate([[0.0], weights]), True


def _p(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the flips whose value is at least the first's, of each column of [flips, columns]; rounding ties."""
    found: np.ndarray = np.minimum(weights @ (values >= values[0] - 1e-9 * (1 + values[0])) / weights.sum(), 1.0)
    return found


def _step_down(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Adjusted p of the columns of [flips, columns]: each against the maximum over it and those below it."""
    order = np.argsort(-values[0], kind="stable")
    largest = np.maximum.accumulate(values[:, order[::-1]], axis=1)[:, ::-1]
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(_p(largest, weights))
    return adjusted
