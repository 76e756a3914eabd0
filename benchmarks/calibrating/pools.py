"""Which sets are the selected ones compared with? Small pools, matched controls, selections that looked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from calibrating.data import RealSets
from calibrating.neurons import two_sided
from calibrating.rates import Rate, rate
from harness.conditions.conditions import Selection
from harness.conditions.units import Neuron
from harness.controls.matched import LARGE_SMD, balance, matched_sets
from harness.controls.random import draw_controls, random_controls
from harness.statistics import ALPHA

K, SETS = 6, 199


def small(runs: int, rng: np.random.Generator, real: RealSets) -> list[Rate]:
    """A random six of few neurons that all have their own, skewed effects."""
    rates = []
    for n in (20, 40, 3072):
        model: Any = SimpleNamespace(anatomy=SimpleNamespace(d_mlp=n, d_mlps={0: n}, n_heads=0))
        found = np.empty((runs, 3))
        for run in range(runs):
            effects = rng.gamma(1.0, size=n)
            chosen = np.sort(rng.choice(n, K, replace=False))
            neurons = tuple(Neuron(0, int(i)) for i in chosen)
            seed = int(rng.integers(2**32))
            drawn = draw_controls(model, Selection(neurons, "random"), SETS, None, "none", [], 1, seed).sets
            apart = random_controls(neurons, SETS, {0: sorted(set(range(n)) - set(chosen.tolist()))}, seed)
            strong = effects.copy()
            strong[chosen] += 3
            found[run] = (
                _found(effects, neurons, drawn),
                _found(effects, neurons, apart),
                _found(strong, neurons, drawn),
            )
        claim, setting = "pool: P(p <= .05), random set", f"{K} of {n} neurons, m = {SETS}"
        rates.append(rate(claim, setting, found[:, 0], "at most", ALPHA, ("selected ones kept out", found[:, 1])))
        rates.append(rate("pool: power, selected ones 3 sd above it", setting, found[:, 2]))
    return rates


def _found(effects: np.ndarray, chosen: tuple[Neuron, ...], sets: Any) -> bool:
    def value(units: Any) -> float:
        return float(effects[[unit.index for unit in units]].sum())

    return two_sided(value(chosen), np.array([value(units) for units in sets])) <= ALPHA


def matched(runs: int, rng: np.random.Generator, real: RealSets) -> list[Rate]:
    """Neurons that do what their norm makes them do, selected by norm, beside controls that are matched by it."""
    n, rates = 3072, []
    for title, top in (("the 6 of largest norm", K), ("6 of the 600 of largest norm", 600)):
        found = np.empty((runs, 3))
        for run in range(runs):
            norms = rng.normal(size=n)
            effects = norms + rng.normal(size=n)
            chosen = rng.choice(np.argsort(-norms)[:top], K, replace=False)
            neurons = [Neuron(0, int(i)) for i in np.sort(chosen)]
            pool = {0: sorted(set(range(n)) - set(chosen.tolist()))}
            sets = matched_sets(neurons, SETS, pool, {0: norms}, int(rng.integers(2**32)))
            smd = balance(neurons, pool, sets, {0: norms}, "norm")["smd"]
            significant = _found(effects, tuple(neurons), sets)
            blocked = abs(smd) > LARGE_SMD
            found[run] = significant, significant and not blocked, blocked
        setting = f"{title} of {n}, blocked in {found[:, 2].mean():.0%} of runs"
        claim, beside = 'matched by norm, which explains all: P("more" or "less")', ("p <= .05", found[:, 0])
        rates.append(rate(claim, setting, found[:, 1], "at most", ALPHA, beside))
    return rates


def hold_out(runs: int, rng: np.random.Generator, real: RealSets) -> list[Rate]:
    """A selector that takes the six neurons with the largest change, of 500 that all do nothing but noise."""
    neurons, facts, m = 500, 100, 999
    found = np.empty((runs, 2))
    for run in range(runs):
        change = rng.normal(size=(neurons, facts))
        sets = np.argsort(rng.random((m, neurons)), axis=1)[:, :K]
        for column, (seen, tested) in enumerate(((slice(None), slice(None)), (slice(50), slice(50, None)))):
            top = np.argsort(-change[:, seen].mean(axis=1))[:K]
            effect = change[:, tested].mean(axis=1)
            found[run, column] = two_sided(effect[top].mean(), effect[sets].mean(axis=1)) <= ALPHA
    claim, setting = "selector that looks, no neuron does anything: P(p <= .05)", "--hold_out 0.5 of 100 facts"
    return [rate(claim, setting, found[:, 1], "at most", ALPHA, ("same facts for both", found[:, 0]))]
