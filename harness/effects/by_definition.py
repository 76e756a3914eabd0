"""Effects by their definition in float64, for pairs of a condition and a place that float32 cannot hold.

Such a pair has logits of its own: from a residual that is added up without what the edit takes away
(:meth:`harness.engine.condition_blocks.ConditionBlock.residuals`), through the final norm and the whole unembedding.
With log q its log-probabilities, x = log q - log p is a change of the untouched logits under which the normaliser
stays 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from harness.effects.logit_changes import Found, Kind, Problem, Ranks
from harness.engine.condition_blocks import Base, ConditionBlock

BLOCK_BYTES = 2**25
"""Size of one block of logits."""

Pairs = tuple[torch.Tensor, torch.Tensor]
"""Conditions and places, int64 [n] each."""


def fill(
    problem: Problem, part: ConditionBlock, base: Base, found: Found, ranked: Ranks | None, kinds: Sequence[Kind]
) -> None:
    """Write what the pairs that are ``wild`` have into the sums, and into ranks under ``kinds`` where there are any."""
    c, r = problem.wild.nonzero().T
    if not len(c):
        return
    at = torch.arange(len(base.x), device=c.device).expand(part.n, -1)
    step = max(1, BLOCK_BYTES // (8 * part.final.n_tokens))
    for pairs in zip(c.split(step), r.split(step), strict=True):
        before, after = _logits(problem, part, base, at, pairs)
        log_p = before.log_softmax(-1)
        for e, (kind, logits) in enumerate(after):
            log_q = logits.log_softmax(-1)
            for array, one in zip(found, _sums(problem, pairs, log_p, log_q), strict=True):
                array[*pairs, e] = one
            if ranked is not None and kind in kinds:
                own = log_q.gather(-1, problem.target[pairs[1], None])
                rank, best, highest = (array[..., kinds.index(kind)] for array in ranked)
                rank[pairs], best[pairs], highest[pairs] = (log_q >= own).sum(-1) - 1, log_q.argmax(-1), log_q.amax(-1)


def _sums(problem: Problem, pairs: Pairs, log_p: torch.Tensor, log_q: torch.Tensor) -> Iterator[torch.Tensor]:
    """The sums of :mod:`harness.effects.logit_changes` [n], where nothing is to be taken from the change."""
    x, p = log_q - log_p, log_p.exp()
    yield torch.zeros(len(x), dtype=x.dtype, device=x.device)
    yield (log_q.exp() * log_q).sum(-1) - (p * log_p).sum(-1)
    yield (p * x).sum(-1)
    yield x.gather(-1, problem.target[pairs[1], None])[:, 0]
    yield x.new_zeros(len(x)) if problem.unigram is None else x @ problem.unigram.p


def _logits(
    problem: Problem, part: ConditionBlock, base: Base, at: torch.Tensor, pairs: Pairs
) -> tuple[torch.Tensor, Iterator[tuple[Kind, torch.Tensor]]]:
    """Logits of the untouched model, and those under every kind in turn, float64 [n, d_vocab]."""
    final, (_, places) = part.final, pairs
    none = torch.arange(len(base.x), device=places.device)[None]
    x0 = final.untouched.residuals(base, none, (torch.zeros_like(places), places))
    x = part.residuals(base, at, pairs)
    scale0, scale = (final.scale(y.square().sum(-1))[:, None] for y in (x0, x))
    before, projected = final.finish(final.exactly(x0) * scale0), final.exactly(x)

    def after() -> Iterator[tuple[Kind, torch.Tensor]]:
        for kind in problem.kinds:
            logits = final.finish(projected * (scale0 if kind == "frozen_norm" else scale))
            if kind == "frozen_unigram" and problem.unigram is not None:
                v = problem.unigram.direction
                logits += ((before - logits) @ v / v.square().sum())[:, None] * v
            yield kind, logits

    return before, after()
