"""Small changes of distributions by their first three moments: matrix products in the place of exponentials.

For a single neuron x = kappa base + g column, and with a the third-order expansion of e^x

    sum p (e^x - 1) = E x + E x^2 / 2 + E x^3 / 6 + R,     |R| <= B^2 E x^2 e^B / 24,     B >= max |x|

the moments of x are polynomials in kappa and g whose coefficients, E base^i column^j, are products of matrices that do
not depend on the condition. The same holds for sum p (e^x (l + x) - l), whose remainder is at most
B^2 e^B (E |l| x^2 / 24 + E x^2 / 6). Pairs whose bound exceeds the tolerance are done exactly.
"""

from __future__ import annotations

import torch

from harness.effects.logit_changes import Found, Problem, changes

NEURONS = 256
"""Columns whose powers are held at once."""


def expands(problem: Problem) -> bool:
    """Whether the expansion covers it: one neuron a condition, no second base, nothing frozen along a direction."""
    system = problem.system
    return system.indices.shape[1] == 1 and system.second is None and problem.unigram is None and system.cap is None


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
    system, p, log_p = problem.system, problem.p, problem.log_p
    rows = len(p)
    # The mean of the base is taken out of x: a constant changes no distribution, and makes x smaller.
    mean = torch.linalg.vecdot(p, system.base)[:, None]
    base = system.base - mean
    weights = [p, p * base, p * base * base]
    stack = torch.cat([*weights, *(w * log_p for w in weights)])  # [6 R, V]: 1, b, b^2, then the same times l
    moments = torch.zeros(12, len(system.columns), rows, dtype=torch.float64, device=p.device)
    for start in range(0, len(system.columns), NEURONS):
        some = slice(start, start + NEURONS)
        column, power = system.columns[some], system.columns[some]
        for first, kept in ((0, (0, 1, 2, 3, 4, 5)), (6, (0, 1, 3, 4)), (10, (0, 3))):
            parts = stack if len(kept) == 6 else torch.cat([stack[i * rows : (i + 1) * rows] for i in kept])
            moments[first : first + len(kept), some] = (
                (power @ parts.T).view(len(power), len(kept), rows).transpose(0, 1).double()
            )
            power = power * column
    c1, b_c1, bb_c1, l_c1, lb_c1, lbb_c1, c2, b_c2, l_c2, lb_c2, c3, l_c3 = moments[:, system.indices[:, 0], :, None]
    kappa, beta, _ = problem.factors
    a, g = kappa, beta * system.delta.double()
    b = base.double()
    own = [(w.double() * b**k).sum(-1)[None, :, None] for w in (p, p * log_p) for k in (1, 2, 3)]
    b1, b2, b3, l_b1, l_b2, l_b3 = own
    x1, l_x1 = a * b1 + g * c1, a * l_b1 + g * l_c1
    x2, l_x2 = _square(a, g, b2, b_c1, c2), _square(a, g, l_b2, lb_c1, l_c2)
    x3, l_x3 = _cube(a, g, b3, bb_c1, b_c2, c3), _cube(a, g, l_b3, lbb_c1, lb_c2, l_c3)
    grown = x1 + x2 / 2 + x3 / 6
    spread = l_x1 + l_x2 / 2 + l_x3 / 6 + x1 + x2 + x3 / 2
    reach = system.largest.double()[system.indices[:, 0]][:, None, None]
    largest = a.abs() * base.abs().amax(-1).double()[None, :, None] + g.abs() * reach
    bound = largest**2 * torch.exp(largest) * (-l_x2 / 24 + x2 / 6).clamp_min(0)
    places = torch.arange(rows, device=p.device)
    at_target = a * base[places, problem.target].double()[None, :, None]
    at_target = at_target + g * system.columns[system.indices[:, :1], problem.target].double()[..., None]
    return (grown, spread, x1, at_target, torch.zeros_like(grown)), bound


def _square(a: torch.Tensor, g: torch.Tensor, bb: torch.Tensor, bc: torch.Tensor, cc: torch.Tensor) -> torch.Tensor:
    """E (a b + g c)^2 from E bb, E bc and E cc."""
    return a * a * bb + 2 * a * g * bc + g * g * cc


def _cube(
    a: torch.Tensor, g: torch.Tensor, bbb: torch.Tensor, bbc: torch.Tensor, bcc: torch.Tensor, ccc: torch.Tensor
) -> torch.Tensor:
    """E (a b + g c)^3 from the third moments."""
    return a**3 * bbb + 3 * a * a * g * bbc + 3 * a * g * g * bcc + g**3 * ccc
