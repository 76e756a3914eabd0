"""A measured rate beside the promised one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from calibrating.data import RealSets

ERRORS = 3
"""A rate keeps its promise within so many Monte Carlo standard errors: of a hundred true promises none is to look
broken."""

NEAR = 0.1
"""How far off an approximation may be."""

Bound: TypeAlias = Literal["at most", "at least", "about", "near", "shown"]

Found: TypeAlias = Sequence[float] | np.ndarray
"""What every simulated run found [runs]: a truth value, or a share of several."""


@dataclass(frozen=True)
class Rate:
    """One row of the table.

    Attributes:
        rate: mean over the simulated runs. error: its Monte Carlo standard error. runs: how many.
        bound: what is promised of the rate: to be "at most", "at least" or "about" the nominal one, or, of what is
            called an approximation, "near" it; "shown": nothing, it is there to be known.
        beside: the rate of something else on the same runs, and what that is.
    """

    claim: str
    setting: str
    rate: float
    error: float
    runs: int
    bound: Bound = "shown"
    nominal: float | None = None
    beside: tuple[str, float] | None = None

    @property
    def ok(self) -> bool | None:
        """Whether the promise is kept within Monte Carlo error; None where nothing is promised."""
        if self.bound == "shown" or self.nominal is None:
            return None
        # The error that a true promise would have, too: no run of 500 with an event does not make the error 0.
        slack = ERRORS * max(self.error, (self.nominal * (1 - self.nominal) / self.runs) ** 0.5)
        slack += NEAR if self.bound == "near" else 0.0
        above, below = self.rate > self.nominal + slack, self.rate < self.nominal - slack
        return not {"at most": above, "at least": below}.get(self.bound, above or below)


def rate(
    claim: str,
    setting: str,
    found: Found,
    bound: Bound = "shown",
    nominal: float | None = None,
    beside: tuple[str, Found] | None = None,
) -> Rate:
    """The rate of what every simulated run found."""
    values = np.asarray(found, dtype=np.float64)
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    other = None if beside is None else (beside[0], float(np.mean(beside[1])))
    return Rate(claim, setting, float(values.mean()), error, len(values), bound, nominal, other)


Simulation: TypeAlias = Callable[[int, np.random.Generator, RealSets], list[Rate]]
"""Runs to simulate, generator, real control sets -> rates."""
