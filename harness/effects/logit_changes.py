"""How conditions change the distributions of the untouched model: the sums that effects are made of.

With p the untouched distribution, l = log p, and x the change of the logits under a condition (one vector for each kind
of effect), everything follows from

    sum p (e^x - 1),   sum p (e^x (l + x) - l),   sum p x,   x of the target,   sum p_freq x

and x is a sum of a few fixed vectors, x = kappa base + beta push + theta second + eta direction, less a number that
softmax does not see. Where x is large, that number is its mean under p: by Jensen's inequality sum p e^x is then at
least 1, so that its logarithm keeps its digits whatever the edit does. What float32 cannot hold is left to
:mod:`harness.effects.by_definition`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from harness.engine.kernels import System, as_numpy, in_threads, loops
from harness.engine.systems import shrunk

Kind = Literal["total", "frozen_norm", "frozen_unigram"]

BLOCK_BYTES = 64 * 2**20
"""Size of one block of changes where torch makes them."""

COPY_BYTES = 2**28
"""Size of the columns that are copied at once."""

SMALL = 1.0
"""Changes of logits up to which sum p e^x is at least 1 / e without a look at the mean of x."""

LARGEST = 40.0
"""Sum of the magnitudes of the parts of a change up to which float32 holds it: rounding is 3e-6 nats there, and e^x
does not overflow after the mean of x is taken away."""

Found = tuple[torch.Tensor, ...]
"""The five sums above, float64 [C, R, E] each, E kinds of effects."""


Ranks = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Rank of the target (how many other tokens have at least its logit) and the best token, int64 [C, R, E] each, and this
token's l + x, float64 [C, R, E]: its log-probability but for the change of the normaliser."""


@dataclass(frozen=True)
class Unigram:
    """A unigram distribution: its probabilities, and the centred log-probabilities (the direction), float64 [V]."""

    p: torch.Tensor
    direction: torch.Tensor


