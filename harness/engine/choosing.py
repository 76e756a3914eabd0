"""The best token under every condition, without making the logits of most of the vocabulary.

The tokens of a branch that are best at the mean scale of its conditions are its candidates. All others are bounded at
once:

    l[v] <= U + B |scale - mean scale| + scale (S |share - mean share| + sum_j |delta_j| max_v |columns_j|)

with U their largest logit at the mean scale and B, S the largest base and second base. Pairs of a condition and a place
whose best candidate does not beat the bound are tried again with more candidates, and then with the whole vocabulary:
columns are needed of candidates only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from harness.engine import kernels
from harness.engine.columns import reach_of
from harness.engine.kernels import System, as_numpy, in_threads, is_finite, loops, not_finite, summarise

CANDIDATES = (16, 1024)
"""How many tokens of a branch are tried, one number after the other, before all are."""

SLACK = 1e-5
"""Relative margin by which a candidate must beat the bound on all others: far above the rounding of float32."""

CANDIDATE_BYTES = 2**27
"""Memory for the columns of candidates."""


def choose(system: System) -> torch.Tensor:
    """Best token of all distributions, int64 [C, R]; ties to the smaller id.

    Raises:
        HarnessError: a logit of a candidate is not finite.
    """
    if not kernels.compiled(system) or system.at.numel() == 0:
        return summarise(system).best
    best = torch.zeros(system.at.numel(), dtype=torch.int64)
    open_ = torch.arange(len(best))
    for n in CANDIDATES:
        if len(open_) and n < system.base.shape[1]:
            found = _among(_Pairs.of(system, open_), n)
            best[open_] = found.best
            open_ = open_[~found.decided]
    if len(open_):
        best[open_] = summarise(_Pairs.of(system, open_).alone()).best[:, 0]
    return best.view(system.at.shape)


@dataclass(frozen=True)
class _Pairs:
    """Pairs (condition, place) of a system, whose branches and columns are theirs alone.

    Attributes:
        system: its bases [B, V] and columns. condition: int64 [n]. at: int64 [n]. delta: [n, k]. scale, share: [n].
    """

    system: System
    condition: torch.Tensor
    at: torch.Tensor
    delta: torch.Tensor
    scale: torch.Tensor
    share: torch.Tensor

    @classmethod
    def of(cls, system: System, pairs: torch.Tensor) -> _Pairs:
        """Some pairs, as places in ``system.at``, flattened."""
        condition = pairs // system.at.shape[1]
        share = torch.zeros_like(system.scale) if system.share is None else system.share
        at, scale, share = (x.reshape(-1)[pairs] for x in (system.at, system.scale, share))
        delta = system.delta.flatten(0, 1)[pairs]
        if len(pairs) < system.at.numel():
            system, condition, at = _narrowed(system, condition, at)
        return cls(system, condition, at, delta, scale, share)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean [B] of values [n] on each branch."""
        branches = len(self.system.base)
        seen = torch.bincount(self.at, minlength=branches).clamp_min(1)
        return torch.zeros(branches).index_add_(0, self.at, values) / seen

    def alone(self) -> System:
        """Each as a condition of its own with one place."""
        system = self.system
        return replace(
            system,
            indices=system.indices[self.condition],
            delta=self.delta[:, None],
            scale=self.scale[:, None],
            share=None if system.share is None else self.share[:, None],
            at=self.at[:, None],
        )


def _narrowed(system: System, condition: torch.Tensor, at: torch.Tensor) -> tuple[System, torch.Tensor, torch.Tensor]:
    """The system with the columns and bases of some pairs alone, and what the pairs are in it."""
    conditions, condition = torch.unique(condition, return_inverse=True)
    branches, at = torch.unique(at, return_inverse=True)
    rows, indices = torch.unique(system.indices[conditions], return_inverse=True)
    system = replace(
        system,
        base=system.base[branches],
        second=None if system.second is None else system.second[branches],
        columns=system.columns[rows],
        reach=system.largest[rows],
        made=None if system.made is None else system.made.part(rows),
        indices=indices,
    )
    return system, condition, at


@dataclass(frozen=True)
class _Found:
    """Best candidates, int64 [n], and whether no other token can be better, bool [n]."""

    best: torch.Tensor
    decided: torch.Tensor


def _among(pairs: _Pairs, n: int) -> _Found:
    """The best of the ``n`` candidates of every pair's branch."""
    system = pairs.system
    scale, share, base = pairs.mean(pairs.scale), pairs.mean(pairs.share), system.base
    if system.second is not None:
        base = torch.addcmul(base, system.second, share[:, None])
    logits = torch.addcmul(system.constant, base, scale[:, None])
    if not is_finite(logits):
        raise not_finite()
    top = logits.topk(n + 1)  # the last is the best of the others
    tokens = top.indices[:, :n].sort().values  # ascending, so that ties go to the smaller id
    second = torch.zeros_like(scale) if system.second is None else reach_of(system.second)
    bounds = torch.stack([top.values[:, n], reach_of(base), second, scale, share], 1)
    found = _Found(torch.zeros(len(pairs.at), dtype=torch.int64), torch.zeros(len(pairs.at), dtype=torch.bool))
    for branches in _blocks(len(tokens), n * len(system.largest)):
        here = (pairs.at >= branches.start) & (pairs.at < branches.stop)
        found.best[here], found.decided[here] = _best(pairs, here, tokens[branches], bounds[branches], branches.start)
    return found


def _best(
    pairs: _Pairs, here: torch.Tensor, tokens: torch.Tensor, bounds: torch.Tensor, first: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best of the candidates, and whether no other token can be better, of the pairs ``here``, bool [n], which
    stand on consecutive branches from the ``first`` on, with candidates and bounds [b, K]."""
    system, branches = pairs.system, slice(first, first + len(tokens))
    columns = system.columns[:, tokens.view(-1)] if system.made is None else system.made[tokens.view(-1)]
    shared = as_numpy(
        system.base[branches].gather(1, tokens),
        system.base.new_zeros(0, 1) if system.second is None else system.second[branches].gather(1, tokens),
        columns.view(len(columns), *tokens.shape),
        system.constant[tokens],
    )
    [indices] = as_numpy(system.indices)
    own = as_numpy(
        pairs.condition[here], pairs.delta[here], pairs.scale[here], pairs.share[here], pairs.at[here] - first
    )
    best, decided = torch.zeros(len(own[0]), dtype=torch.int64), torch.zeros(len(own[0]), dtype=torch.bool)
    among, out = as_numpy(tokens, bounds, system.largest), as_numpy(best, decided)

    def loop(part: slice) -> None:
        condition, *mine = (x[part] for x in own)
        loops().choose(*shared, condition, indices, *mine, *among, SLACK, *(x[part] for x in out))

    in_threads(loop, len(best))
    return best, decided


def _blocks(branches: int, each: int) -> Iterator[slice]:
    """Branches whose candidates' columns, ``each`` numbers, fit in memory together."""
    step = max(1, CANDIDATE_BYTES // (4 * max(each, 1)))
    for start in range(0, branches, step):
        yield slice(start, min(start + step, branches))
