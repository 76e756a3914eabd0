"""Log-probability increase: how much likelier a component's output makes a token (Yu & Ananiadou 2024).

With F(v) = softmax(logits(v)), where logits(v) = cap(s * W (v - mean(v)) + b) keeps the final token's norm denominator
(s = scale / denominator, W the unembedding times the final norm's gain), the importance of what a component writes, c,
beside the residual stream r that it is added to, is

    increase = log F_w(r + c) - log F_w(r) = (l'_w - l_w) - (log sum exp l' - log sum exp l)

Because the denominator is held, logits are linear in v before the cap: those of r + n_i w_i are those of r plus
s n_i W w_i. W w_i does not depend on the prompt: it is made once for a block of neurons, and all that is done for a
neuron and a prompt is one log sum exp over the vocabulary, in the compiled loops of :mod:`harness.engine.kernels`,
which store no logits. Nothing is approximated. Which neurons need not be looked at to know the largest: :mod:`.bounds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from harness.engine.kernels import System, summarise
from harness.plugin import HarnessError, Model

from .last_position import LastPosition, mlp_writes

BLOCK_BYTES = 2**28
"""Memory for the logits of a block of prompts, and again for the columns W w_i of a block of neurons."""

BLOCK_ROWS = 8192
"""Rows of a half-precision unembedding that are held in float32 at once."""


class Lens:
    """The logits of residuals when the final norm's denominator is held.

    Attributes:
        constant: float32 [d_vocab], b. cap: the soft cap, or None.
    """

    def __init__(self, model: Model) -> None:
        self.readout = model.readout
        self.constant = self.readout.folded_bias(centre=False) * self.readout.scale
        self.cap = self.readout.cap

    def scale(self, denominator: torch.Tensor) -> torch.Tensor:
        """s [P], of denominators [P]."""
        return self.readout.scale / denominator

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """W (x - mean(x)), float32 [n, d_vocab], of residuals or writes [n, d_model]."""
        x, W_U = self.read(x), self.readout.W_U
        out = x.new_empty(len(x), len(W_U))
        step = len(W_U) if W_U.dtype == torch.float32 else BLOCK_ROWS
        for start in range(0, len(W_U), step):
            out[:, start : start + step] = x @ W_U[start : start + step].float().T
        return out

    def along(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Entries ``tokens`` [P] of :meth:`project`, [n, P], without making the others."""
        return self.read(x) @ self.readout.W_U[tokens].float().T

    def back(self, weights: torch.Tensor) -> torch.Tensor:
        """The transpose of :meth:`project`: float32 [n, d_model], of weights of tokens [n, d_vocab]."""
        W_U = self.readout.W_U
        out = weights.new_zeros(len(weights), W_U.shape[1])
        for start in range(0, len(W_U), BLOCK_ROWS):
            out += weights[:, start : start + BLOCK_ROWS] @ W_U[start : start + BLOCK_ROWS].float()
        out *= self.readout.gain
        return out - out.mean(-1, keepdim=True) if self.readout.centre_writes else out

    def logits(self, projected: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Logits of projected residuals [..., d_vocab] with s [...]."""
        logits = projected * scale[..., None] + self.constant
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def row_norms(self) -> torch.Tensor:
        """Lengths of the rows of the unembedding, float32 [d_vocab]."""
        return torch.cat([rows.float().norm(dim=1) for rows in self.readout.W_U.split(BLOCK_ROWS)])

    def read(self, x: torch.Tensor) -> torch.Tensor:
        """The part of residuals or writes [n, d_model] that the unembedding reads: centred, times the gain."""
        if self.readout.centre_writes:
            x = x - x.mean(-1, keepdim=True)
        return x * self.readout.gain


@torch.no_grad()
def neuron_increases(
    model: Model,
    states: LastPosition,
    layer: int,
    indices: Sequence[int] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> np.ndarray:
    """Log-probability increase of the prompts' targets by neurons of a layer, float32 [P, n], in nats.

    Args:
        indices: n neurons; default: all d_mlp of them.

    Raises:
        HarnessError: it is not finite.
    """
    lens, writes = Lens(model), mlp_writes(model, states, layer)
    directions, activations = writes.directions, writes.activations
    if indices is not None:
        directions, activations = directions[list(indices)], activations[:, list(indices)]
    n_prompts, n = activations.shape
    step = max(1, block_bytes // (4 * len(lens.constant)))
    found = np.empty((n_prompts, n), np.float32)
    for start in range(0, n_prompts, step):
        here = slice(start, start + step)
        system = _base(lens, writes.residual[here], lens.scale(states.denominator[here]))
        target = states.target[here]
        for first in range(0, n, step):
            some = slice(first, first + step)
            columns = lens.project(directions[some])
            if lens.cap is None:
                columns -= columns.mean(1, keepdim=True)  # softmax does not see it, but rounding does
            block = _block_increases(system, columns, activations[here, some], target)
            found[here, some] = block.T.cpu().numpy()
    return finite(found, model)


def _base(lens: Lens, residual: torch.Tensor, scale: torch.Tensor) -> System:
    """The logits of P residuals, as the only condition: no neuron is added yet."""
    base = lens.project(residual)
    if lens.cap is None:
        # Log-probabilities instead of logits, whose size would cost digits.
        base -= (torch.logsumexp(lens.logits(base, scale), -1) / scale)[:, None]
    n = len(base)
    at = torch.arange(n, device=base.device)[None]
    none = base.new_zeros(1, n, 0)
    return System(base, None, base[:0], lens.constant, at.new_zeros(1, 0), none, scale[None], None, at, lens.cap)


def _block_increases(
    system: System, columns: torch.Tensor, activations: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Increases [m, P] of m neurons with columns W w_i [m, d_vocab] and activations [P, m]."""
    m, n = len(columns), len(target)
    delta = activations.T[..., None].contiguous()
    moved = replace(
        system,
        columns=columns,
        indices=torch.arange(m, device=columns.device)[:, None],
        delta=delta,
        scale=system.scale.expand(m, n),
        at=system.at.expand(m, n),
    )
    if system.cap is None:
        change = delta[..., 0] * columns[:, target] * system.scale
    else:
        wanted = target[None, :, None]
        change = (moved.gather(wanted.expand(m, n, 1)) - system.gather(wanted))[..., 0]
    return change - (summarise(moved).normaliser - summarise(system).normaliser)


@torch.no_grad()
def neuron_inner_products(model: Model, states: LastPosition, layer: int) -> np.ndarray:
    """What every neuron adds to the target's logit, float32 [P, d_mlp]: the target's row of the unembedding, times the
    final norm's gain and scale, dotted with n_i w_out_i (before a soft cap). Needs no other token's logit.

    Raises:
        HarnessError: it is not finite.
    """
    lens, writes = Lens(model), mlp_writes(model, states, layer)
    pushed = lens.along(writes.directions, states.target).T * lens.scale(states.denominator)[:, None]
    return finite((writes.activations * pushed).cpu().numpy(), model)


@torch.no_grad()
def write_increases(
    model: Model,
    residual: torch.Tensor,
    writes: torch.Tensor,
    denominator: torch.Tensor,
    target: torch.Tensor,
    block_bytes: int = BLOCK_BYTES,
) -> np.ndarray:
    """Log-probability increase by whole writes (of heads, of layers), float32 [P, K], in nats.

    Args:
        residual: [P, d_model], what they are added to. writes: [P, K, d_model], each added alone.
        denominator: [P], of the final norm. target: int64 [P].
    """
    lens = Lens(model)
    n_prompts, k, _ = writes.shape
    step = max(1, block_bytes // (4 * len(lens.constant) * (k + 1)))
    parts = []
    for start in range(0, n_prompts, step):
        here = slice(start, start + step)
        both = torch.cat([torch.zeros_like(writes[here, :1]), writes[here]], 1) + residual[here, None]
        projected = lens.project(both.flatten(0, 1)).view(*both.shape[:2], -1)
        scale = lens.scale(denominator[here])[:, None].expand(-1, k + 1)
        log_p = lens.logits(projected, scale).log_softmax(-1)
        own = log_p.gather(-1, target[here, None, None].expand(-1, k + 1, 1))[..., 0]
        parts.append((own[:, 1:] - own[:, :1]).cpu().numpy())
    return finite(np.concatenate(parts), model)


def finite(values: np.ndarray, model: Model) -> np.ndarray:
    """The values; refuses what is not finite."""
    if not np.isfinite(values).all():
        raise HarnessError(f"a log-probability increase in {model.name} is not finite (NaN or infinity).")
    return values
