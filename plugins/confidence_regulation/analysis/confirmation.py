"""Which neurons act like entropy neurons: candidates by their weights, confirmed by what ablating them does.

Weights propose. A neuron is a candidate if more of its output weights lies in the null space of W_U than chance would
put there, or if it is large and tells little between tokens. Effects decide. An ablated neuron changes the loss on two
paths: directly (D, with the final norm's denominator held), and through that denominator (N, what holding it takes
away). Entropy neurons act more through the norm than directly, N / (N + D) >= 1/2, and what they do to the entropy
through the norm, times that share, is larger than for other neurons of the layer with about the same norm.

Why not 1 - DE/TE, the published share, which is reported beside it: where the two paths pull in opposite directions TE
is smaller than either, so that a neuron whose every effect the norm turns round has a share near 0, or below.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PROPOSED = 8
"""Neurons that each sign proposes, at most; as many as are wanted if that is more."""

MIN_SHARE = 0.5
"""The norm's path does more than the direct one."""

LEVEL = 0.05
"""Of the confirmed neurons so many may be no entropy neurons, on average (false discovery rate)."""

CHANCE = 0.05
"""Probability that a layer of random directions has any rho that counts as more than chance."""


def chance_of_rho(rho: np.ndarray, d_model: int, null_dims: int, trivial: int = 0) -> np.ndarray:
    """P(rho of a random direction >= rho) [n]: its square is Beta(k / 2, (d - k) / 2); NaN stays NaN.

    Args:
        trivial: how many of the ``null_dims`` no neuron can write into (the constant vector before a LayerNorm).
    """
    from scipy.stats import beta

    if null_dims <= trivial:
        return np.ones_like(rho)
    found: np.ndarray = beta.sf(rho**2, (null_dims - trivial) / 2, (d_model - null_dims) / 2)
    return found


def rho_by_chance(n: int, d_model: int, null_dims: int, trivial: int = 0) -> float:
    """The rho from which a neuron is proposed in a layer of ``n``; 1 where no neuron can write into the null space."""
    from scipy.stats import beta

    if null_dims <= trivial:
        return 1.0
    return float(np.sqrt(beta.isf(CHANCE / max(1, n), (null_dims - trivial) / 2, (d_model - null_dims) / 2)))


def candidates(
    rhos: Sequence[np.ndarray], chances: Sequence[np.ndarray], logit_var: np.ndarray, norm: np.ndarray, top: int
) -> np.ndarray:
    """Indices of the neurons to be measured, ascending: those that any of three signs proposes.

    By each null space the ``max(PROPOSED, top)`` largest rho, as far as they are more than chance: as many random
    directions as the layer has neurons reach that rho in 1 of 20 layers (CHANCE). And as many of the quarter with the
    largest norm that have the lowest LogitVar, if it is at most half the layer's median.

    Args:
        rhos, chances: [d_mlp] for each null space: rho, and :func:`chance_of_rho`. logit_var, norm: [d_mlp].
    """
    n, alive = max(PROPOSED, top), norm > 0
    found: set[int] = set()
    for rho, chance in zip(rhos, chances, strict=True):
        beyond = np.flatnonzero(alive & (chance <= CHANCE / max(1, alive.sum())))
        found.update(beyond[np.lexsort((-norm[beyond], -rho[beyond].round(12)))][:n].tolist())
    quiet = alive & (logit_var <= np.nanmedian(logit_var) / 2) & (norm >= np.quantile(norm, 0.75))
    large = np.flatnonzero(quiet)
    found.update(large[np.argsort(logit_var[large], kind="stable")][:n].tolist())
    return np.array(sorted(found), dtype=int)


def enough(n_candidates: int, level: float) -> int:
    """How many other neurons it takes for one candidate to be confirmed by itself: 1 / (m + 1) <= level / n."""
    return int(np.ceil(n_candidates / level - 1e-9)) - 1


def matched(chosen: np.ndarray, proposed: np.ndarray, norm: np.ndarray, n: int) -> np.ndarray:
    """For each of ``chosen`` the up to ``n`` living neurons with the nearest norms on a log scale, [len(chosen), n].

    None of those that are ``proposed`` is among them, nor a neuron twice for the same one; where the layer has fewer,
    all of them.
    """
    others = np.setdiff1d(np.flatnonzero(norm > 0), proposed)
    gaps = np.abs(np.log(norm[others])[None] - np.log(norm[chosen])[:, None])
    found: np.ndarray = others[np.argsort(gaps, axis=1, kind="stable")[:, :n]]
    return found


def confirm(
    proposed: np.ndarray, chosen: np.ndarray, others: np.ndarray, does: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Compare candidates with others of their norm.

    p = (b + 1) / (m + 1), where b of the m others do as much, and 1 for candidates that are not compared; after that
    Benjamini-Hochberg over all candidates. Ranks among others that candidates share depend on one another positively,
    which leaves it valid (Bates et al. 2023, "Testing for outliers with conformal p-values", Annals of Statistics 51).

    Args:
        proposed: indices of all candidates. chosen: of those that are compared. others: [len(chosen), m], with whom.
        does: [d_mlp] what they are compared in.

    Returns:
        adjusted p [d_mlp], NaN where there is no candidate, and the indices of those with ``level`` or less, those that
        do most first.
    """
    from scipy.stats import false_discovery_control

    p, adjusted = np.ones(len(does)), np.full(len(does), np.nan)
    for i, these in zip(chosen.tolist(), others, strict=True):
        p[i] = ((does[these] >= does[i]).sum() + 1) / (len(these) + 1)
    adjusted[proposed] = false_discovery_control(p[proposed])
    passing = np.flatnonzero(adjusted <= level)
    return adjusted, passing[np.argsort(-does[passing], kind="stable")]


def norm_path(through: np.ndarray, direct: np.ndarray) -> np.ndarray:
    """N / (N + D): the share of the path through the final norm; 0 without any effect, NaN where none was measured."""
    both = through + direct
    found: np.ndarray = np.where(both == 0, 0.0, through / np.where(both == 0, 1, both))
    return found
