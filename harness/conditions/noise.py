"""Noise that is the same whenever it is looked at: seeded edits that are pure functions of the activation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.conditions.units import NEURONS, Site

if TYPE_CHECKING:
    import torch

CELLS = 128
"""Draws in one standard deviation of a neuron's activation: a cell lies between two of them."""

WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class AddNoise:
    """Add a normal random number to each activation, which follows from seed, neuron and activation alone.

    The numbers of two activations that lie two cells apart, or more, are independent; in between they go over into
    each other, so that the rounding by which one activation differs from engine to engine, and from batch to batch,
    changes them no more than it changes the activation times ``CELLS``.

    Attributes:
        size: standard deviation of each neuron's noise [len(indices)].
        cell: width of a cell of each neuron's activation, positive [len(indices)].
    """

    layer: int
    indices: tuple[int, ...]
    size: tuple[float, ...]
    cell: tuple[float, ...]
    seed: int
    where: Site = NEURONS

    def apply(self, activations: torch.Tensor) -> torch.Tensor:
        import torch

        x = activations.double()
        size, cell = (torch.tensor(row, dtype=x.dtype, device=x.device) for row in (self.size, self.cell))
        place = x / cell
        knot = place.floor()
        # cos^2 + sin^2 = 1: a normal number of variance 1 at every place, and no jump at the knots.
        angle = (place - knot) * (math.pi / 2)
        left, right = (self._normal(knot + step) for step in (0, 1))
        return (x + size * (left * angle.cos() + right * angle.sin())).to(activations)

    def _normal(self, knot: torch.Tensor) -> torch.Tensor:
        """Independent standard normal numbers, float64 [..., len(indices)], by knot and neuron (Box and Muller)."""
        import torch

        states = [np.random.SeedSequence([self.seed, self.layer, i]).generate_state(2) for i in self.indices]
        first, second = torch.tensor(np.array(states, dtype=np.int64).T, device=knot.device)
        counter = knot.nan_to_num().clamp(-(2.0**31), 2.0**31).long() & WORD
        u, v = ((mixed(mixed(counter ^ a) + b & WORD) + 0.5) / 2**32 for a, b in ((first, second), (second, first)))
        return (-2 * u.log()).sqrt() * (2 * math.pi * v).cos()


def mixed(word: torch.Tensor) -> torch.Tensor:
    """A hash of 32-bit words (held in int64) to such words, one to one, in which every bit depends on every other.

    The constants are those of Wellons' lowbias32.
    """
    word = (word ^ (word >> 16)) * 0x7FEB352D & WORD
    word = (word ^ (word >> 15)) * 0x846CA68B & WORD
    return word ^ (word >> 16)
