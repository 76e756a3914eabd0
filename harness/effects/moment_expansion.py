"""Small changes of distributions by their first three moments: matrix products in the place of exponentials.

For a single neuron, without soft cap or frozen direction, x = kappa base + theta second + g column (theta is 0 unless a
norm comes after the MLP), and with the third-order expansion of e^x

    sum p (e^x - 1) = E x + E x^2 / 2 + E x^3 / 6 + R,     |R| <= B^2 E x^2 e^B / 24,     B >= max |x|

the moments of x are polynomials in kappa, theta and g whose coefficients, E base^i second^j column^k, are products of
matrices that do not depend on the condition. The same holds for sum p (e^x (l + x) - l), whose remainder is at most
B^2 e^B (E |l| x^2 / 24 + E x^2 / 6). Pairs whose bound exceeds the tolerance are done exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import factorial

import torch

from harness.effects.logit_changes import Found, Problem, changes
from harness.engine.columns import reach_of
from harness.engine.kernels import System

TILE, NEURONS = 4096, 256
"""Tokens and columns whose products are held at once, which then stay in the cache."""

Exponents = tuple[int, int, int]
"""Of base, second base and column."""


def changes_fast(problem: Problem, tolerance: float) -> tuple[Found, float]:
    """The sums of :func:`harness.effects.logit_changes.changes`, and the share of pairs that were done exactly.

    Args:
        tolerance: nats, bound on the error of log Z and of the entropy that the expansion may have.
    """
    found, bound = _expanded(problem)
    exact = problem.wild | ~(bound <= tolerance).all(-1)
    rows = exact.any(1).nonzero()[:, 0]
    if len(rows):
        for fast, one in zip(found, changes(problem.part(rows), exact[rows]), strict=True):
            fast[rows] = torch.where(exact[rows][..., None], one, fast[rows])
    return found, float(exact.float().mean())


def _expanded(problem: Problem) -> tuple[Found, torch.Tensor]:
    """Third-order sums, and the bound on their error [C, R, E]."""
    system, (kappa, beta, theta) = problem.system, problem.factors
    g = beta * system.delta.double()
    moments = _moments(problem)

    def mean_power(n: int, weight: int) -> torch.Tensor:
        """E x^n, or E l x^n, [C, R, E]."""
        found = torch.zeros_like(g)
        for (i, j, k), both in moments.items():
            if i + j + k == n:
                ways = factorial(n) // (factorial(i) * factorial(j) * factorial(k))
                found += ways * kappa**i * theta**j * g**k * both[weight, ..., None]
        return found

    x1, x2, x3 = (mean_power(n, 0) for n in (1, 2, 3))
    l_x1, l_x2, l_x3 = (mean_power(n, 1) for n in (1, 2, 3))
    grown = x1 + x2 / 2 + x3 / 6
    spread = l_x1 + l_x2 / 2 + l_x3 / 6 + x1 + x2 + x3 / 2
    largest = g.abs() * system.largest.double()[system.indices[:, 0]][:, None, None]
    places = torch.arange(len(problem.p), device=g.device)
    at_target = g * system.columns[system.indices[:, :1], problem.target].double()[..., None]
    for factor, rows in ((kappa, system.base), (theta, system.second)):
        if rows is not None:
            largest += factor.abs() * reach_of(rows).double()[None, :, None]
            at_target += factor * rows[places, problem.target].double()[None, :, None]
    bound = largest**2 * torch.exp(largest) * (-l_x2 / 24 + x2 / 6).clamp_min(0)
    return (grown, spread, x1, at_target, torch.zeros_like(grown)), bound


def _moments(problem: Problem) -> dict[Exponents, torch.Tensor]:
    """E b^i s^j c^k and E l b^i s^j c^k, 0 < i + j + k < 4, under p: float64 [2, C, R], or [2, 1, R] where k = 0."""
    system, (rows, n_tokens) = problem.system, problem.p.shape
    monomials = list(_monomials(1 if system.second is None else 2))
    zero = torch.zeros(2, 1, rows, dtype=torch.float64, device=problem.p.device)
    found = {(i, j, 0): zero.clone() for i, j in (*monomials[1:], *_of_degree(3, 1 if system.second is None else 2))}
    keys = [(i, j, k) for k in (1, 2, 3) for i, j in monomials if i + j + k <= 3]
    of_column = {key: zero.repeat(1, len(system.columns), 1) for key in keys}
    for start in range(0, n_tokens, TILE):
        here = slice(start, start + TILE)
        stack = _products(problem, monomials, here)
        for i, j, _ in found:
            if i + j < 3:
                found[i, j, 0][:, 0] += stack[monomials.index((i, j))].sum(-1)
            else:
                less, rows_of = _one_less(system, i, j)
                found[i, j, 0][:, 0] += torch.linalg.vecdot(stack[monomials.index(less)], rows_of[:, here])
        for columns in torch.arange(len(system.columns)).split(NEURONS):
            some = slice(int(columns[0]), int(columns[-1]) + 1)
            column = power = system.columns[some, here]
            for k in (1, 2, 3):
                kept = [(i, j) for i, j in monomials if i + j + k <= 3]  # the first of them: they are sorted by degree
                products = power @ stack[: len(kept)].reshape(-1, stack.shape[-1]).T
                for (i, j), both in zip(kept, products.view(-1, len(kept), 2, rows).unbind(1), strict=True):
                    of_column[i, j, k][:, some] += both.transpose(0, 1)
                power = power * column
    return found | {key: both[:, system.indices[:, 0]] for key, both in of_column.items()}


def _products(problem: Problem, monomials: list[tuple[int, int]], here: slice) -> torch.Tensor:
    """p b^i s^j and the same times l, float32 [len(monomials), 2, R, tokens], of some tokens."""
    p, log_p = problem.p[:, here], problem.log_p[:, here]
    stack = p.new_empty(len(monomials), 2, *p.shape)
    for place, (i, j) in enumerate(monomials):
        if i + j == 0:
            stack[place, 0] = p
        else:
            less, rows = _one_less(problem.system, i, j)
            torch.mul(stack[monomials.index(less), 0], rows[:, here], out=stack[place, 0])
        torch.mul(stack[place, 0], log_p, out=stack[place, 1])
    return stack


def _one_less(system: System, i: int, j: int) -> tuple[tuple[int, int], torch.Tensor]:
    """The exponents of a product with one factor less, and this factor, a base [R, V]."""
    if i:
        return (i - 1, j), system.base
    assert system.second is not None
    return (i, j - 1), system.second


def _of_degree(n: int, bases: int) -> Iterator[tuple[int, int]]:
    """Exponents (i, j) of one or two bases with i + j = n."""
    return ((n - j, j) for j in range(n + 1 if bases == 2 else 1))


def _monomials(bases: int) -> Iterator[tuple[int, int]]:
    """Exponents up to the second degree, by degree."""
    return ((i, j) for n in range(3) for i, j in _of_degree(n, bases))
