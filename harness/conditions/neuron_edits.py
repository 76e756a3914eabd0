"""Edits that depend on the activation: clamped, scaled, exchanged. Each is a function of one activation, of a neuron or
whatever else has one number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.conditions.conditions import Edit
from harness.conditions.placed import Around
from harness.conditions.units import NEURONS, Site

if TYPE_CHECKING:
    import torch

BINS = 64
"""Quantile bins that change places in an exchange."""

KNOTS = 16 * BINS
"""Reference activations that an exchange remembers of each neuron."""


@dataclass(frozen=True)
class ClampNeurons:
    """Set what lies below ``low`` to it, and what lies above ``high`` to it; infinite bounds leave a side alone."""

    layer: int
    indices: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    where: Site = NEURONS

    def apply(self, activations: torch.Tensor) -> torch.Tensor:
        return activations.maximum(activations.new_tensor(self.low)).minimum(activations.new_tensor(self.high))


@dataclass(frozen=True)
class ScaleNeurons:
    """Multiply each activation by a factor."""

    layer: int
    indices: tuple[int, ...]
    factor: float
    where: Site = NEURONS

    def apply(self, activations: torch.Tensor) -> torch.Tensor:
        return activations * self.factor


@dataclass(frozen=True)
class RangedNeurons(Around):
    """Another edit where an activation lies between two bounds, neither of them included; elsewhere it stays.

    Attributes:
        edit: elementwise in the activations. low, high: of each of its units; infinite ones leave a side open.
    """

    edit: Edit
    low: tuple[float, ...]
    high: tuple[float, ...]

    def apply(self, activations: torch.Tensor) -> torch.Tensor:
        inside = (activations > activations.new_tensor(self.low)) & (activations < activations.new_tensor(self.high))
        return self.edit.apply(activations).where(inside, activations)


@dataclass(frozen=True, eq=False)
class ExchangeNeurons:
    """Replace each activation by a piecewise linear function of it (see :func:`exchange`).

    Attributes:
        x, y: float32 [len(indices), n], knots of each neuron's function, x ascending and filled up with infinity. Where
            two knots have one x, the function jumps there.
    """

    layer: int
    indices: tuple[int, ...]
    x: np.ndarray
    y: np.ndarray
    where: Site = NEURONS

    @classmethod
    def of(
        cls,
        layer: int,
        indices: tuple[int, ...],
        tables: list[tuple[np.ndarray, np.ndarray]],
        where: Site = NEURONS,
    ) -> ExchangeNeurons:
        """From one (x, y) a neuron, of different lengths."""
        width = 1 + max(len(x) for x, _ in tables)
        x = np.stack([np.pad(x, (0, width - len(x)), constant_values=np.inf) for x, _ in tables])
        y = np.stack([np.pad(y, (0, width - len(y)), mode="edge") for _, y in tables])
        return cls(layer, indices, x.astype(np.float32), y.astype(np.float32), where)

    def apply(self, activations: torch.Tensor) -> torch.Tensor:
        import torch

        x, y = (torch.from_numpy(table).to(activations.device) for table in (self.x, self.y))
        flat = activations.float().reshape(-1, len(self.indices)).T.contiguous()  # [neurons, n]
        last = torch.isfinite(x).sum(1, keepdim=True) - 1
        flat = flat.maximum(x[:, :1]).minimum(x.gather(1, last))
        right = torch.searchsorted(x, flat, right=True).clamp(max=x.shape[1] - 1)  # NaN stays NaN
        x0, x1 = x.gather(1, right - 1), x.gather(1, right)
        y0, y1 = y.gather(1, right - 1), y.gather(1, right)
        new = y0 + (flat - x0) / (x1 - x0) * (y1 - y0)
        return new.T.reshape(activations.shape).to(activations)


def exchange(sample: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A function that gives each activation another place in the neuron's own distribution, as knots (x, y).

    The distribution is cut into ``BINS`` intervals of equal probability, which are put in a random order: quantile u
    becomes u + a shift of its interval, an interval exchange. Uniform quantiles stay uniform under it, so the marginal
    distribution of the activation is kept, while what the activation says of its token is lost (up to the place within
    the interval). Of a sample without equal values the new values are a permutation of the old ones. Being a
    function of the activation, and continuous but for ``BINS`` jumps between two observed values each, the edit can be
    evaluated in closed form, and rounding does not tip it.

    A value that more than 1/BINS of the sample share (zero after a ReLU) stays as it is: no function can spread it.
    Equal values that are rarer go, as they must, to one place: the middle of their quantiles.

    Args:
        sample: the neuron's reference activations [n], n >= 1; ``KNOTS`` evenly spaced quantiles of them are used.
    """
    values = np.sort(sample.astype(np.float64))
    distinct, counts = np.unique(values, return_counts=True)
    heavy = distinct[counts > max(1, len(values) // BINS)]
    free = values[~np.isin(values, heavy)]
    if len(free) > KNOTS:
        free = free[np.round(np.linspace(0, len(free) - 1, KNOTS)).astype(int)]
    pieces = [(value, [value], [value]) for value in heavy]
    for start, stop, shift, ranks, knots in _intervals(free, rng):
        moved = np.interp(ranks[start:stop] + shift, ranks, knots)
        # Values that stay may lie inside an interval: it is cut there.
        for part in np.split(np.arange(start, stop), np.searchsorted(knots[start:stop], heavy)):
            if len(part):
                pieces.append((knots[part[0]], list(knots[part]), list(moved[part - start])))
    return _joined(sorted(pieces, key=lambda piece: piece[0]))


def _intervals(values: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int, float, np.ndarray, np.ndarray]]:
    """(start, stop, shift, ranks, knots): the distinct values ``knots`` [m] with their middle ranks, and the intervals
    start to stop of them whose ranks are shifted."""
    if not len(values):
        return []
    knots, first, counts = np.unique(values, return_index=True, return_counts=True)
    ranks = first + (counts - 1) / 2
    n = len(values)
    bin_of = np.minimum((ranks + 0.5) * BINS / n, BINS - 1).astype(int) if n > BINS else np.arange(len(knots))
    starts = np.flatnonzero(np.diff(bin_of, prepend=-1))
    stops = np.append(starts[1:], len(knots))
    begin = first[starts]  # ranks at which the intervals begin, with equal values counted
    size = np.append(begin[1:], n) - begin
    order = rng.permutation(len(starts))
    shifted = np.empty(len(starts))
    shifted[order] = np.append(0, np.cumsum(size[order])[:-1])
    return [
        (int(a), int(b), float(to - at), ranks, knots)
        for a, b, to, at in zip(starts, stops, shifted, begin, strict=True)
    ]


def _joined(pieces: list[tuple[float, list[float], list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """One function from pieces in order; between two of them it jumps half way."""
    x, y = list(pieces[0][1]), list(pieces[0][2])
    for _, knots, moved in pieces[1:]:
        middle = (x[-1] + knots[0]) / 2
        x += [middle, middle, *knots]
        y += [y[-1], moved[0], *moved]
    return np.array(x), np.array(y)
