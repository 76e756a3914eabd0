"""What engines run: the logits of every condition, as right as float32 can have them, with what conditions freeze.

A condition's logits are a base plus columns, times the norm's scale (:mod:`harness.engine.condition_blocks`). Where one
neuron makes up most of the final residual, an edit of it leaves the difference of two large vectors, and float32 has
few digits left of it. Such a pair of a condition and a place gets a base of its own instead, from a residual that is
added up in float64 without what the edit takes away; no column is added to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from harness.engine.columns import reach_of
from harness.engine.kernels import System

if TYPE_CHECKING:
    from harness.engine.condition_blocks import Base, ConditionBlock
    from harness.engine.final_layer import FinalLayer, Observed

SHRUNK = 8.0
"""Factor by which an edit may shrink what a norm divides by: rounding of the residual then grows by as much."""

PUSHED = 64.0
"""Nats by which columns may change a logit before they are weighed against the size of the logits."""

ALONE_BYTES = 2**28
"""Memory for bases of single pairs."""


def systems(final: FinalLayer, seen: Observed, at: torch.Tensor | None = None) -> Iterator[tuple[slice, System]]:
    """The logits of every condition, some consecutive conditions at a time.

    Args:
        seen: at B places. at: int64 [C, R], the place that each row of each condition stands on; default: row i of
            every condition on place i.
    """
    if at is None:
        at = torch.arange(len(seen.residual), device=final.device).expand(final.n, -1)
    base = final.base(seen)
    room = max(1, ALONE_BYTES // (4 * final.n_tokens))
    for part in final.parts:
        here = at[part.start : part.start + part.n]
        whole = part.system(base, here)
        alone = cancels(whole, final, base)
        for some in _slices(alone.sum(1).cpu().tolist(), room):
            yield (
                slice(part.start + some.start, part.start + some.stop),
                _finished(part, whole, base, here, alone, some),
            )


def shrunk(system: System, before: System) -> torch.Tensor:
    """Where an edit takes away most of what a norm divides by, bool [C, R]; ``before``: the untouched model [1, B]."""
    found = system.scale > SHRUNK * before.scale[0, system.at]
    if system.share is not None and before.share is not None:
        found |= system.share > SHRUNK * before.share[0, system.at]
    return found


def cancels(system: System, final: FinalLayer, base: Base) -> torch.Tensor:
    """Where the sum of base and columns has lost digits that its value needs, bool [C, R]."""
    before = final.untouched.system(base, torch.arange(len(base.x), device=final.device)[None])
    far = torch.zeros_like(system.scale, dtype=torch.bool)
    sizes = before.scale[0] * reach_of(base.logits)
    for reach in (system.at_most, system.largest):  # what bounds the columns, then the columns
        pushed = (system.delta.abs() * reach[system.indices][:, None]).sum(-1) * system.scale
        far = (pushed > PUSHED) & (pushed > sizes[system.at])
        if not far.any():
            break
    return far | shrunk(system, before)


def _slices(sizes: list[int], room: int) -> Iterator[slice]:
    """Consecutive slices whose sizes add up to at most ``room``, at least one element each."""
    start, used = 0, 0
    for stop, size in enumerate(sizes):
        if stop > start and used + size > room:
            yield slice(start, stop)
            start, used = stop, 0
        used += size
    yield slice(start, len(sizes))


@dataclass(frozen=True)
class _Standing:
    """Places that conditions stand on, ``at`` [C, R]."""

    base: Base
    at: torch.Tensor


def _finished(
    part: ConditionBlock, whole: System, base: Base, at: torch.Tensor, alone: torch.Tensor, here: slice
) -> System:
    """The conditions ``here`` of a part, those pairs that are ``alone`` [C, R] on places of their own."""
    final, untouched = part.final, _Standing(base, at[here])
    system, now = whole, untouched
    if (here.start, here.stop) != (0, part.n):
        system = whole.part(torch.arange(here.start, here.stop, device=at.device))
    if alone[here].any():
        c, r = alone[here].nonzero().T
        x = part.residuals(base, at, (c + here.start, r))
        now = _Standing(base.with_places(x), at[here].clone())
        now.at[c, r] = torch.arange(len(base.x), len(now.base.x), device=at.device)
        delta, scale = system.delta.clone(), system.scale.clone()
        delta[c, r], scale[c, r] = 0.0, final.scale(x.square().sum(-1)).float()
        if part.norm_held is not None:
            scale = torch.where(part.norm_held[here, None], system.scale, scale)
        system = replace(system, base=now.base.logits, second=now.base.second, at=now.at, delta=delta, scale=scale)
    return system if part.direction is None else _held(part, system, now, untouched, part.direction[here])


def _held(
    part: ConditionBlock, system: System, now: _Standing, untouched: _Standing, direction: torch.Tensor
) -> System:
    """The same logits with the untouched model's component along each condition's direction (-1: none)."""
    final = part.final
    v, which = final.directions.v, direction.clamp_min(0)
    held = (direction >= 0)[:, None]
    if system.cap is None:
        factor = _lost(part, system, now, untouched, which) / v.square().sum(1)[which, None]
        factor = torch.where(held, factor / system.scale.double(), 0.0).float()
        indices = torch.cat([system.indices, len(part.used) + which[:, None]], 1)
        return replace(system, indices=indices, delta=torch.cat([system.delta, factor[..., None]], -1))
    # Behind a soft cap the component is that of the capped logits, which have to be made.
    places = torch.arange(len(untouched.base.x), device=v.device)[None]
    [(_, logits)] = final.untouched.system(untouched.base, places).blocks()
    factor = torch.zeros_like(system.scale)
    for c in held[:, 0].nonzero()[:, 0]:
        own = v[which[c]]
        before = torch.cat([rows.double() @ own for rows in logits[0].split(256)])
        after = torch.zeros_like(before[untouched.at[c]])
        for tokens, tile in system.part(c[None]).tiles():
            [(_, logits_c)] = tile.blocks()
            after += logits_c[0].double() @ own[tokens]
        factor[c] = ((before[untouched.at[c]] - after) / (own @ own)).float()
    return replace(system, directions=v.float(), which=which, after=factor)


def _lost(
    part: ConditionBlock, system: System, now: _Standing, untouched: _Standing, which: torch.Tensor
) -> torch.Tensor:
    """What the edits take of the logits along each condition's direction, (l0 - l) . v, float64 [C, R]."""
    final, column = part.final, which[:, None]
    back, (square, share) = final.directions.back, untouched.base.untouched
    pushes = (part.written.double() @ back.T)[system.indices, column]  # [C, k]
    theirs, mine = ((x.base.x @ back.T)[x.at, column] for x in (untouched, now))
    if untouched.base.y is not None and now.base.y is not None and system.share is not None:
        theirs = theirs + share[untouched.at] * (untouched.base.y @ back.T)[untouched.at, column]
        mine = mine + system.share.double() * (now.base.y @ back.T)[now.at, column]
    mine = mine + (system.delta.double() * pushes[:, None]).sum(-1)
    return final.scale(square).float()[untouched.at].double() * theirs - system.scale.double() * mine
