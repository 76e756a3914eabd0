"""Many runs on one board: false findings, and what is found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calibrating.data import RealSets
from calibrating.rates import Rate, rate
from harness.statistics import ALPHA, adjust, step_down_min_p
from harness.statistics.selective import selective_findings

RUNS = {5: 4, 20: 2, 50: 1}
"""Runs of a board, and how many times as many boards of such are simulated as of the largest."""

EFFECT = 4.0
"""sd of the controls."""


def board(runs: int, rng: np.random.Generator, real: RealSets) -> list[Rate]:
    """Boards of runs that share model, prompts and pool: nothing there, or a fifth of the runs with one true effect."""
    rates, m = [], 999
    for n, times in RUNS.items():
        for share in (0.0, 0.2):
            true = round(share * n)
            found = np.empty((times * runs, 5))
            for i in range(len(found)):
                families, effects = _families(n, true, m, rng, real)
                found[i] = _errors(families, effects)
            setting = f"{n} runs, {f'{true} with an effect of {EFFECT:g} sd' if true else 'nothing there'}, m = {m}"
            if true:
                claim = "board, Benjamini-Bogomolov: false ones among selected runs"
                rates.append(rate(claim, setting, found[:, 1], "at most", ALPHA))
                beside = ("Benjamini-Hochberg over rows", found[:, 3])
                rates.append(rate("board, Benjamini-Bogomolov: power", setting, found[:, 2], beside=beside))
            else:
                claim, beside = "board, Benjamini-Bogomolov: P(any false finding)", ("each run by itself", found[:, 0])
                rates.append(rate(claim, setting, found[:, 4], "at most", ALPHA, beside))
    return rates


def _families(
    n: int, true: int, m: int, rng: np.random.Generator, real: RealSets
) -> tuple[list[list[float | None]], list[int | None]]:
    """Adjusted p of each run's measures, and which of them has an effect."""
    families, effects = [], []
    for run in range(n):
        treated, controls = real.draw(m, rng)
        effect = int(rng.integers(len(treated))) if run < true else None
        if effect is not None:
            treated = treated.copy()
            treated[effect] += EFFECT * controls[effect].std()
        families.append(step_down_min_p(treated, controls))
        effects.append(effect)
    return families, effects


def _errors(families: list[list[float | None]], effects: list[int | None]) -> tuple[float, ...]:
    """Any false finding without a correction; share of the selected runs with a false one; found of the true; the same
    by Benjamini-Hochberg over all rows; any false one by Benjamini-Bogomolov."""
    null = [[j != effect for j in range(len(f))] for f, effect in zip(families, effects, strict=True)]

    def false(found: Sequence[bool | None], nulls: Sequence[bool]) -> bool:
        return any(x and y for x, y in zip(found, nulls, strict=True))

    plain = [[p is not None and p <= ALPHA for p in family] for family in families]
    kept = selective_findings(families, ALPHA)
    wrong = [false(f, x) for f, x in zip(kept.findings, null, strict=True)]
    places = [(i, effect) for i, effect in enumerate(effects) if effect is not None]
    rows = iter(adjust([p for family in families for p in family], "bh"))
    together = [[(p := next(rows)) is not None and p <= ALPHA for _ in family] for family in families]
    power = [np.mean([bool(f[i][j]) for i, j in places]) if places else 0.0 for f in (kept.findings, together)]
    any_plain = any(false(f, x) for f, x in zip(plain, null, strict=True))
    return float(any_plain), sum(wrong) / max(kept.selected, 1), float(power[0]), float(power[1]), float(any(wrong))
