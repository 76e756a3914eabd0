"""The neurons with the largest log-probability increases, without looking at all neurons.

Before a soft cap logits are linear in what is added to the residual stream, and log sum exp is convex, so that log F_w
is concave: its tangent lies above it.

    log F_w(r + c) - log F_w(r)  <=  gradient . c,        gradient = s (W_w - sum_v F_v(r) W_v)

One gradient of a prompt and layer bounds all neurons at once, for the price of a single logit vector. Neurons are then
evaluated in the order of their bounds, until no bound that is left exceeds the smallest of the best increases found.
The result is the same as that of evaluating all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from harness.model import Model

from .increase import BLOCK_BYTES, Lens, finite, neuron_increases
from .passed import Passed, mlp_writes

ROUND = 64
"""Neurons that are evaluated, at least, before the bounds are looked at again."""

SLACK = 1e-5
"""By how many nats rounding may put a bound below the increase that it bounds."""


@torch.no_grad()
def neuron_bounds(model: Model, passed: Passed, layer: int) -> np.ndarray:
    """First-order log-probability increase, gradient . n_i w_out_i, float32 [P, d_mlp], in nats: an upper bound.

    Raises:
        ValueError: the model caps its logits, where it bounds nothing.
        HarnessError: it is not finite.
    """
    lens, writes = Lens(model), mlp_writes(model, passed, layer)
    if lens.cap is not None:
        raise ValueError("logits with a soft cap are not linear: there is no such bound")
    step = max(1, BLOCK_BYTES // (4 * len(lens.constant)))
    parts = []
    for start in range(0, len(passed.target), step):
        here = slice(start, start + step)
        scale, target = lens.scale(passed.denominator[here]), passed.target[here, None]
        weights = -lens.logits(lens.project(writes.residual[here]), scale).softmax(-1)
        weights.scatter_add_(1, target, torch.ones_like(weights[:, :1]))
        gradient = lens.back(weights) * scale[:, None]
        parts.append((writes.activations[here] * (gradient @ writes.directions.T)).cpu().numpy())
    return finite(np.concatenate(parts), model)


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


def best_neurons(model: Model, passed: Passed, layers: Sequence[int], top: int) -> Best:
    """Evaluate only neurons that may be among the ``top`` with the largest mean increases."""
    d_mlp = model.anatomy.d_mlp
    bound = np.concatenate([neuron_bounds(model, passed, layer).mean(0, dtype=np.float64) for layer in layers])
    increase, raised = np.full(len(bound), np.nan), np.full(len(bound), np.nan)
    order, done = np.argsort(-bound, kind="stable"), 0
    while done < len(order):
        known = np.sort(increase[order[:done]])[::-1]
        if done >= top and known[top - 1] > bound[order[done]] + SLACK:
            break
        some = order[done : done + max(ROUND, top, done)]  # twice as many each time
        for place, layer in enumerate(layers):
            rows = np.sort(some[some // d_mlp == place])
            if len(rows):
                found = neuron_increases(model, passed, layer, (rows % d_mlp).tolist())
                increase[rows], raised[rows] = found.mean(0, dtype=np.float64), (found > 0).mean(0)
        done += len(some)
    return Best(bound, increase, raised)
