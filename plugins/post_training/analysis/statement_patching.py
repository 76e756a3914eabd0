"""Patching statement pairs from one model into another (Du et al. 2025, section 3: the central figure).

The true statement is run in the *source*, the false one in the *target*, with the source's residual stream after layer
l at token t. d is log P(TRUE) / P(FALSE) of the target's answer, whose means over pairs are what the paper's code maps.
Here they stand on the scale of the target's own two runs,

    M(l, t) = sum over pairs (d_patched - d_false) / sum over pairs (d_true - d_false),

0 where nothing is carried over, 1 where everything is. That is the paper's mean map shifted and scaled, so that
correlations of maps are the same. (Its code then puts cells into 20 bins and the lower ten of these to 0; this does
not.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.plugin import HarnessError, counted

from .patched_passes import Patched, Sharing, patch
from .patching import drawn_weights, pearson, role_means
from .statement_pairs import ROLES

if TYPE_CHECKING:
    from harness.plugin import Model
    from harness.progress import Advance
    from harness.statistics import Interval

    from .statement_pairs import StatementPair

WAYS = {
    "base": ("base", "base"), "tuned": ("tuned", "tuned"),
    "base to tuned": ("base", "tuned"), "tuned to base": ("tuned", "base"),
}  # fmt: skip
"""Names of the four maps: where the residual stream is from, and where it is put."""


@dataclass(frozen=True, eq=False)
class Way:
    """One map in its parts, which are summed over groups of pairs.

    Attributes:
        gained: float64 [n_pairs, n_layers, len(ROLES)], d_patched - d_false; 0 where a pair has no such token.
        whole: float64 [n_pairs, len(ROLES)], d_true - d_false of the target; likewise.
        true, false: float64 [n_pairs], d of the target's own two runs.
    """

    gained: np.ndarray
    whole: np.ndarray
    true: np.ndarray
    false: np.ndarray

    @classmethod
    def of(cls, found: Patched) -> Way:
        gained = role_means(found.patched - found.corrupted[:, None, None], found.roles, len(ROLES))
        has = np.isfinite(gained).all(1)
        whole = np.where(has, (found.clean - found.corrupted)[:, None], 0.0)
        return cls(np.where(has[:, None], gained, 0.0), whole, found.clean, found.corrupted)

    def maps(self, weights: np.ndarray) -> np.ndarray:
        """M under weights of the pairs [k, n_pairs]: [k, n_layers, len(ROLES)]; NaN for a role that no pair has."""
        gained, whole = np.tensordot(weights, self.gained, 1), (weights @ self.whole)[:, None]
        found: np.ndarray = np.divide(gained, whole, out=np.full_like(gained, np.nan), where=whole != 0)
        return found

    @property
    def map(self) -> np.ndarray:
        """M of all pairs, [n_layers, len(ROLES)]."""
        found: np.ndarray = self.maps(np.ones((1, len(self.true))))[0]
        return found


def four_ways(
    models: Sequence[Model],
    pairs: Sequence[StatementPair],
    batch_size: int = 64,
    progress: Advance = lambda n: None,
) -> dict[str, Way]:
    """The maps of :data:`WAYS`; ``progress`` is told of 4 * len(pairs) * n_layers steps.

    Raises:
        HarnessError: a model does not tell the true from the false statements, so that there is nothing to carry over.
    """
    by_name = dict(zip(("base", "tuned"), models, strict=True))
    shared = {name: Sharing.of(model) for name, model in by_name.items()}
    found = {}
    for name, (source, target) in WAYS.items():
        way = Way.of(patch(by_name[source], by_name[target], pairs, batch_size, progress, shared[target]))
        if source == target and not (way.true - way.false).mean() > 0:
            raise HarnessError(
                f"statements: {by_name[target].name} does not find the true ones of {counted(len(pairs), 'pair')} more "
                f"likely to be true than the false ones (by {(way.true - way.false).mean():.2f} nats): there is "
                "nothing to carry over."
            )
        found[name] = way
    return found


@dataclass(frozen=True)
class Estimate:
    """A number, and its interval over groups of pairs."""

    value: float | None
    interval: Interval | None

    @property
    def low(self) -> float | None:
        return None if self.interval is None else self.interval.low

    @property
    def high(self) -> float | None:
        return None if self.interval is None else self.interval.high


def group_weights(groups: Sequence[str], seed: int, resamples: int) -> tuple[np.ndarray, int]:
    """How often each pair is drawn when groups are resampled whole [resamples, n_pairs], and the number of groups."""
    names, place = np.unique(np.array(groups), return_inverse=True)
    n = len(names)
    return drawn_weights(n, seed, resamples)[:, place], n


def estimate(value: Callable[[np.ndarray], np.ndarray], weights: np.ndarray, groups: int) -> Estimate:
    """A function of weights [k, n_pairs] -> [k], of all pairs and over resamples."""
    from harness.statistics.bootstrap import percentile

    found = float(value(np.ones((1, weights.shape[1])))[0])
    interval = percentile([value(weights)], 0.95, groups) if len(weights) else None
    return Estimate(found if np.isfinite(found) else None, interval)


def correlation_of(first: Way, second: Way) -> Callable[[np.ndarray], np.ndarray]:
    """Pearson's r of two maps over layers and roles, as a function of weights."""

    def r(weights: np.ndarray) -> np.ndarray:
        return pearson(*(way.maps(weights).reshape(len(weights), -1) for way in (first, second)))

    return r


def at(way: Way, layer: int, role: int) -> Callable[[np.ndarray], np.ndarray]:
    """One cell of a map, as a function of weights."""

    def cell(weights: np.ndarray) -> np.ndarray:
        whole = weights @ way.whole[:, role]
        gained = weights @ way.gained[:, layer, role]
        found: np.ndarray = np.divide(gained, whole, out=np.full(len(weights), np.nan), where=whole != 0)
        return found

    return cell


def best_place(own: Way) -> tuple[int, int]:
    """Layer and role where a model's own residual stream carries most over, among the tokens that differ.

    Only roles that at least half of the pairs have: a share of few pairs is large or small by chance. All pairs have a
    last token of the subject.
    """
    common = (own.whole[:, :3] != 0).mean(0) >= 0.5
    found = np.where(common, own.map[:, :3], np.nan)
    layer, role = np.unravel_index(int(np.nanargmax(found)), found.shape)
    return int(layer), int(role)
