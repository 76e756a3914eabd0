"""Which prompts? Coverage of the intervals, and tests of the transition table, with facts of three prompts."""

from __future__ import annotations

import numpy as np

from calibrating.data import PROMPTS, RealSets, events, fact_numbers, mean, share
from calibrating.rates import Bound, Rate, rate
from harness.statistics import (
    ALPHA,
    Interval,
    Measure,
    design_effect,
    korn_graubard,
    summarise,
    table_tests,
)
from harness.statistics.bootstrap import resampled

LEVEL = 0.95
RESAMPLES = 1000


def covers(interval: Interval | tuple[float, float] | None, truth: float) -> bool:
    """Whether the truth is in it; an interval that is not given promises nothing wrong and covers."""
    if interval is None:
        return True
    low, high = (interval.low, interval.high) if isinstance(interval, Interval) else interval
    return low <= truth <= high


def plain(measure: Measure, clusters: np.ndarray, seed: int) -> tuple[float, float]:
    """The percentile bootstrap over facts, as it stands in textbooks."""
    drawn = np.concatenate(list(resampled(measure, [1], clusters, seed, RESAMPLES)))
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def shares(runs: int, rng: np.random.Generator, real: RealSets) -> list[Rate]:
    """Shares of prompts whose three a fact are alike: Korn-Graubard beside the percentile bootstrap."""
    rates = []
    for facts, icc in ((8, 0.3), (30, 0.3), (100, 0.3), (300, 0.3), (100, 1.0)):
        clusters = fact_numbers(facts)
        for p in (0.003, 0.01, 0.03, 0.1, 0.5):
            found = np.empty((runs, 2))
            empty = []
            for run in range(runs):
                # The controls' own shares differ; a design effect is pooled over all of them.
                own = np.concatenate([[p], np.clip(p * rng.gamma(4, 1 / 4, 20), 0, 1)])
                measure = share(events(own, icc, facts, rng))
                count, n = int(measure.numerator[1].sum()), measure.numerator.shape[1]
                exact = korn_graubard(count, n, design_effect(measure, clusters), facts, LEVEL)
                resampled = plain(measure, clusters, int(rng.integers(2**32)))
                found[run] = covers(exact, p), covers(resampled, p)
                if count == 0:
                    empty.append(found[run, 0])
            alike = " that move as one" if icc == 1 else ""
            setting = f"{facts} facts{alike}, true share {p:g}, {len(empty) / runs:.0%} of runs without event"
            claim, beside = "share, Korn-Graubard: coverage", ("percentile bootstrap", found[:, 1])
            rates.append(rate(claim, setting, found[:, 0], "at least", LEVEL, beside))
    return rates


