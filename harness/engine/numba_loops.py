"""Compiled loops behind :mod:`harness.engine.kernels`; imported only where they run, because importing numba takes a
while.

Arrays as in :class:`harness.engine.kernels.System`. Every (condition, place) is computed by one thread alone and in one
order that the source fixes (sums run in ``LANES`` lanes; the compiler may not reassociate them), so results depend
neither on the number of threads nor on what the compiler found profitable.
"""

# No postponed annotations here, and plain loops: this is the part of Python that numba compiles.
from typing import Any

import numpy as np

from harness.files.cache_folders import njit

LANES = 16
FLAGS = {"nnan", "ninf", "nsz", "arcp", "contract", "afn"}  # all of fastmath but reassoc

f32 = np.float32


@njit(inline="always", fastmath=FLAGS, cache=True, error_model="numpy")
def exp(x: Any) -> Any:
    """e^x for x <= 88, relative error below 3e-7: 2^n times a polynomial for the fraction; vectorises."""
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
    return p * np.int32((n + f32(127.0)) * f32(8388608.0)).view(f32)  # n + 127 in the place of a float's exponent


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
    target: Any, best: Any, normaliser: Any, entropy: Any, reached: Any, confidence: Any,
) -> None:  # fmt: skip
    """Fill ``best``, ``normaliser``, ``entropy``, ``reached`` and ``confidence`` (log p of the best token) [C, R]."""
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
            confidence[c, r] = -np.log(total)


@njit(nogil=True, cache=True, error_model="numpy")
def choose(
    base: Any, second: Any, columns: Any, constant: Any, indices: Any, delta: Any, scale: Any, share: Any, at: Any,
    candidates: Any, bounds: Any, reach: Any, best: Any, slack: float,
) -> Any:  # fmt: skip
    """Fill ``best`` [C, R]; False where a logit is not finite. ``bounds`` and ``reach``: harness.engine.kernels."""
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


TILE = 2048
"""Tokens of the vocabulary that are worked on together: a column's stretch stays in the cache for all places."""

SMALL = 0.125
"""Largest change of a logit for which e^x - 1 is taken from its series, whose error is then below float32's."""


@njit(inline="always", fastmath=FLAGS, cache=True, error_model="numpy")
def expm1_small(x: Any) -> Any:
    """e^x - 1 for |x| <= SMALL."""
    p = f32(1 / 120) * x + f32(1 / 24)
    p = p * x + f32(1 / 6)
    p = p * x + f32(0.5)
    return (p * x + f32(1.0)) * x


@njit(inline="always", fastmath=FLAGS, cache=True, error_model="numpy")
def largest(values: Any) -> Any:
    """Largest magnitude in an array."""
    top = f32(0)
    for v in range(values.shape[0]):
        top = max(top, abs(values[v]))
    return top


@njit(inline="always", fastmath=FLAGS, cache=True, error_model="numpy")
def add_changes(change: Any, p: Any, log_p: Any, small: Any, grown: Any, spread: Any, moved: Any, sums: Any) -> None:
    """Add to ``sums`` [3] over a tile: sum p (e^x - 1), sum p (e^x (l + x) - l), sum p x; x: ``change``, l: ``log_p``.

    ``grown``, ``spread`` and ``moved`` are scratch arrays [LANES].
    """
    n = change.shape[0]
    whole = n // LANES * LANES
    grown[:], spread[:], moved[:] = f32(0), f32(0), f32(0)
    if small:
        for start in range(0, whole, LANES):
            for lane in range(LANES):
                x, w, old = change[start + lane], p[start + lane], log_p[start + lane]
                q = w * expm1_small(x)
                shift = w * x
                grown[lane] += q
                moved[lane] += shift
                spread[lane] += q * (old + x) + shift
    else:
        for start in range(0, whole, LANES):
            for lane in range(LANES):
                x, w, old = change[start + lane], p[start + lane], log_p[start + lane]
                q = w * exp(x) - w
                shift = w * x
                grown[lane] += q
                moved[lane] += shift
                spread[lane] += q * (old + x) + shift
    for v in range(whole, n):
        x, w = change[v], p[v]
        q = w * (expm1_small(x) if small else exp(x) - f32(1))
        grown[0] += q
        moved[0] += w * x
        spread[0] += q * (log_p[v] + x) + w * x
    for lane in range(LANES):
        sums[0] += grown[lane]
        sums[1] += spread[lane]
        sums[2] += moved[lane]


@njit(inline="always", fastmath=FLAGS, cache=True, error_model="numpy")
def write_push(columns: Any, indices: Any, delta: Any, start: int, out: Any) -> None:
    """Write sum_j delta_j columns_j, from token ``start`` of the vocabulary on."""
    out[:] = f32(0)
    for j in range(indices.shape[0]):
        d, column = delta[j], columns[indices[j]]
        for v in range(out.shape[0]):
            out[v] += d * column[start + v]


