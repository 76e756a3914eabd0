"""What verdicts promise beside the error of the tests: effects that would be found, and differences that are small."""

from __future__ import annotations

import numpy as np

from calibrating.data import RealSets, events, fact_numbers, mean, share
from calibrating.neurons import normal_sets
from calibrating.rates import Bound, Rate, rate
from harness.files.wording import counted
from harness.statistics import ALPHA, Circumstances, Measure, family_of, step_down_min_p, summarise, verdict
from harness.statistics.power import Spread, cautious, detectable
from harness.statistics.verdicts import reach, would_be_found

RESAMPLES = 400

FACTS = 100

PLANNED = "harness plan: what it calls the smallest effect is found"


def detected(runs: int, rng: np.random.Generator, real: RealSets) -> list[Rate]:
    """One run names the smallest effect that it would have found; another run, with other facts and sets, has it."""
    rates = []
    for m in (100, 999):
        for place in (real.names.index(name) for name in ("GTS", "entropy_change", "log_odds_shift_CK_PK")):
            found = []
            for _ in range(runs if m == 100 else runs // 3):
                effect = _detectable(real, place, m, rng)
                found.append(_planted(real, place, m, FACTS, effect, rng))
            setting = f"{real.names[place]}, {FACTS} facts, six measures, m = {m}"
            claim = 'an effect of "about 75% of such runs find" (MDE): found'
            rates.append(rate(claim, setting, found, "near", 0.75))
    return rates


def _detectable(real: RealSets, place: int, m: int, rng: np.random.Generator) -> float:
    """What a run of a random set would have found."""
    sets, facts = _drawn(real, m, FACTS, rng)
    values = _values(real, sets, facts)
    family = family_of(values[:, 0].tolist(), values[:, 1:], [0.0] * len(values))
    summary = summarise(real.run(place, sets, facts), np.arange(FACTS), int(rng.integers(2**32)), RESAMPLES)
    found = would_be_found(summary, family)
    assert found is not None
    return found[0]


def _drawn(real: RealSets, m: int, facts: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.choice(real.values.shape[1], m + 1, replace=False), rng.integers(real.facts_there, size=facts)


def _values(real: RealSets, sets: np.ndarray, facts: np.ndarray) -> np.ndarray:
    """Every measure's value of every set [n_measures, len(sets)]."""
    return np.array([real.run(i, sets, facts).values[1:] for i in range(len(real.names))])


def _planted(real: RealSets, place: int, m: int, n: int, effect: float, rng: np.random.Generator) -> bool:
    """Whether a set is found whose true value lies ``effect`` above the mean of all sets, on ``n`` new facts."""
    sets, facts = _drawn(real, m, n, rng)
    values = _values(real, sets, facts)
    own = real.values[place, sets[0]]  # of the drawn set, on all facts: the rest is the noise of these
    values[place, 0] += real.values[place].mean() + effect - own
    p = step_down_min_p(values[:, 0], values[:, 1:])[place]
    return p is not None and p <= ALPHA


def planned(runs: int, rng: np.random.Generator, real: RealSets) -> list[Rate]:
    """The formula behind ``harness plan``: effects that it says are found in about 80% of runs."""
    rates = []
    for k in (1, 6):
        for m in (19, 39, 99, 999):
            for lasting, noise in ((1.0, 0.3), (1.0, 1.0)):
                spread = Spread(float(np.hypot(lasting, noise)), noise, FACTS)
                effect, found = detectable(spread, FACTS, m, k), []
                for _ in range(runs):
                    treated, controls = normal_sets(m, rng, k, 0.0)
                    treated[0] = effect + noise * rng.normal()
                    p = step_down_min_p(treated, controls * np.hypot(lasting, noise))[0]
                    found.append(p is not None and p <= ALPHA)
                # Of few rows the treated one is a large part, and the formula is on the safe side.
                bound: Bound = "near" if m >= 99 else "shown"
                noisy = "facts as noisy as sets" if noise == 1 else "many facts"
                setting = f"normal sets, {counted(k, 'measure')}, m = {m}, {noisy}"
                rates.append(rate(PLANNED, setting, found, bound, 0.8))
    pilots = max(10, runs // 20)
    for name in ("GTS", "entropy_change"):
        found, place = [], real.names.index(name)
        for _ in range(pilots):
            sets, facts = _drawn(real, 100, FACTS, rng)
            values = _values(real, sets, facts)
            family = family_of(values[:, 0].tolist(), values[:, 1:], [0.0] * len(values))
            seen = summarise(real.run(place, sets, facts), np.arange(FACTS), int(rng.integers(2**32)), RESAMPLES)
            times = reach(seen, family)
            assert seen.spread is not None and times is not None
            effect = times[0] * detectable(cautious(seen.spread, 100), 250, 999, 6)
            found += [_planted(real, place, 999, 250, effect, rng) for _ in range(5)]
        setting = f"{name} of real sets: 100 sets on {FACTS} facts seen, run of 999 on 250"
        rates.append(rate(PLANNED, setting, found))
    return rates


def equivalence(runs: int, rng: np.random.Generator, real: RealSets) -> list[Rate]:
    """ "No more than d apart" where the true difference is d, and where there is none."""
    m, d, rates = 100, 0.05, []
    for title, make in (("share 0.1", _shares), ("normal mean", _means)):
        for facts in (30, 100):
            for times in (1.0, -1.0, 0.0):
                said = []
                for _ in range(runs):
                    measure = make(times * d, m, facts, rng)
                    summary = summarise(measure, fact_numbers(facts), int(rng.integers(2**32)), RESAMPLES)
                    values = measure.values
                    family = family_of([float(values[1])], values[None, 2:], [0.0])
                    said.append(verdict(summary, family, 0, Circumstances(margin=d)).word == "no more than d apart")
                apart = f"{times:+g} d" if times else "0"
                setting = f"{title}, {facts} facts, true difference {apart}"
                claim = '"no more than d apart" is said'
                rates.append(rate(claim, setting, said, "at most" if times else "shown", ALPHA))
    return rates


def _shares(difference: float, m: int, facts: int, rng: np.random.Generator) -> Measure:
    own = np.concatenate([[0.1 + difference], 0.1 * rng.gamma(25, 1 / 25, m)])
    return share(events(own, 0.3, facts, rng))


def _means(difference: float, m: int, facts: int, rng: np.random.Generator) -> Measure:
    own = np.concatenate([[difference], 0.02 * rng.normal(size=m)])
    noise = 0.15 * rng.normal(size=(m + 1, 1, facts)) + 0.15 * rng.normal(size=(m + 1, 3, facts))
    return mean(own[:, None] + noise.transpose(0, 2, 1).reshape(m + 1, -1))
