"""What latents do on some token sequences: their activations, and how far they raise the answer's log-probability.

    attribution of latent i = sum over tokens t of z_i(t) * d log p(answer) / d z_i(t)

The answer is the model's own most likely next token after the sequence. The decoder is linear: the derivative is that
by what it writes, along the latent's row of W_dec, and one backward pass serves all latents. With its sign turned it is
the first-order effect of taking the latent away at the tokens that count.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch

from harness.engine import batches

from .access import captured

if TYPE_CHECKING:
    from harness.plugin import Batch, Model

    from .dictionary import Dictionary

At: TypeAlias = Literal["last", "all"]
"""Tokens that count: the last of a sequence, or all but the first, which attention sinks make unlike the others."""


@dataclass(frozen=True)
class Read:
    """Of n sequences.

    Attributes:
        activation: float64 [n, d_sae], at the last token, or the mean over the tokens that count.
        attribution: float64 [n, d_sae], nats, summed over the tokens that count; zeros where it was not asked for.
        answers: token ids [n].
        active, tokens: at how many of all tokens but the first each latent is active [d_sae], and how many these are.
    """

    activation: np.ndarray
    attribution: np.ndarray
    answers: np.ndarray
    active: np.ndarray
    tokens: int

    @property
    def density(self) -> np.ndarray:
        """Share of tokens at which each latent is active, float64 [d_sae]."""
        found: np.ndarray = self.active / max(self.tokens, 1)
        return found


def read_latents(
    model: Model,
    dictionary: Dictionary,
    sequences: Sequence[Sequence[int]],
    at: At,
    gradients: bool,
    batch_size: int,
    advance: Callable[[int], None] = lambda n: None,
) -> Read:
    """Run the untouched model over token ids; ``gradients``: also the attribution, with a backward pass."""
    shape = (len(sequences), dictionary.configuration.d_sae)
    activation, attribution, active = np.zeros(shape), np.zeros(shape), np.zeros(shape[1])
    answers, tokens = np.zeros(len(sequences), dtype=int), 0
    for rows in batches(sequences, batch_size):
        batch = model.pad([list(sequences[row]) for row in rows])
        z, along, answers[rows] = _run(model, dictionary, batch, gradients)
        later = batch.attention_mask.bool() & (batch.position_ids > 0)
        counts = later.clone() if at == "all" else torch.zeros_like(later)
        counts[:, -1] = True  # of a sequence of one token that one counts
        here = counts[..., None].to(z.dtype)
        activation[rows] = ((z * here).sum(1) / here.sum(1)).double().cpu().numpy()
        if along is not None:
            attribution[rows] = (z * along * here).sum(1).double().cpu().numpy()
        active += (z[later] != 0).sum(0).cpu().numpy()
        tokens += int(later.sum())
        advance(len(rows))
    return Read(activation, attribution, answers, active, tokens)


def _run(
    model: Model, dictionary: Dictionary, batch: Batch, gradients: bool
) -> tuple[torch.Tensor, torch.Tensor | None, np.ndarray]:
    """Latents [batch, pos, d_sae], the derivative of the answer's log-probability by each of them, and the answers."""
    cfg, last = dictionary.configuration, model.anatomy.n_layers - 1
    pushes: list[torch.Tensor] = []
    final: list[torch.Tensor] = []

    def push(x: torch.Tensor) -> torch.Tensor:
        pushes[:] = [torch.zeros_like(x, dtype=torch.float32, requires_grad=True)]
        return x + pushes[0]

    def keep(x: torch.Tensor) -> torch.Tensor:
        final[:] = [x[:, -1]]
        return x

    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(gradients))
        z = stack.enter_context(captured(model, dictionary))
        read = stack.enter_context(model.capture_place(cfg.reads, cfg.layer))
        if gradients:
            stack.enter_context(model.edit_place(cfg.writes, cfg.layer, push))
        stack.enter_context(model.edit_place("residual_after", last, keep))
        stack.enter_context(model.without_logits())
        model.forward(batch)
        logits = model.readout.logits(final[0], model.readout.denominator(final[0]))
        answers = logits.detach().argmax(-1)
        if not gradients:
            return z[cfg.layer], None, answers.cpu().numpy()
        chosen = logits.log_softmax(-1).gather(-1, answers[:, None])
        (slope,) = torch.autograd.grad(chosen.sum(), pushes[0])
    along, size = slope @ dictionary.on(slope.device)["W_dec"].T, dictionary.size(read[cfg.layer])
    return z[cfg.layer], along if size is None else along * size, answers.cpu().numpy()
