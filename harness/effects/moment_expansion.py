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

COLUMN_BYTES = 2**26
"""Size of the columns whose powers are held at once."""

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
                found += ways * kappa**i * theta**j * g**k * both[weight][..., None]
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


def _moments(problem: Problem) -> dict[Exponents, tuple[torch.Tensor, torch.Tensor]]:
    """E b^i s^j c^k and E l b^i s^j c^k, i + j + k = 1, 2, 3, under p: float64 [1, R] where k = 0, else [C, R]."""
    system, p, log_p = problem.system, problem.p, problem.log_p
    monomials = list(_monomials(1 if system.second is None else 2))
    stack = p.new_empty(len(monomials), 2, *p.shape)  # p b^i s^j, and the same times l, by degree
    found: dict[Exponents, tuple[torch.Tensor, torch.Tensor]] = {}
    for place, (i, j) in enumerate(monomials):
        if i + j == 0:
            stack[0, 0] = p
        else:  # of one degree less, times a base
            less, rows = ((i - 1, j), system.base) if i else ((i, j - 1), system.second)
            assert rows is not None
            torch.mul(stack[monomials.index(less), 0], rows, out=stack[place, 0])
        torch.mul(stack[place, 0], log_p, out=stack[place, 1])
    for i, j in monomials[1:]:
        plain, weighted = (x.sum(-1, dtype=torch.float64)[None] for x in stack[monomials.index((i, j))])
        found[i, j, 0] = plain, weighted
    for i, j in _of_degree(3, 1 if system.second is None else 2):
        less, rows = ((i - 1, j), system.base) if i else ((i, j - 1), system.second)
        assert rows is not None
        plain, weighted = (torch.linalg.vecdot(x, rows).double()[None] for x in stack[monomials.index(less)])
        found[i, j, 0] = plain, weighted
    _with_columns(system, stack, monomials, found)
    return found


def _with_columns(
    system: System,
    stack: torch.Tensor,
    monomials: list[tuple[int, int]],
    found: dict[Exponents, tuple[torch.Tensor, torch.Tensor]],
) -> None:
    """Add the moments with k > 0."""
    rows, n_tokens = stack.shape[2:]
    of_column = {(i, j, k): torch.zeros(2, len(system.columns), rows, dtype=torch.float64, device=stack.device)
                 for k in (1, 2, 3) for i, j in monomials if i + j + k <= 3}  # fmt: skip
    step = max(1, COLUMN_BYTES // (4 * n_tokens))
    for start in range(0, len(system.columns), step):
        some = slice(start, start + step)
        column, power = system.columns[some], system.columns[some]
        for k in (1, 2, 3):
            kept = [(i, j) for i, j in monomials if i + j + k <= 3]  # the first of them: they are sorted by degree
            products = power @ stack[: len(kept)].view(-1, n_tokens).T
            for (i, j), both in zip(kept, products.view(-1, len(kept), 2, rows).unbind(1), strict=True):
                of_column[i, j, k][:, some] = both.transpose(0, 1).double()
            if k < 3:
                power = power * column
    for exponents, both in of_column.items():
        plain, weighted = both[:, system.indices[:, 0]]
        found[exponents] = plain, weighted


def _of_degree(n: int, bases: int) -> Iterator[tuple[int, int]]:
    """Exponents (i, j) of one or two bases with i + j = n."""
    return ((n - j, j) for j in range(n + 1 if bases == 2 else 1))


def _monomials(bases: int) -> Iterator[tuple[int, int]]:
    """Exponents up to the second degree, by degree."""
    return ((i, j) for n in range(3) for i, j in _of_degree(n, bases))
