"""What temperature alone would do: the untouched model's distributions at every temperature, and the one at which they
have a given entropy.

At the inverse temperature beta the model with log-probabilities l says softmax(beta l). With K(beta) = log sum_v
exp(beta l_v), whose derivatives are the cumulants of l under softmax(beta l),

    log p_v(beta) = beta l_v - K(beta),      H(beta) = K - beta K',      dH / d log beta = -beta^2 K''

so that the entropy falls strictly as beta grows, and the beta of an entropy is unique. K and its first three
derivatives are tabulated over a grid of log beta, once for each distribution and however many conditions there are;
between the points of the grid H and K are the polynomials of degree five that have its values and derivatives there.
The sums over the vocabulary are taken over bins of logits, each with its mean and variance: an entropy is right to
about 1e-6 nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64

STEP = float(np.log(2.0)) / 8
LOG_BETA = STEP * np.arange(-32, 33)
"""The grid: inverse temperatures from 1/16 to 16."""

UNTEMPERED = 32
"""The place of beta = 1 in the grid."""

OUTSIDE = 1e-6
"""Nats by which an entropy must lie beyond the ends of the grid to be called out of reach."""

BLOCK = 32
"""Distributions that are tabulated at once."""

_HERMITE = np.array(
    [
        [1, 0, 0, -10, 15, -6],
        [0, 1, 0, -6, 8, -3],
        [0, 0, 0.5, -1.5, 1.5, -0.5],
        [0, 0, 0, 10, -15, 6],
        [0, 0, 0, -4, 7, -3],
        [0, 0, 0, 0.5, -1, 0.5],
    ]
)
"""Coefficients of u^0 to u^5, u in [0, 1], for value, slope and curvature at 0 and then at 1."""


@dataclass(frozen=True)
class Tempered:
    """The distributions of N places at every temperature of the grid.

    Attributes:
        cumulants: float64 [N, n_grid, 4], K and its first three derivatives by beta at the betas of the grid, of
            log-probabilities (K(1) = 0); NaN where nothing was tabulated.
    """

    cumulants: Float64[np.ndarray, "N n_grid 4"]

    @classmethod
    def empty(cls, n: int) -> Tempered:
        """To be filled in."""
        return cls(np.full((n, len(LOG_BETA), 4), np.nan))

    @classmethod
    def of(cls, logits: Float[torch.Tensor, "N d_vocab"]) -> Tempered:
        """Of logits, or log-probabilities."""
        rows = logits.float().cpu().numpy()
        parts = [_cumulants(rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK)]
        return cls.cat([cls(part) for part in parts])

    @classmethod
    def cat(cls, parts: Sequence[Tempered]) -> Tempered:
        """Places one after another."""
        return cls(np.concatenate([np.zeros((0, len(LOG_BETA), 4)), *(part.cumulants for part in parts)]))

    def put(self, places: np.ndarray, part: Tempered) -> None:
        """Fill in some places."""
        self.cumulants[places] = part.cumulants

    def only(self, places: np.ndarray) -> Tempered:
        """Some of the places."""
        return Tempered(self.cumulants[places])

    @cached_property
    def entropy(self) -> Float64[np.ndarray, "N n_grid"]:
        """Entropy in nats at the temperatures of the grid; falls along it, rounding taken away."""
        K, mean = self.cumulants[..., 0], self.cumulants[..., 1]
        found: np.ndarray = np.minimum.accumulate(K - np.exp(LOG_BETA) * mean, axis=1)
        return found

    @cached_property
    def _polynomials(self) -> tuple[np.ndarray, np.ndarray]:
        """Of H and of K between the points of the grid, coefficients of u^0 to u^5: [N, n_grid - 1, 6] each."""
        beta = np.exp(LOG_BETA)
        K, mean, variance, third = np.moveaxis(self.cumulants, -1, 0)
        slope, curvature = -(beta**2) * variance, -2 * beta**2 * variance - beta**3 * third
        return (
            _between(self.entropy, slope, curvature),
            _between(K, beta * mean, beta * mean + beta**2 * variance),
        )

    def at_entropy(self, entropy: Float[np.ndarray, "C N"], untouched: Float[np.ndarray, " N"]) -> EqualEntropy:
        """Each distribution at the temperatures at which its entropy is that of C conditions.

        Args:
            entropy: of the conditions, nats. untouched: of the untouched model, measured as they are; the *change* from
                it counts, so that rounding which both share makes no temperature, and no change gives beta = 1.
        """
        wanted = self.entropy[:, UNTEMPERED] + (np.asarray(entropy, np.float64) - untouched)
        high, low = self.entropy[:, 0], self.entropy[:, -1]
        place, u, log_z = np.empty(wanted.shape, np.int64), np.empty(wanted.shape), np.empty(wanted.shape)
        _loops().solve(self.entropy, *self._polynomials, np.clip(wanted, low, high), place, u, log_z)
        outside = (wanted > high + OUTSIDE) | (wanted < low - OUTSIDE)
        return EqualEntropy(np.exp(LOG_BETA[place] + STEP * u), log_z, outside)


@dataclass(frozen=True)
class EqualEntropy:
    """The untouched model at the temperatures at which it is as uncertain as C conditions are.

    Attributes:
        beta: inverse temperatures. log_z: K at them.
        outside: where no temperature of the grid has the entropy; the nearest one is taken there.
    """

    beta: Float64[np.ndarray, "C N"]
    log_z: Float64[np.ndarray, "C N"]
    outside: Bool[np.ndarray, "C N"]

    @property
    def log_temperature(self) -> Float64[np.ndarray, "C N"]:
        """Log of the temperatures; 0 where the model is as it is."""
        found: np.ndarray = -np.log(self.beta)
        return found

    def log_p(self, untouched: Float[np.ndarray, "*k N"]) -> Float64[np.ndarray, "*k C N"]:
        """Log-probabilities of tokens at these temperatures, from those that the untouched model gives them."""
        found: np.ndarray = self.beta * np.asarray(untouched, np.float64)[..., None, :] - self.log_z
        return found


def _cumulants(logits: np.ndarray) -> np.ndarray:
    """K and its derivatives at the betas of the grid, float64 [n, n_grid, 4], of logits [n, V].

    A bin of n logits with mean -m and variance s adds n e^(-beta m) (1 + beta^2 s / 2) to Z = e^K.
    """
    compiled, beta = _loops(), np.exp(LOG_BETA)[:, None]
    n, m, s = np.zeros((3, len(logits), compiled.BINS))
    compiled.bins(np.ascontiguousarray(logits), n, m, s)
    weights = np.exp(-beta * m[:, None])
    powers = np.stack([np.ones_like(m), -m, m**2, -(m**3)], -1) * n[..., None]
    plain, spread = np.split(weights @ np.concatenate([powers, powers * s[..., None]], -1), 2, axis=-1)
    z = plain + spread * beta**2 / 2  # Z and its derivatives, by the product rule
    z[..., 1:] += beta * spread[..., :3] * [1, 2, 3]
    z[..., 2:] += spread[..., :2] * [1, 3]
    first, second, third = (z[..., k] / z[..., 0] for k in (1, 2, 3))
    K, variance = np.log(z[..., 0]), np.maximum(second - first**2, 0)
    skew = third - 3 * first * second + 2 * first**3
    log_z = K[:, UNTEMPERED, None]  # of distances from the largest logit, so that they less this are log-probabilities
    return np.stack([K - beta[:, 0] * log_z, first - log_z, variance, skew], -1)


def _between(values: np.ndarray, slope: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """Coefficients [N, n_grid - 1, 6] from values and derivatives by log beta [N, n_grid]."""
    ends = np.stack([values, STEP * slope, STEP**2 * curvature])
    return np.ascontiguousarray(np.einsum("ek,eni->nik", _HERMITE, np.concatenate([ends[..., :-1], ends[..., 1:]])))


def _loops() -> Any:
    from harness.engine import tempering_loops

    return tempering_loops
