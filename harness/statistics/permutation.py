"""Which neurons? The treated value among those of the controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.statistics.measure import finite, known_values

ROUNDING = 1e-7
"""Values of a measure that differ by less, and by less than this share of the largest, differ by rounding: outcomes are
float32, and sums of what is alike are not always the same bits."""


def alike(values: np.ndarray, null: float = 0.0) -> np.ndarray:
    """The values with differences of rounding taken away: what is next to ``null`` becomes it.

    Where all lie within rounding of one another, all are the same. Otherwise their distances from ``null`` are rounded.
    """
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return values
    centre = float(null) if np.isfinite(null) else 0.0
    grain = ROUNDING * max(1.0, float(np.abs(finite).max()))
    if float(np.ptp(finite)) <= grain:
        return np.where(np.isfinite(values), finite[0], values)
    return centre + np.round((values - centre) / grain) * grain


@dataclass(frozen=True)
class PermutationTest:
    """Rank of the treated value among ``m`` controls; ``b_greater`` of them are >= it, ``b_less`` are <= it."""

    b_greater: int
    b_less: int
    m: int
    n_nan: int
    """Controls without a value, left out of ``m``."""
    p_greater: float | None
    p_less: float | None
    p_two_sided: float | None
    quantile: float | None
    """Percent of the controls below the treated value, ties counted half (``percentileofscore(kind="mean")``)."""


def permutation_test(treated: float, controls: np.ndarray, null: float = 0.0) -> PermutationTest:
    """Monte-Carlo test: p = (b + 1) / (m + 1), b the controls [m] at least as extreme, ties included.

    The +1 makes the test exact where the treated set is one of m + 1 exchangeable sets (Phipson & Smyth 2010, Stat.
    Appl. Genet. Mol. Biol. 9(1)); :mod:`harness.controls.random` tells how near to that control sets are drawn.
    Two-sided: min(1, 2 min(p_greater, p_less)). All p are None without controls or when ``treated`` is not finite.
    ``null``: the value of no effect, which values within rounding of it are taken for (:func:`alike`).
    """
    known = known_values(controls)
    m, n_nan = len(known), len(controls) - len(known)
    if m == 0 or not np.isfinite(treated):
        return PermutationTest(0, 0, m, n_nan, None, None, None, None)
    treated, *others = alike(np.array([treated, *known]), null).tolist()
    known = np.array(others)
    greater, less = int((known >= treated).sum()), int((known <= treated).sum())
    p_greater, p_less = (greater + 1) / (m + 1), (less + 1) / (m + 1)
    quantile = 100 * (m - greater + less) / (2 * m)
    return PermutationTest(greater, less, m, n_nan, p_greater, p_less, min(1.0, 2 * min(p_greater, p_less)), quantile)


def control_summary(values: np.ndarray) -> dict[str, float | int | None]:
    """Mean, sd (n - 1), standard error, extremes and quantiles of the controls [m]; NaN are dropped and counted."""
    known = known_values(values)
    n, names = len(known), ("min", "q05", "q25", "q50", "q75", "q95", "max")
    quantiles = np.quantile(known, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]) if n else [np.nan] * len(names)
    sd = None if n < 2 else float(known.std(ddof=1)) if np.ptp(known) else 0.0
    return {
        "mean": float(known.mean()) if n else None,
        "sd": sd,
        "standard_error": None if sd is None else float(sd / np.sqrt(n)),
        **{name: finite(value) for name, value in zip(names, quantiles, strict=True)},
        "n": n,
        "n_nan": len(values) - n,
    }


def effect_sizes(treated: float, controls: np.ndarray) -> dict[str, float | None]:
    """How far the treated value lies from the controls [m]; None where undefined.

    ``difference`` = treated - mean; ``ratio_to_median``; ``standardised`` = (treated - mean) / sd; ``robust`` =
    (treated - median) / (1.4826 MAD); ``cliffs_delta`` = share of controls below minus share above, in [-1, 1].
    """
    known = known_values(controls)
    if len(known) == 0 or not np.isfinite(treated):
        return dict.fromkeys(("difference", "ratio_to_median", "standardised", "robust", "cliffs_delta"))
    mean, median, sd = float(known.mean()), float(np.median(known)), control_summary(known)["sd"]
    mad = 1.4826 * float(np.median(np.abs(known - median)))
    return {
        "difference": treated - mean,
        "ratio_to_median": treated / median if median else None,
        "standardised": (treated - mean) / sd if sd else None,
        "robust": (treated - median) / mad if mad else None,
        "cliffs_delta": float(np.sign(treated - known).mean()),
    }


def adjust(p_values: Sequence[float | None], method: Literal["holm", "bh"] = "holm") -> list[float | None]:
    """p adjusted for their number: Holm (familywise error) or Benjamini-Hochberg (false discovery); None stays None."""
    from scipy.stats import false_discovery_control

    known = np.array([p for p in p_values if p is not None])
    if method == "bh":
        adjusted = false_discovery_control(known)
    else:  # not statsmodels' multipletests: it collects garbage in every call, which takes longer than everything here
        order = np.argsort(known)
        adjusted = np.empty_like(known)
        adjusted[order] = np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1)).clip(max=1)
    found = iter(adjusted.tolist())
    return [None if p is None else next(found) for p in p_values]
