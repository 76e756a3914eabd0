"""Which neurons? Rates of errors and powers of the tests against control sets."""

from __future__ import annotations

import numpy as np

from calibrating.data import RealSets
from calibrating.rates import Rate, rate
from harness.statistics import ALPHA, adjust, permutation_test, step_down_min_p

SETS = (100, 999)
"""Control sets of a run: the defaults of the two engines."""

COUNTS, EFFECT = 2.2, 3.5
"""Planted effects: counts that are so many times as large, log-odds that are so many sd higher."""


def single(runs: int, rng: np.random.Generator, real: RealSets) -> list[Rate]:
    """One measure, a random treated set: how often is p <= 0.05?"""
    rates = []
    for m in SETS:
        draws = (real.draw(m, rng) for _ in range(runs))
        found = np.array([[two_sided(t, c) <= ALPHA for t, c in zip(*one, strict=True)] for one in draws])
        rates += [
            rate("one p: P(p <= .05), random set", f"{name}, real sets, m = {m}", column, "at most", ALPHA)
            for name, column in zip(real.names, found.T, strict=True)
        ]
    return rates


def magnitude(runs: int, rng: np.random.Generator, real: RealSets) -> list[Rate]:
    """The rank of |value - null|: right for a random set, and able to show that a set does less."""
    signed = [i for i, x in enumerate(real.measures) if x.unit == "nats"]
    false, less, plain = [], [], []
    for _ in range(runs):
        treated, controls = real.draw(999, rng)
        for i in signed:
            false.append(two_sided(abs(treated[i]), np.abs(controls[i])) <= ALPHA)
            still = treated[i] / 100  # it does next to nothing
            less.append(two_sided(abs(still), np.abs(controls[i])) <= ALPHA)
            plain.append(two_sided(still, controls[i]) <= ALPHA)
    setting = "change of entropy, log-odds; real sets, m = 999"
    power = "rank of |v - null|: power, a set that does 1% as much"
    return [
        rate("rank of |v - null|: P(p <= .05), random set", setting, false, "at most", ALPHA),
        rate(power, setting, less, beside=("rank of v", plain)),
    ]


def two_sided(treated: float, controls: np.ndarray) -> float:
    """p of one measure; 1 where there is none."""
    p = permutation_test(float(treated), controls).p_two_sided
    return 1.0 if p is None else p


# -- a family of measures ----------------------------------------------------------------------------------------------


def normal_sets(m: int, rng: np.random.Generator, k: int = 6, r: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Six normal measures that correlate by ``r``: treated [k], controls [k, m]."""
    values = np.sqrt(r) * rng.normal(size=(1, m + 1)) + np.sqrt(1 - r) * rng.normal(size=(k, m + 1))
    return values[:, 0], values[:, 1:]


def rare_counts(m: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Six counts, most sets' 0 to 3, two of them always 0; they share a set's strength."""
    strength = rng.gamma(2.0, 0.5, m + 1)
    values = rng.poisson(np.array([0.0, 0.0, 0.3, 0.5, 1.0, 3.0])[:, None] * strength).astype(np.float64)
    return values[:, 0], values[:, 1:]


def family(runs: int, rng: np.random.Generator, real: RealSets) -> list[Rate]:
    """Six measures of a random set: how often is any adjusted p <= 0.05?"""
    claim, sources = "six measures, Westfall-Young: P(any adjusted p <= .05)", {
        "real sets": real.draw,
        "normal, r = .5": normal_sets,
        "rare counts, two of them always 0": rare_counts,
    }  # fmt: skip
    return [
        rate(
            claim,
            f"random set, {name}, m = {m}",
            [any(_below(step_down_min_p(*draw(m, rng)))) for _ in range(runs)],
            "at most",
            ALPHA,
        )
        for name, draw in sources.items()
        for m in SETS
    ]


def strong(runs: int, rng: np.random.Generator, real: RealSets) -> list[Rate]:
    """Three true effects and three nulls: how often is a null rejected?"""
    rates = []
    for name, draw in (("real sets", real.draw), ("normal, r = .5", normal_sets)):
        for m in SETS:
            false = []
            for _ in range(runs):
                treated, controls = draw(m, rng)
                true = rng.permutation(len(treated))[:3]
                treated = treated.copy()
                treated[true] += 5 * controls[true].std(axis=1)
                false.append(any(np.delete(_below(step_down_min_p(treated, controls)), true)))
            claim = "three true effects: P(any adjusted p of the other three <= .05)"
            rates.append(rate(claim, f"effects of 5 sd, {name}, m = {m}", false, "at most", ALPHA))
    return rates


def power(runs: int, rng: np.random.Generator, real: RealSets) -> list[Rate]:
    """An effect on one of six measures: how often is its adjusted p <= 0.05, by Westfall-Young and by Holm?"""
    rates = []
    effects = {
        f"GTS x {COUNTS}": ("GTS", COUNTS, 0.0),
        f"log-odds + {EFFECT} sd": ("log_odds_shift_CK_PK", 1.0, EFFECT),
    }
    for title, (name, times, plus) in effects.items():
        i = real.names.index(name)
        for m in SETS:
            found = np.empty((runs, 2))
            for run in range(runs):
                treated, controls = real.draw(m, rng)
                treated = treated.copy()
                treated[i] = times * treated[i] + plus * controls[i].std()
                holm = adjust([two_sided(t, c) for t, c in zip(treated, controls, strict=True)], "holm")
                found[run] = _below(step_down_min_p(treated, controls))[i], _below(holm)[i]
            claim, setting = "power of one of six measures, Westfall-Young", f"{title}, real sets, m = {m}"
            rates.append(rate(claim, setting, found[:, 0], beside=("Holm", found[:, 1])))
    return rates


def _below(p: list[float | None]) -> list[bool]:
    return [x is not None and x <= ALPHA for x in p]
