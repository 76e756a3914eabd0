"""The components with the largest log-probability increases, without looking at all of them.

Before a soft cap logits are linear in what is added to the residual stream, and log sum exp is convex, so that log F_w
is concave: its tangent lies above it. For a component that adds a d to the residual stream,

    log F_w(r + a d) - log F_w(r)  <=  slope a,        slope = d . s (W_w - sum_v F_v(r) W_v)

One gradient of a prompt and layer bounds all neurons at once, for the price of a single logit vector.

A soft cap f(l) = C tanh(l / C) bends each logit, by at most |f''| <= M = 4 / (3 sqrt(3) C). With Jensen's inequality
for the log sum exp and Taylor's theorem for f, where W_v in the slope has the factor f'(l_v), and with the inequality
of Cauchy and Schwarz for (W_v . d)^2,

    log F_w(r + a d) - log F_w(r)  <=  slope a + curvature a^2
    curvature = M / 2 * s^2 ((W_w . d)^2 + |d|^2 sum_v F_v(r) |W_v|^2)

Components are evaluated in the order of their bounds, until no bound that is left exceeds the smallest of the best
increases found. The result is the same as that of evaluating all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from harness.plugin import Model

from .last_position import LastPosition, mlp_writes
from .log_probability_increase import BLOCK_BYTES, Lens, finite, neuron_increases

ROUND = 64
"""Components that are evaluated, at least, before the bounds are looked at again."""

SLACK = 1e-5
"""By how many nats rounding may put a bound below the increase that it bounds."""


@dataclass(frozen=True, eq=False)
class Tangents:
    """Bounds on the increase by a multiple of each of n directions at each of P residuals, float32 [P, n] each.

    Attributes:
        slope: the first derivative. curvature: 0 without a soft cap.
    """

    slope: torch.Tensor
    curvature: torch.Tensor

    def bound(self, amount: torch.Tensor) -> torch.Tensor:
        """Upper bounds in nats, of amounts [P, n]; with more axes between, [P, ..., n]."""
        between = (len(amount), *[1] * (amount.dim() - 2), -1)
        return amount * (self.slope.view(between) + self.curvature.view(between) * amount)


@torch.no_grad()
def tangents(
    lens: Lens, residual: torch.Tensor, denominator: torch.Tensor, target: torch.Tensor, directions: torch.Tensor
) -> Tangents:
    """Bounds for ``directions`` [n, d_model] at residuals [P, d_model], with the final norm's denominators [P]."""
    step = max(1, BLOCK_BYTES // (4 * len(lens.constant)))
    bend = 0.0 if lens.cap is None else 2 / (3 * math.sqrt(3) * lens.cap)
    size = lens.row_norms().square() if bend else lens.constant.new_zeros(0)
    length = lens.read(directions).norm(dim=1) if bend else None
    slopes, curvatures = [], []
    for start in range(0, len(target), step):
        here = slice(start, start + step)
        scale, wanted = lens.scale(denominator[here]), target[here, None]
        logits = lens.logits(lens.project(residual[here]), scale)
        weights = -logits.softmax(-1)
        spread = -(weights @ size)[:, None] if bend else None
        weights.scatter_add_(1, wanted, torch.ones_like(weights[:, :1]))
        if lens.cap is not None:
            weights *= 1 - (logits / lens.cap).square()  # the derivative of the cap
        slopes.append((lens.back(weights) * scale[:, None]) @ directions.T)
        if length is None or spread is None:
            curvatures.append(torch.zeros_like(slopes[-1]))
        else:
            own = lens.along(directions, target[here]).T.square()
            curvatures.append(bend * scale[:, None].square() * (own + spread * length.square()))
    return Tangents(torch.cat(slopes), torch.cat(curvatures))


@torch.no_grad()
def neuron_bounds(model: Model, states: LastPosition, layer: int) -> np.ndarray:
    """Upper bounds on the log-probability increases of a layer's neurons, float32 [P, d_mlp], in nats.

    Raises:
        HarnessError: one is not finite.
    """
    writes = mlp_writes(model, states, layer)
    found = tangents(Lens(model), writes.residual, states.denominator, states.target, writes.directions)
    return finite(found.bound(writes.activations).cpu().numpy(), model)


def best_first(bound: np.ndarray, top: int, evaluate: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The values [n] of all candidates that may be among the ``top`` with the largest; NaN of the others.

    Args:
        bound: [n], of the values. evaluate: gives the values of some rows.
    """
    values = np.full(len(bound), np.nan)
    order, done = np.argsort(-bound, kind="stable"), 0
    while done < len(order):
        known = np.sort(values[order[:done]])[::-1]
        if done >= top and known[top - 1] > bound[order[done]] + SLACK:
            break
        some = order[done : done + max(ROUND, top, done)]  # twice as many each time
        values[some] = evaluate(some)
        done += len(some)
    return values


def largest(values: np.ndarray, top: int) -> list[int]:
    """Rows of the ``top`` largest of some values [n], largest first, ties to the earlier row; NaN is none of them."""
    order: list[int] = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")[:top].tolist()
    return [row for row in order if not np.isnan(values[row])]


@dataclass(frozen=True)
class Best:
    """The best neurons of some layers.

    Attributes (float64 [len(layers) * d_mlp], layer after layer):
        bound: means over the prompts of :func:`neuron_bounds`.
        increase: mean log-probability increase; NaN of neurons that cannot be among the best.
        raised: share of the prompts on which it is positive; NaN likewise.
    """

    bound: np.ndarray
    increase: np.ndarray
    raised: np.ndarray


def best_neurons(model: Model, states: LastPosition, layers: Sequence[int], top: int) -> Best:
    """Evaluate only neurons that may be among the ``top`` with the largest mean increases."""
    bounds = [neuron_bounds(model, states, layer).mean(0, dtype=np.float64) for layer in layers]
    bound, ends = np.concatenate(bounds), np.cumsum([len(x) for x in bounds])
    raised = np.full(len(bound), np.nan)

    def evaluate(some: np.ndarray) -> np.ndarray:
        means = np.empty(len(some))
        for place, layer in enumerate(layers):
            start = ends[place] - len(bounds[place])
            inside = np.flatnonzero((some >= start) & (some < ends[place]))
            if len(inside):
                found = neuron_increases(model, states, layer, (some[inside] - start).tolist())
                means[inside], raised[some[inside]] = found.mean(0, dtype=np.float64), (found > 0).mean(0)
        return means

    return Best(bound, best_first(bound, top, evaluate), raised)
