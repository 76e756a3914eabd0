"""Where facts are kept: activation patching by layer and token (Du et al. 2025; Meng et al. 2022).

A pair is two prompts of as many tokens, *clean* and *corrupted*, which differ in their subject. The corrupted prompt is
run with the clean run's residual stream after layer l at token t, which recovers the share

    R(l, t) = (d_patched - d_corrupted) / (d_clean - d_corrupted)      d = log p(clean answer) - log p(corrupted answer)

of the difference: 1 where everything that tells the answers apart is there, 0 where nothing is. Tokens before the
subject are the same in both prompts and recover nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.plugin import HarnessError, counted

from .pairs import ROLES
from .patched_passes import patch

if TYPE_CHECKING:
    from harness.plugin import Model
    from harness.progress import Advance
    from harness.statistics import Interval

    from .pairs import Pair

LEAST = 0.5
"""Nats by which the clean and the corrupted run must differ: a share of less is noise."""


@dataclass(frozen=True, eq=False)
class Localisation:
    """What patching recovers.

    Attributes:
        model: its name.
        recovery: float64 [n_pairs, n_layers, n_tokens], R aligned from the end: the last column is the last token. NaN
            where a prompt has no token, and for pairs whose two runs differ by less than :data:`LEAST`.
        roles: int [n_pairs, n_tokens], numbers in :data:`ROLES`; -1 before the subject.
        effect: float64 [n_pairs], d_clean - d_corrupted in nats.
    """

    model: str
    recovery: np.ndarray
    roles: np.ndarray
    effect: np.ndarray

    @property
    def by_role(self) -> np.ndarray:
        """Mean over the tokens of each role, float64 [n_pairs, n_layers, len(ROLES)]; NaN where a pair has none."""
        return role_means(self.recovery, self.roles, len(ROLES))

    @property
    def map(self) -> np.ndarray:
        """Mean over pairs [n_layers, len(ROLES)]; NaN for a role that no pair has."""
        found: np.ndarray = _mean(self.by_role, np.ones((1, len(self.recovery))))[0]
        return found


def role_means(values: np.ndarray, roles: np.ndarray, n: int) -> np.ndarray:
    """Means over the tokens of each of ``n`` roles; NaN where a pair has none of it.

    Args:
        values: [n_pairs, n_layers, n_tokens]. roles: int [n_pairs, n_tokens]; -1 belongs to none.

    Returns:
        float64 [n_pairs, n_layers, n].
    """
    found = np.full((*values.shape[:2], n), np.nan)
    for role in range(n):
        here = roles == role
        some = here.any(1)
        total = np.where(here[:, None], values, 0.0).sum(-1)
        found[some, :, role] = total[some] / here.sum(1)[some, None]
    return found


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means over the first axis of values [n, ...], NaN left out: weights [k, n] -> [k, ...]."""
    known = np.isfinite(values)
    total = np.tensordot(weights, np.where(known, values, 0.0), 1)
    count = np.tensordot(weights, known.astype(float), 1)
    found: np.ndarray = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return found


def localise(
    model: Model, pairs: Sequence[Pair], batch_size: int = 64, progress: Advance = lambda n: None
) -> Localisation:
    """Patch every layer and token of every pair; the cells of a layer are run as one batch.

    Args:
        batch_size: rows of a forward pass, unless one pair has more tokens than that.
        progress: told of len(pairs) * n_layers steps in all.

    Raises:
        HarnessError: no pair has runs that differ enough, or a logit is not finite.
    """
    done = patch(model, model, pairs, batch_size, progress)
    effect = done.clean - done.corrupted
    recovery = np.where(np.isnan(done.patched), np.nan, 0.0)
    after = done.roles >= 0  # before the subject the runs are the same
    with np.errstate(divide="ignore", invalid="ignore"):  # effects that are too small are left out
        share = (done.patched - done.corrupted[:, None, None]) / effect[:, None, None]
    recovery = np.where(after[:, None], share, recovery)
    recovery[np.abs(effect) < LEAST] = np.nan
    if not np.isfinite(recovery).any():
        raise HarnessError(
            f"patching: in none of {counted(len(pairs), 'pair')} do the clean and the corrupted run of "
            f"{model.name} differ by "
            f"{LEAST} nats: there is nothing to recover."
        )
    return Localisation(model.name, recovery, done.roles, effect)


# -- two models --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Correlation:
    """How alike two models' maps are: Pearson's r over layers and roles of the mean recovery.

    Attributes:
        r: None where a map is constant. interval: over pairs, drawn for both models together. n_pairs: pairs in which
            both models' runs differ enough.
    """

    r: float | None
    interval: Interval | None
    n_pairs: int


def correlation(base: Localisation, tuned: Localisation, seed: int = 0, resamples: int = 2000) -> Correlation:
    """Correlation of the maps of two models over the same pairs.

    Raises:
        HarnessError: the maps are of different pairs, or models with different numbers of layers.
    """
    from harness.statistics.bootstrap import percentile

    if base.recovery.shape != tuned.recovery.shape or not np.array_equal(base.roles, tuned.roles):
        raise HarnessError(
            f"the maps of {base.model} and {tuned.model} cannot be correlated: they are of different pairs, or the "
            "models have different numbers of layers."
        )
    maps = [found.by_role.reshape(len(found.effect), -1) for found in (base, tuned)]
    both = np.isfinite(maps[0]).any(1) & np.isfinite(maps[1]).any(1)
    maps, n = [found[both] for found in maps], int(both.sum())
    if n == 0:
        return Correlation(None, None, 0)
    r = pearson(*(_mean(found, np.ones((1, n))) for found in maps))
    values = pearson(*(_mean(found, drawn_weights(n, seed, resamples)) for found in maps))
    return Correlation(float(r[0]) if np.isfinite(r[0]) else None, percentile([values], 0.95, n), n)


def drawn_weights(n: int, seed: int, resamples: int) -> np.ndarray:
    """How often each of n things is drawn in bootstrap resamples [resamples, n]; no resamples of one thing."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples if n > 1 else 0)
    return drawn.astype(float)


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation of the rows [k, cells] over the cells that both have; NaN where one is constant."""
    known = np.isfinite(x) & np.isfinite(y)
    count = np.maximum(known.sum(1, keepdims=True), 1)
    x, y = (np.where(known, z - np.where(known, z, 0).sum(1, keepdims=True) / count, 0.0) for z in (x, y))
    size = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    found: np.ndarray = np.divide((x * y).sum(1), size, out=np.full(len(x), np.nan), where=size > 1e-12)
    return found