def _skewed(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Log-normal with sigma 1: skewness 6, mean e^(1/2)."""
    return rng.lognormal(size=shape)


def _normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return 0.3 + rng.normal(size=shape)


def means(runs: int, rng: np.random.Generator, real: RealSets) -> list[Rate]:
    """Means over all prompts, and ratios over those that count (half of them), of few and many facts."""
    rates = []
    for title, drawn, truth in (("normal", _normal, 0.3), ("skewed", _skewed, float(np.exp(0.5)))):
        for kind in ("mean", "ratio"):
            for facts in (5, 8, 12, 30, 100):
                clusters, found = fact_numbers(facts), np.empty((runs, 2))
                for run in range(runs):
                    own = np.repeat(drawn((3, facts), rng), PROMPTS, axis=1)
                    noise = drawn((3, facts * PROMPTS), rng)
                    counts = rng.random(own.shape) < 0.5 if kind == "ratio" else None
                    measure = mean((own + noise) / 2, counts)
                    seed = int(rng.integers(2**32))
                    shown = summarise(measure, clusters, seed, RESAMPLES).interval
                    found[run] = covers(shown, truth), covers(plain(measure, clusters, seed), truth)
                # Few facts of a skewed measure are what the report remarks on: nothing is promised.
                bound: Bound = "about" if title == "normal" and facts >= 8 else "shown"
                claim, beside = f"{kind}: coverage", ("percentile bootstrap", found[:, 1])
                rates.append(rate(claim, f"{title}, {facts} facts", found[:, 0], bound, LEVEL, beside))
    return rates


def differences(runs: int, rng: np.random.Generator, real: RealSets) -> list[Rate]:
    """Treated minus the mean of all random sets, on other prompts: each set has its own true value."""
    m, rates = 50, []
    for facts in (30, 100):
        clusters = fact_numbers(facts)
        for p in (0.01, 0.1):
            found = []
            for _ in range(runs):
                own = np.concatenate([[p], np.clip(p * rng.gamma(4, 1 / 2, m), 0, 1)])
                measure = share(events(own, 0.3, facts, rng))
                shown = summarise(measure, clusters, int(rng.integers(2**32)), RESAMPLES).difference_interval
                found.append(covers(shown, p - 2 * p))
            setting = f"share {p:g}, controls twice that, {facts} facts"
            rates.append(rate("difference to the controls: coverage", setting, found, "at least", LEVEL))
        found = []
        for _ in range(runs):
            own = rng.normal(size=m + 1)
            fact = np.repeat(rng.normal(size=(m + 1, facts)) + rng.normal(size=facts), PROMPTS, axis=1)
            measure = mean(own[:, None] + fact + rng.normal(size=(m + 1, facts * PROMPTS)))
            shown = summarise(measure, clusters, int(rng.integers(2**32)), RESAMPLES).difference_interval
            found.append(covers(shown, own[0]))
        setting = f"normal mean, {facts} facts"
        rates.append(rate("difference to the controls: coverage", setting, found, "about", LEVEL))
    return rates


# -- tables ------------------------------------------------------------------------------------------------------------


def moves(
    facts: int, together: bool, moved: float, to_last: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Categories 0 to 2 of the facts' prompts before and after: a share ``moved`` goes to another one.

    ``together``: the three prompts of a fact do the same. ``to_last``: probability that a mover of category 0 goes to 2
    and is not left where it is; a mover from 2 goes to 0 with the opposite one. At 0.5 nothing shifts.
    """
    n = facts if together else facts * PROMPTS
    before = rng.integers(3, size=n)
    moving = rng.random(n) < moved
    after = np.where(moving, (before + rng.integers(1, 3, size=n)) % 3, before)
    between = moving & (before != 1) & (after != 1)
    keep = rng.random(n) < np.where(before == 0, to_last, 1 - to_last)
    after = np.where(between & ~keep, before, after)
    return (np.repeat(before, PROMPTS), np.repeat(after, PROMPTS)) if together else (before, after)


def margins(runs: int, rng: np.random.Generator, real: RealSets) -> list[Rate]:
    """Tests that the margins of the transition table moved: size where nothing shifts, power where something does."""
    rates, facts = [], 100
    for together in (True, False):
        for moved, to_last in ((0.1, 0.5), (0.3, 1.0)):
            found = np.empty((runs, 3))
            for run in range(runs):
                before, after = moves(facts, together, moved, to_last, rng)
                tests = table_tests(before, after, range(3), fact_numbers(facts), int(rng.integers(2**32)))
                ps = tests.margins.p, tests.stuart_maxwell.p, tests.margins.shifts[1].p_adjusted
                found[run] = [p is not None and p <= ALPHA for p in ps]
            how = f"{facts} facts, prompts {'together' if together else 'one by one'}"
            null = to_last == 0.5
            setting = f"{how}, {'10% move' if null else '30% move, between two sources one way'}"
            of = "P(p <= .05), nothing shifts" if null else "power"
            bound: Bound = "at most" if null else "shown"
            claim, beside = f"transition table, facts flipped: {of}", ("Stuart-Maxwell", found[:, 1])
            rates.append(rate(claim, setting, found[:, 0], bound, ALPHA, beside))
            if not null:
                claim = "transition table, step-down |t|: P(adjusted p <= .05), unmoved source"
                rates.append(rate(claim, setting, found[:, 2], "at most", ALPHA))
    return rates
