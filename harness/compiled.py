"""Compiled loops behind :mod:`harness.kernels`; imported only where they run, because importing numba takes a while.

Arrays as in :class:`harness.kernels.System`. Every (condition, place) is computed by one thread alone and in one order
that the source fixes (sums run in ``LANES`` lanes; the compiler may not reassociate them), so results depend neither on
the number of threads nor on what the compiler found profitable.
"""

# No postponed annotations here, and plain loops: this is the part of Python that numba compiles.
from typing import Any

import numpy as np
from numba import njit

LANES = 16
FLAGS = {"nnan", "ninf", "nsz", "arcp", "contract", "afn"}  # all of fastmath but reassoc

f32 = np.float32


@njit(inline="always", fastmath=FLAGS, cache=True, error_model="numpy")
def exp(x: Any) -> Any:
    """e^x for -1e4 <= x <= 0, relative error below 3e-7: 2^n times a polynomial for the fraction; vectorises."""
    t = max(x * f32(1.4426950408889634), f32(-126.0))
    n = np.floor(t + f32(0.5))
    f = t - n  # in [-0.5, 0.5], where six terms of the Taylor series of 2^f do
    p = f32(1.5403530e-4)
    p = p * f + f32(1.3333558e-3)
    p = p * f + f32(9.6181291e-3)
    p = p * f + f32(5.5504109e-2)
    p = p * f + f32(2.4022651e-1)
    p = p * f + f32(6.9314718e-1)
    p = p * f + f32(1.0)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(f32)


@njit(inline="always", fastmath=FLAGS, cache=True, error_model="numpy")
def logits_of(
    base: Any, second: Any, columns: Any, constant: Any, indices: Any, delta: Any, scale: Any, share: Any, out: Any
) -> Any:
    """Write the logits [V] of one condition at one place to ``out``; returns the largest."""
    for v in range(out.shape[0]):
        out[v] = base[v]
    if second.shape[0]:
        for v in range(out.shape[0]):
            out[v] += share * second[v]
    for j in range(indices.shape[0]):
        d, column = delta[j], columns[indices[j]]
        if d != 0:
            for v in range(out.shape[0]):
                out[v] += d * column[v]
    top = f32(-3.4e38)
    for v in range(out.shape[0]):
        value = out[v] * scale + constant[v]
        out[v] = value
        top = max(top, value)
    return top


@njit(inline="always", cache=True, error_model="numpy")
def first(values: Any, wanted: Any) -> Any:
    """Smallest index at which ``wanted`` stands; -1 if nowhere."""
    for v in range(values.shape[0]):
        if values[v] == wanted:
            return v
    return -1


@njit(nogil=True, fastmath=FLAGS, cache=True, error_model="numpy")
def summarise(
    base: Any, second: Any, columns: Any, constant: Any, indices: Any, delta: Any, scale: Any, share: Any, at: Any,
    target: Any, best: Any, normaliser: Any, entropy: Any, reached: Any,
) -> None:  # fmt: skip
    """Fill ``best``, ``normaliser``, ``entropy`` and ``reached`` [C, R]."""
    n, rows = at.shape
    whole = base.shape[1] // LANES * LANES
    values, totals, spreads = np.empty(base.shape[1], f32), np.empty(LANES, f32), np.empty(LANES, f32)
    for c in range(n):
        for r in range(rows):
            b = at[c, r]
            top = logits_of(
                base[b], second[b] if second.shape[0] else constant[:0], columns, constant, indices[c], delta[c, r],
                scale[c, r], share[c, r], values,
            )  # fmt: skip
            totals[:], spreads[:] = f32(0), f32(0)
            for start in range(0, whole, LANES):
                for lane in range(LANES):
                    x = max(values[start + lane] - top, f32(-1e4))
                    weight = exp(x)
                    totals[lane] += weight
                    spreads[lane] += weight * x
            total, spread = f32(0), f32(0)
            for lane in range(LANES):
                total += totals[lane]
                spread += spreads[lane]
            for v in range(whole, values.shape[0]):
                x = max(values[v] - top, f32(-1e4))
                total += exp(x)
                spread += exp(x) * x
            count = 0
            if target[r] >= 0:
                wanted = values[target[r]]
                for v in range(values.shape[0]):
                    count += values[v] >= wanted
            best[c, r] = first(values, top)
            normaliser[c, r] = np.log(total) + top
            entropy[c, r] = np.log(total) - spread / total
            reached[c, r] = count


@njit(nogil=True, cache=True, error_model="numpy")
def choose(
    base: Any, second: Any, columns: Any, constant: Any, indices: Any, delta: Any, scale: Any, share: Any, at: Any,
    candidates: Any, bounds: Any, reach: Any, best: Any, slack: float,
) -> Any:  # fmt: skip
    """Fill ``best`` [C, R]; False where a logit is not finite. ``bounds`` and ``reach``: harness.kernels."""
    n, rows = at.shape
    values, wrong = np.empty(base.shape[1], f32), 0
    for c in range(n):
        for r in range(rows):
            b, s, t = at[c, r], scale[c, r], share[c, r]
            top, chosen = f32(-3.4e38), -1
            for i in range(candidates.shape[1]):
                v = candidates[b, i]
                value = base[b, v]
                if second.shape[0]:
                    value += t * second[b, v]
                for j in range(indices.shape[1]):
                    value += delta[c, r, j] * columns[indices[c, j], v]
                value = value * s + constant[v]
                if value > top:
                    top, chosen = value, v
            push = f32(0)
            for j in range(indices.shape[1]):
                push += abs(delta[c, r, j]) * reach[indices[c, j]]
            bound = bounds[b, 0] + bounds[b, 1] * abs(s - bounds[b, 3])
            bound += s * (push + bounds[b, 2] * abs(t - bounds[b, 4]))
            if not (top > bound + slack * (abs(bound) + abs(top)) + slack and np.isfinite(top)):
                top = logits_of(
                    base[b], second[b] if second.shape[0] else constant[:0], columns, constant, indices[c],
                    delta[c, r], s, t, values,
                )  # fmt: skip
                chosen = first(values, top)
                wrong += chosen < 0 or not np.isfinite(top)
            best[c, r] = max(chosen, 0)
    return wrong == 0