@njit(inline="always", fastmath=FLAGS, cache=True, error_model="numpy")
def write_change(
    base: Any, push: Any, second: Any, extra: Any, kappa: Any, beta: Any, theta: Any, eta: Any, mean: Any, out: Any
) -> None:
    """Change of the logits on a tile: kappa base + beta push + theta second + eta extra - mean."""
    if kappa == 0:
        for v in range(out.shape[0]):
            out[v] = beta * push[v] - mean
    else:
        for v in range(out.shape[0]):
            out[v] = kappa * base[v] + beta * push[v] - mean
    if theta != 0:
        for v in range(out.shape[0]):
            out[v] += theta * second[v]
    if eta != 0:
        for v in range(out.shape[0]):
            out[v] += eta * extra[v]


@njit(nogil=True, fastmath=FLAGS, cache=True, error_model="numpy")
def changes(
    base: Any, second: Any, columns: Any, extra: Any, log_p: Any, indices: Any, delta: Any, kappa: Any, beta: Any,
    theta: Any, eta: Any, mean: Any, p: Any, reach: Any, wanted: Any, sums: Any,
) -> None:  # fmt: skip
    """Sums over the vocabulary of how conditions change the baseline's distribution p at R places.

    base, log_p, p: [R, V]. second: [R, V] or [0, V]. columns: [m, V]. extra: [V] or [0]. reach [m]: largest magnitude
    of each column. indices: [C, k]. delta: [C, R, k]. kappa, beta, theta, eta, mean: [C, R, E], see
    :func:`write_change`, with push = sum_j delta_j columns_j. sums: float64 [C, R, E, 3], see :func:`add_changes`.
    Only pairs that are ``wanted`` [C, R] are done; their changes must be at most 88, for :func:`exp`.
    """
    n, width = indices.shape
    rows, size = base.shape
    push, change = np.empty(TILE, f32), np.empty(TILE, f32)
    a, b, c_ = np.empty(LANES, f32), np.empty(LANES, f32), np.empty(LANES, f32)
    most, most_second = np.empty(rows, f32), np.zeros(rows, f32)
    for start in range(0, size, TILE):
        stop = min(size, start + TILE)
        length = stop - start
        most_extra = largest(extra[start:stop]) if extra.shape[0] else f32(0)
        for r in range(rows):
            most[r] = largest(base[r, start:stop])
            if second.shape[0]:
                most_second[r] = largest(second[r, start:stop])
        for c in range(n):
            for r in range(rows):
                if not wanted[c, r]:
                    continue
                pushed = f32(0)
                for j in range(width):
                    pushed += abs(delta[c, r, j]) * reach[indices[c, j]]
                if pushed == 0 and width > 0 and kappa[c, r, 0] == 0:
                    continue
                write_push(columns, indices[c], delta[c, r], start, push[:length])
                for e in range(kappa.shape[2]):
                    bound = abs(kappa[c, r, e]) * most[r] + abs(beta[c, r, e]) * pushed
                    bound += abs(theta[c, r, e]) * most_second[r] + abs(eta[c, r, e]) * most_extra
                    bound += abs(mean[c, r, e])
                    write_change(
                        base[r, start:stop], push, second[r, start:stop] if second.shape[0] else push,
                        extra[start:stop] if extra.shape[0] else push, kappa[c, r, e], beta[c, r, e], theta[c, r, e],
                        eta[c, r, e], mean[c, r, e], change[:length],
                    )  # fmt: skip
                    add_changes(
                        change[:length], p[r, start:stop], log_p[r, start:stop], bound <= f32(SMALL), a, b, c_,
                        sums[c, r, e],
                    )  # fmt: skip


@njit(nogil=True, fastmath=FLAGS, cache=True, error_model="numpy")
def ranks(
    base: Any, second: Any, columns: Any, extra: Any, log_p: Any, indices: Any, delta: Any, kappa: Any, beta: Any,
    theta: Any, eta: Any, mean: Any, target: Any, wanted: Any, rank: Any, best: Any, highest: Any,
) -> None:  # fmt: skip
    """Fill ``rank`` of the target [R] (how many other tokens have at least its logit), the ``best`` token and its
    ``highest`` l + x, [C, R, E], of the pairs that are ``wanted`` [C, R]."""
    n = indices.shape[0]
    rows, size = base.shape
    push, values = np.empty(size, f32), np.empty(size, f32)
    for c in range(n):
        for r in range(rows):
            if not wanted[c, r]:
                continue
            write_push(columns, indices[c], delta[c, r], 0, push)
            for e in range(kappa.shape[2]):
                write_change(
                    base[r], push, second[r] if second.shape[0] else push, extra if extra.shape[0] else push,
                    kappa[c, r, e], beta[c, r, e], theta[c, r, e], eta[c, r, e], mean[c, r, e], values,
                )  # fmt: skip
                top = f32(-3.4e38)
                for v in range(size):
                    value = values[v] + log_p[r, v]
                    values[v] = value
                    top = max(top, value)
                own, count = values[target[r]], -1
                for v in range(size):
                    count += values[v] >= own
                rank[c, r, e] = count
                best[c, r, e] = first(values, top)
                highest[c, r, e] = top