@dataclass(frozen=True)
class Problem:
    """Conditions (``system`` [C, R]) beside the untouched model (``before`` [1, R]) at R places with targets [R]."""

    system: System
    before: System
    kinds: tuple[Kind, ...]
    target: torch.Tensor
    unigram: Unigram | None
    log_p: torch.Tensor
    """Log-probabilities of the untouched model, float32 [R, V]."""

    @classmethod
    def of(
        cls, system: System, before: System, kinds: tuple[Kind, ...], target: torch.Tensor, unigram: Unigram | None
    ) -> Problem:
        [(_, logits)] = before.blocks()
        log_p = (logits[0] - logits[0].double().logsumexp(-1, keepdim=True)).float()
        if system.cap is None:
            system, before = (_centred(x, log_p.exp()) for x in (system, before))
        return cls(system, before, kinds, target, unigram, log_p)

    @cached_property
    def p(self) -> torch.Tensor:
        """Probabilities of the untouched model, float32 [R, V]."""
        return self.log_p.exp()

    @cached_property
    def loss(self) -> torch.Tensor:
        """Float64 [R]."""
        return -self.log_p.gather(-1, self.target[:, None])[:, 0].double()

    @cached_property
    def entropy(self) -> torch.Tensor:
        """Float64 [R]."""
        found: torch.Tensor = -torch.linalg.vecdot(self.p, self.log_p).double()
        return found

    @cached_property
    def factors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """kappa, beta and theta, float64 [C, R, E]: what multiplies base, push and second."""
        scale, scale0, zero = (
            self.system.scale.double(),
            self.before.scale.double(),
            torch.zeros_like(self.system.scale),
        )
        found = []
        for kind in self.kinds:
            s = scale0.expand_as(scale) if kind == "frozen_norm" else scale
            theta = zero.double()
            if self.system.share is not None and self.before.share is not None:
                theta = s * self.system.share.double() - scale0 * self.before.share.double()
            found.append((s - scale0, s, theta))
        kappa, beta, theta = (torch.stack(x, -1) for x in zip(*found, strict=True))
        return kappa, beta, theta

    def along(self, vector: torch.Tensor) -> torch.Tensor:
        """Inner product [C, R, E] of x, but for its part along the direction, with a vector [V]; float64."""
        kappa, beta, theta = self.factors
        system = self.system
        push = (system.delta.double() * _dot(system.columns, vector)[system.indices][:, None]).sum(-1)
        found = kappa * _dot(system.base, vector)[system.at][..., None] + beta * push[..., None]
        return found if system.second is None else found + theta * _dot(system.second, vector)[system.at][..., None]

    @cached_property
    def eta(self) -> torch.Tensor:
        """Factor of the direction, float64 [C, R, E]: takes back what x has along it where that is frozen."""
        found = torch.zeros_like(self.factors[0])
        if self.unigram is not None and "frozen_unigram" in self.kinds:
            e = self.kinds.index("frozen_unigram")
            direction = self.unigram.direction
            found[..., e] = -self.along(direction)[..., e] / direction.square().sum()
        return found

    @cached_property
    def bound(self) -> torch.Tensor:
        """Bound on the largest change of a logit, float64 [C, R, E]: the sum of the largest magnitudes of its parts."""
        system, (kappa, beta, theta) = self.system, self.factors
        pushed = (system.delta.abs().double() * system.largest.double()[system.indices][:, None]).sum(-1)
        bound = beta.abs() * pushed[..., None] + kappa.abs() * _reach(system.base)[:, None]
        if system.second is not None:
            bound = bound + theta.abs() * _reach(system.second)[:, None]
        return bound if self.unigram is None else bound + self.eta.abs() * self.unigram.direction.abs().max()

    @cached_property
    def wild(self) -> torch.Tensor:
        """Pairs that float32 cannot hold, bool [C, R]: a change may be too large, or has lost its digits."""
        return ~(self.bound <= LARGEST).all(-1) | shrunk(self.system, self.before)

    @cached_property
    def mean(self) -> torch.Tensor:
        """What x is used less, float64 [C, R, E]: its mean under p, or 0 where x is small."""
        system, p, (kappa, beta, theta) = self.system, self.p, self.factors
        large = self.bound > SMALL
        if not large.any():
            return torch.zeros_like(kappa)
        moving = torch.unique(system.indices[large.any(-1).any(-1)])
        means = p.new_zeros(len(p), len(system.columns))
        for some in moving.split(max(1, COPY_BYTES // (4 * p.shape[1]))):
            means[:, some] = p @ system.columns[some].T
        push = (system.delta.double() * means.double()[:, system.indices].transpose(0, 1)).sum(-1)
        found = beta * push[..., None] + kappa * torch.linalg.vecdot(p, system.base).double()[:, None]
        if system.second is not None:
            found = found + theta * torch.linalg.vecdot(p, system.second).double()[:, None]
        if self.unigram is not None:
            found = found + self.eta * (p.double() @ self.unigram.direction)[:, None]
        return torch.where(large, found, 0.0)

    @property
    def compiled(self) -> bool:
        """Whether the compiled loop can do it."""
        return self.system.cap is None and self.system.base.device.type == "cpu"

    def blocks(self) -> Iterator[slice]:
        """Parts of the conditions whose changes fit in ``BLOCK_BYTES``."""
        n, rows = self.system.at.shape
        step = max(1, BLOCK_BYTES // (8 * 4 * max(rows, 1) * self.system.base.shape[1]))
        for start in range(0, n, step):
            yield slice(start, min(start + step, n))

    def part(self, conditions: torch.Tensor) -> Problem:
        """The same for some of the conditions."""
        return replace(self, system=self.system.part(conditions))


def _centred(system: System, p: torch.Tensor) -> System:
    """The system with bases whose mean under p [R, V] is 0 at each place: softmax does not see the difference, and what
    a change of the norm adds is smaller."""

    def centred(rows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = rows - torch.linalg.vecdot(p, rows)[:, None]
        return found

    second = None if system.second is None else centred(system.second)
    return replace(system, base=centred(system.base), second=second)


def _reach(rows: torch.Tensor) -> torch.Tensor:
    """Largest magnitude in each row [n] of rows [n, V], float64."""
    low, high = rows.aminmax(dim=-1)
    return torch.maximum(high, -low).double()


def _dot(rows: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Inner products [n] of rows [n, V] with a vector [V], in float64, without a float64 copy of all rows."""
    return torch.cat([rows.new_zeros(0).double(), *(block.double() @ vector for block in rows.split(256))])


def changes(problem: Problem, wanted: torch.Tensor | None = None) -> Found:
    """The five sums of every condition, place and kind.

    Args:
        wanted: bool [C, R], pairs to be done; the others, and those that are ``wild``, are left at 0.
    """
    wanted = ~problem.wild if wanted is None else wanted & ~problem.wild
    return (_changes_compiled if problem.compiled else changes_plain)(problem, wanted)


def changes_plain(problem: Problem, wanted: torch.Tensor) -> Found:
    """The same in float64, a block of conditions at a time; for soft caps and other devices."""
    log_p = problem.log_p.double()
    p, parts = log_p.exp(), []
    for here in problem.blocks():
        found = []
        for x in _logit_changes(problem, here, wanted):
            grown, target = torch.exp(log_p + x) - p, x.gather(-1, problem.target.expand(len(x), -1)[..., None])[..., 0]
            spread = (grown * (log_p + x) + p * x).sum(-1)
            frequent = torch.zeros_like(target) if problem.unigram is None else x @ problem.unigram.p
            found.append(((p * torch.expm1(x)).sum(-1), spread, (p * x).sum(-1), target, frequent))
        parts.append([torch.stack(x, -1) for x in zip(*found, strict=True)])
    return tuple(torch.cat(x) for x in zip(*parts, strict=True))


def ranks(problem: Problem) -> Ranks:
    """Ranks of every condition, place and kind; of pairs that are ``wild`` they mean nothing."""
    if problem.compiled:
        return _ranks_compiled(problem)
    rank, best, highest = [], [], []
    for here in problem.blocks():
        logits = [problem.log_p.double() + change for change in _logit_changes(problem, here, ~problem.wild)]
        own = [y.gather(-1, problem.target.expand(len(y), -1)[..., None]) for y in logits]
        rank.append(torch.stack([(y >= o).sum(-1) - 1 for y, o in zip(logits, own, strict=True)], -1))
        best.append(torch.stack([y.argmax(-1) for y in logits], -1))
        highest.append(torch.stack([y.amax(-1) for y in logits], -1))
    return torch.cat(rank), torch.cat(best), torch.cat(highest)


def _logit_changes(problem: Problem, here: slice, wanted: torch.Tensor) -> Iterator[torch.Tensor]:
    """x of every kind in turn for the conditions ``here``, float64 [c, R, V]; 0 where it is not ``wanted`` [C, R]."""
    system = problem.system.part(torch.arange(here.start, here.stop, device=problem.system.at.device))
    uncapped = replace(problem.before, cap=None)
    [(_, logits)] = uncapped.blocks()
    z0, p = logits[0].double(), problem.p.double()
    push = torch.einsum("crk,ckv->crv", system.delta.double(), system.columns[system.indices].double())
    kappa, beta, theta = (x[here] for x in problem.factors)
    for e, kind in enumerate(problem.kinds):
        x = kappa[..., e, None] * system.base[system.at].double() + beta[..., e, None] * push
        if system.second is not None:
            x = x + theta[..., e, None] * system.second[system.at].double()
        if system.cap is not None:
            x = system.cap * (torch.tanh((z0 + x) / system.cap) - torch.tanh(z0 / system.cap))
        if kind == "frozen_unigram" and problem.unigram is not None:
            v = problem.unigram.direction
            x = x - (x @ v / v.square().sum())[..., None] * v
        x = x - torch.linalg.vecdot(p.expand_as(x), x)[..., None]
        yield torch.where(wanted[here, :, None], x, 0.0)


def _compiled_arrays(problem: Problem) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """What all conditions share (base, second, columns, extra, log p), and what each has of its own (indices, delta,
    kappa, beta, theta, eta, mean), as the compiled loops take them."""
    system = problem.system
    extra = torch.zeros(0) if problem.unigram is None else problem.unigram.direction.float()
    shared = as_numpy(system.base, system.second_rows, system.columns, extra, problem.log_p)
    factors = (x.float() for x in (*problem.factors, problem.eta, problem.mean))
    return shared, as_numpy(system.indices, system.delta, *factors)


def _changes_compiled(problem: Problem, wanted: torch.Tensor) -> Found:
    shape = tuple(problem.factors[0].shape)
    sums = np.zeros((*shape, 3))
    (shared, own), (p, reach, chosen) = _compiled_arrays(problem), as_numpy(problem.p, problem.system.largest, wanted)

    def loop(here: slice) -> None:
        loops().changes(*shared, *(x[here] for x in own), p, reach, chosen[here], sums[here])

    in_threads(loop, shape[0])
    grown, spread, moved = (torch.from_numpy(np.ascontiguousarray(sums[..., i])) for i in range(3))
    return grown, spread, moved, _at_target(problem), _along_unigram(problem)


def _ranks_compiled(problem: Problem) -> Ranks:
    shape = tuple(problem.factors[0].shape)
    rank, best, highest = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    (shared, own), (target, chosen) = _compiled_arrays(problem), as_numpy(problem.target, ~problem.wild)

    def loop(here: slice) -> None:
        loops().ranks(*shared, *(x[here] for x in own), target, chosen[here], rank[here], best[here], highest[here])

    in_threads(loop, shape[0])
    return torch.from_numpy(rank), torch.from_numpy(best), torch.from_numpy(highest).double()


def _at_target(problem: Problem) -> torch.Tensor:
    """x of the target [C, R, E]."""
    system, (kappa, beta, theta), target = problem.system, problem.factors, problem.target
    rows = torch.arange(len(target))
    push = (system.delta.double() * system.columns[system.indices[:, None, :], target[None, :, None]].double()).sum(-1)
    found = kappa * system.base[rows, target].double()[:, None] + beta * push[..., None] - problem.mean
    if system.second is not None:
        found = found + theta * system.second[rows, target].double()[:, None]
    return found if problem.unigram is None else found + problem.eta * problem.unigram.direction[target][:, None]


def _along_unigram(problem: Problem) -> torch.Tensor:
    """sum p_freq x [C, R, E]."""
    if problem.unigram is None:
        return torch.zeros_like(problem.factors[0])
    own = problem.along(problem.unigram.p) - problem.mean
    return own + problem.eta * (problem.unigram.direction @ problem.unigram.p)
