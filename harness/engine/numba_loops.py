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

LANES, WIDE = 16, 64
TILE = 2048
"""Tokens of the vocabulary that are worked on together: a column's stretch stays in the cache for all places."""

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
    base: Any, second: Any, columns: Any, constant: Any, start: int, indices: Any, delta: Any, scale: Any, share: Any,
    out: Any,
) -> None:  # fmt: skip
    """Write the logits of one condition at one place to ``out``, from token ``start`` on."""
    n, width = out.shape[0], indices.shape[0]
    stop = start + n
    add = constant[start:stop]
    own = base[start:stop]
    for v in range(n):
        out[v] = own[v]
    if second.shape[0]:
        other = second[start:stop]
        for v in range(n):
            out[v] += share * other[v]
    whole = width // 3 * 3  # three columns at a time: what is added up is loaded and stored less often
    for j in range(0, whole, 3):
        d, e, f = delta[j], delta[j + 1], delta[j + 2]
        if d != 0 or e != 0 or f != 0:
            one, two = columns[indices[j], start:stop], columns[indices[j + 1], start:stop]
            three = columns[indices[j + 2], start:stop]
            for v in range(n):
                out[v] += d * one[v] + e * two[v] + f * three[v]
    for j in range(whole, width):
        d, one = delta[j], columns[indices[j], start:stop]
        if d != 0:
            for v in range(n):
                out[v] += d * one[v]
    for v in range(n):
        out[v] = out[v] * scale + add[v]


@njit(inline="always", fastmath=FLAGS, cache=True, error_model="numpy")
def highest(values: Any, tops: Any) -> Any:
    """Largest of the values; ``tops`` is a scratch array [WIDE]: so many maxima, side by side, vectorise."""
    tops[:] = f32(-3.4e38)
    whole = values.shape[0] // WIDE * WIDE
    for start in range(0, whole, WIDE):
        here = values[start : start + WIDE]
        for lane in range(WIDE):
            x, y = here[lane], tops[lane]
            tops[lane] = x if x > y else y
    top = f32(-3.4e38)
    for lane in range(WIDE):
        top = max(top, tops[lane])
    for v in range(whole, values.shape[0]):
        top = max(top, values[v])
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
    offset: int, target: Any, own: Any, best: Any, top: Any, total: Any, spread: Any, reached: Any,
) -> None:  # fmt: skip
    """Add tokens, the first of which is ``offset``, to :class:`harness.engine.kernels.Sums` [C, R].

    target [R]: the tokens whose logits ``own`` [C, R] the others are compared with, as places here; below -offset:
    none.
    """
    n, rows = at.shape
    size = base.shape[1]
    values, tops = np.empty(TILE, f32), np.empty(WIDE, f32)
    totals, spreads = np.empty(LANES, f32), np.empty(LANES, f32)
    for start in range(0, size, TILE):
        out = values[: min(TILE, size - start)]
        whole = out.shape[0] // LANES * LANES
        for c in range(n):
            for r in range(rows):
                b = at[c, r]
                logits_of(
                    base[b], second[b] if second.shape[0] else constant[:0], columns, constant, start, indices[c],
                    delta[c, r], scale[c, r], share[c, r], out,
                )  # fmt: skip
                high = highest(out, tops)
                old = top[c, r]
                if high > old:
                    shrink = exp(max(old - high, f32(-1e4)))
                    spread[c, r] = shrink * (spread[c, r] + max(old - high, f32(-1e4)) * total[c, r])
                    total[c, r] *= shrink
                    top[c, r] = high
                    best[c, r] = offset + start + first(out, high)
                high = top[c, r]
                totals[:], spreads[:] = f32(0), f32(0)
                for begin in range(0, whole, LANES):
                    for lane in range(LANES):
                        x = max(out[begin + lane] - high, f32(-1e4))
                        weight = exp(x)
                        totals[lane] += weight
                        spreads[lane] += weight * x
                for v in range(whole, out.shape[0]):
                    x = max(out[v] - high, f32(-1e4))
                    totals[0] += exp(x)
                    spreads[0] += exp(x) * x
                for lane in range(LANES):
                    total[c, r] += totals[lane]
                    spread[c, r] += spreads[lane]
                if target[r] >= -offset:
                    least, count = own[c, r], 0
                    for v in range(out.shape[0]):
                        count += out[v] >= least
                    place = target[r] - start
                    if 0 <= place < out.shape[0] and out[place] >= least:
                        count -= 1
                    reached[c, r] += count


@njit(nogil=True, fastmath=FLAGS, cache=True, error_model="numpy")
def own_logits(
    base: Any, second: Any, columns: Any, constant: Any, indices: Any, delta: Any, scale: Any, share: Any, at: Any,
    found: Any,
) -> None:  # fmt: skip
    """Fill in the logits [C, R] of token r at place r."""
    n, rows = at.shape
    for c in range(n):
        for r in range(rows):
            b = at[c, r]
            logits_of(
                base[b], second[b] if second.shape[0] else constant[:0], columns, constant, r, indices[c], delta[c, r],
                scale[c, r], share[c, r], found[c, r : r + 1],
            )  # fmt: skip


@njit(nogil=True, fastmath=FLAGS, cache=True, error_model="numpy")
def choose(
    base: Any, second: Any, columns: Any, constant: Any, condition: Any, indices: Any, delta: Any, scale: Any,
    share: Any, at: Any, tokens: Any, bounds: Any, reach: Any, slack: float, best: Any, decided: Any,
) -> None:  # fmt: skip
    """The best among each branch's candidates [B, K], for n pairs; ``decided`` where no other token can be better.

    base, second, constant: [B, K]. columns: [m, B, K]. reach: [m]. condition, scale, share, at: [n]. indices: [C, k].
    delta: [n, k]. tokens, ascending: [B, K]. bounds: harness.engine.choosing.
    """
    values = np.empty(tokens.shape[1], f32)
    for i in range(condition.shape[0]):
        b, s, t, own = at[i], scale[i], share[i], indices[condition[i]]
        for k in range(values.shape[0]):
            values[k] = base[b, k]
        if second.shape[0]:
            for k in range(values.shape[0]):
                values[k] += t * second[b, k]
        push = f32(0)
        for j in range(own.shape[0]):
            d, column = delta[i, j], columns[own[j], b]
            push += abs(d) * reach[own[j]]
            for k in range(values.shape[0]):
                values[k] += d * column[k]
        top, place = f32(-3.4e38), 0
        for k in range(values.shape[0]):
            value = values[k] * s + constant[b, k]
            if value > top:
                top, place = value, k
        bound = bounds[b, 0] + bounds[b, 1] * abs(s - bounds[b, 3])
        bound += s * (push + bounds[b, 2] * abs(t - bounds[b, 4]))
        best[i] = tokens[b, place]
        decided[i] = top > bound + slack * (abs(bound) + abs(top)) + slack


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
        d, column = delta[j], columns[indices[j], start : start + out.shape[0]]
        for v in range(out.shape[0]):
            out[v] += d * column[v]


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
