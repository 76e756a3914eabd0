"""Best token, normaliser and entropy of many distributions that differ by a few columns, without storing them.

A :class:`System` says what the logits are; on the CPU one compiled loop (numba) makes the logits of a condition in the
processor's cache, a stretch of the vocabulary at a time, adds them to running sums and forgets them; elsewhere torch
does it in blocks. Both return the same numbers to float32 precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import torch

from harness.engine.columns import Columns, Tokens, reach_of
from harness.errors import HarnessError

BLOCK_BYTES = 32 * 2**20
"""Size of one block of logits where torch makes them."""


@dataclass(frozen=True)
class System:
    """The logits of C conditions at R places each, which stand on B branches (distinct token prefixes):

        l[c, r] = cap((base[b] + share[c, r] * second[b] + sum_j delta[c, r, j] * columns[indices[c, j]])
                       * scale[c, r] + constant),      b = at[c, r],      cap(l) = cap * tanh(l / cap)

    and, where ``after`` is given, after[c, r] * directions[which[c]] on top: what is added to capped logits.

    Attributes (float32 unless said otherwise):
        base: [B, V]. second: [B, V] or None. constant: [V].
        columns: [m, V], or [m, 0] where they are ``made``, because all at once would take too much memory.
        reach: [m], the largest magnitude in each column; made where it is not given.
        indices: int64 [C, k]. delta: [C, R, k]. scale, share: [C, R]. at: int64 [C, R].
        directions: [n, V]. which: int64 [C]. after: [C, R]. The compiled loops do not know them.
    """

    base: torch.Tensor
    second: torch.Tensor | None
    columns: torch.Tensor
    constant: torch.Tensor
    indices: torch.Tensor
    delta: torch.Tensor
    scale: torch.Tensor
    share: torch.Tensor | None
    at: torch.Tensor
    cap: float | None = None
    reach: torch.Tensor | None = None
    made: Columns | None = None
    directions: torch.Tensor | None = None
    which: torch.Tensor | None = None
    after: torch.Tensor | None = None

    def __post_init__(self) -> None:
        for array in (self.base, self.second, self.delta, self.scale, self.share, self.after):
            if array is not None and not is_finite(array):
                raise not_finite()

    @property
    def largest(self) -> torch.Tensor:
        """Largest magnitude in each column [m]."""
        if self.reach is not None:
            return self.reach
        return reach_of(self.columns) if self.made is None else self.made.reach

    @property
    def at_most(self) -> torch.Tensor:
        """Bound on :attr:`largest` [m] that is there without making the columns."""
        return self.largest if self.made is None else self.made.bound

    @property
    def second_rows(self) -> torch.Tensor:
        """The second base; where there is none, an array without rows, as compiled loops want it."""
        return self.base.new_zeros(0, self.base.shape[1]) if self.second is None else self.second

    def tiles(self) -> Iterator[tuple[slice, System]]:
        """The same logits, a stretch of the vocabulary at a time: all of it, unless columns are to be made."""
        if self.made is None:
            yield slice(0, self.base.shape[1]), self
        else:
            for here, columns in self.made.tiles():
                yield here, self.over(here, columns)

    def over(self, tokens: Tokens, columns: torch.Tensor | None = None) -> System:
        """The logits of some tokens, in their order; ``columns`` [m, n] are these tokens', if they are there."""
        if columns is None:
            columns = self.columns[:, tokens] if self.made is None else self.made[tokens]
        return replace(
            self,
            base=self.base[:, tokens],
            second=None if self.second is None else self.second[:, tokens],
            columns=columns,
            made=None,
            constant=self.constant[tokens],
            directions=None if self.directions is None else self.directions[:, tokens],
        )

    def gather(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [C, R, n] of tokens [C, R, n]."""
        if self.made is not None:
            distinct, tokens = torch.unique(tokens, return_inverse=True)
            return self.over(distinct).gather(tokens)
        logits = self.base[self.at[..., None], tokens]
        if self.second is not None and self.share is not None:
            logits = logits + self.share[..., None] * self.second[self.at[..., None], tokens]
        for j in range(self.indices.shape[1]):
            logits = logits + self.delta[..., j, None] * self.columns[self.indices[:, j, None, None], tokens]
        logits = self._capped(logits * self.scale[..., None] + self.constant[tokens])
        if self.directions is None or self.which is None or self.after is None:
            return logits
        return logits + self.after[..., None] * self.directions[self.which[:, None, None], tokens]

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Logits [c, R, V], a block of conditions at a time."""
        n, rows = self.at.shape
        step = max(1, BLOCK_BYTES // (4 * max(rows, 1) * self.base.shape[1]))
        for start in range(0, n, step):
            here = slice(start, min(start + step, n))
            logits = self.base[self.at[here]]
            if self.second is not None and self.share is not None:
                logits = torch.addcmul(logits, self.share[here, :, None], self.second[self.at[here]])
            logits = torch.baddbmm(logits, self.delta[here], self.columns[self.indices[here]])
            logits = self._capped(torch.addcmul(self.constant, logits, self.scale[here, :, None]))
            if self.directions is not None and self.which is not None and self.after is not None:
                logits = logits + self.after[here, :, None] * self.directions[self.which[here], None]
            yield here, logits

    def part(self, conditions: torch.Tensor) -> System:
        """The logits of some of the conditions, int64 [n] or bool [C]."""
        return replace(
            self,
            indices=self.indices[conditions],
            delta=self.delta[conditions],
            scale=self.scale[conditions],
            share=None if self.share is None else self.share[conditions],
            at=self.at[conditions],
            which=None if self.which is None else self.which[conditions],
            after=None if self.after is None else self.after[conditions],
        )

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


@dataclass(frozen=True)
class Summary:
    """Of every distribution [C, R]: the best token (ties to the smaller id), log sum exp l, entropy in nats, how many
    tokens have a logit of at least the target's, and the log-probability of the best token."""

    best: torch.Tensor
    normaliser: torch.Tensor
    entropy: torch.Tensor
    reached: torch.Tensor
    top: torch.Tensor


@dataclass(frozen=True)
class Sums:
    """Of the tokens so far [C, R]: the best, its logit m, sum exp(l - m), sum exp(l - m) (l - m), and how many other
    tokens have a logit of at least the target's."""

    best: torch.Tensor
    top: torch.Tensor
    total: torch.Tensor
    spread: torch.Tensor
    reached: torch.Tensor

    @classmethod
    def of_nothing(cls, shape: torch.Size, device: torch.device) -> Sums:
        best, reached = (torch.zeros(shape, dtype=torch.int64, device=device) for _ in range(2))
        top, total, spread = (torch.full(shape, x, device=device) for x in (LOWEST, 0.0, 0.0))
        return cls(best, top, total, spread, reached)

    def summary(self) -> Summary:
        """With p = softmax(l) and m = max l: H = log Z - sum p (l - m), Z = sum exp(l - m)."""
        log_z = self.total.log()
        return Summary(self.best, log_z + self.top, log_z - self.spread / self.total, self.reached, -log_z)


LOWEST = -3.4e38
"""Below every logit."""


def not_finite() -> HarnessError:
    return HarnessError("the model's logits are not finite under some condition (NaN or infinity).")


def is_finite(array: torch.Tensor) -> bool:
    """Whether all values are finite; reads the array once and makes none of its size."""
    return not array.numel() or bool(torch.isfinite(torch.stack(array.aminmax())).all())


def summarise(system: System, target: torch.Tensor | None = None) -> Summary:
    """Summaries of all distributions; ``target``: tokens [R] whose logits ``reached`` compares with; else it is 0.

    Raises:
        HarnessError: a distribution is not finite.
    """
    shape = system.at.shape
    sums = Sums.of_nothing(shape, system.base.device)
    if system.at.numel() == 0:
        return Summary(sums.best, sums.total, sums.total, sums.reached, sums.total)
    if target is None:
        wanted, own = torch.full(shape[1:], -1, device=system.base.device), torch.zeros_like(system.scale)
    else:
        wanted, own = target, _own_logits(system, target)
    for tokens, tile in system.tiles():
        (_add_numba if compiled(tile) else _add_torch)(tile, tokens.start, wanted, own, sums)
    found = sums.summary()
    if target is not None:
        found.reached.add_(1)
    if not torch.isfinite(found.normaliser).all() or not torch.isfinite(found.entropy).all():
        raise not_finite()
    return found


def compiled(system: System) -> bool:
    """Whether the compiled loops can do it."""
    return system.base.device.type == "cpu" and system.cap is None and system.after is None


# -- torch -----------------------------------------------------------------------------------------------------------


def _add_torch(tile: System, start: int, wanted: torch.Tensor, own: torch.Tensor, sums: Sums) -> None:
    """Add some tokens, the first of which is ``start``, to the sums."""
    n = tile.base.shape[1]
    inside = (wanted >= start) & (wanted < start + n)
    place = torch.where(inside, wanted - start, 0)
    for here, logits in tile.blocks():
        top, best = logits.max(-1)
        old = sums.top[here]
        new = torch.maximum(old, top)
        sums.best[here] = torch.where(top > old, best + start, sums.best[here])
        shifted = (logits - new[..., None]).clamp_min_(-1e4)  # a weight of 0 contributes 0, not 0 * -inf
        weights = shifted.exp()
        shrink = (old - new).exp()
        sums.spread[here] = shrink * (sums.spread[here] + (old - new).clamp_min(-1e4) * sums.total[here])
        sums.spread[here] += (weights * shifted).sum(-1)
        sums.total[here] = shrink * sums.total[here] + weights.sum(-1)
        sums.top[here] = new
        # The target's own logit is compared with itself where it is among these, bit by bit.
        mine = logits.gather(-1, place.expand(len(logits), -1)[..., None])[..., 0]
        least = torch.where(inside, mine, own[here])
        reached = (logits >= least[..., None]).sum(-1) - inside.long()
        sums.reached[here] += torch.where(wanted >= 0, reached, 0)


# -- numba -----------------------------------------------------------------------------------------------------------


def loops() -> Any:
    """The compiled loops, imported only here: importing numba takes a while."""
    from harness.engine import numba_loops

    return numba_loops


def _shared(system: System) -> tuple[Any, ...]:
    """What all conditions share."""
    return as_numpy(system.base, system.second_rows, system.columns, system.constant)


def _own(system: System) -> tuple[Any, ...]:
    """What each condition has of its own."""
    share = torch.zeros(system.at.shape) if system.share is None else system.share
    return as_numpy(system.indices, system.delta, system.scale, share, system.at)


def as_numpy(*tensors: torch.Tensor) -> tuple[Any, ...]:
    """The tensors as contiguous numpy arrays, without a copy where they are contiguous."""
    return tuple(tensor.contiguous().numpy() for tensor in tensors)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def in_threads(loop: Callable[[slice], Any], n: int) -> list[Any]:
    """Run ``loop`` over [0, n) in as many slices as torch has threads; compiled loops release the interpreter's lock.

    Not numba's own threads: starting those changes how many threads torch uses.
    """
    threads = max(1, min(torch.get_num_threads(), n))
    bounds = [n * i // threads for i in range(threads + 1)]
    slices = [slice(low, high) for low, high in pairwise(bounds)]
    if threads == 1:
        return [loop(slices[0])]
    return list(_pool(threads).map(loop, slices))


def _add_numba(tile: System, start: int, wanted: torch.Tensor, own: torch.Tensor, sums: Sums) -> None:
    """:func:`_add_torch` by the compiled loop."""
    out = as_numpy(sums.best, sums.top, sums.total, sums.spread, sums.reached)
    shared, mine, [place] = _shared(tile), _own(tile), as_numpy(wanted - start)
    least = own.numpy()

    def loop(part: slice) -> None:
        loops().summarise(*shared, *(x[part] for x in mine), start, place, least[part], *(x[part] for x in out))

    in_threads(loop, len(tile.at))


def _own_logits(system: System, target: torch.Tensor) -> torch.Tensor:
    """Logits [C, R] of the targets [R], as the loops that they are compared in make them."""
    if not compiled(system):
        return system.gather(target.expand(len(system.at), -1)[..., None])[..., 0]
    here = system.over(target)
    found = torch.empty_like(system.scale)
    shared, mine, [out] = _shared(here), _own(here), as_numpy(found)

    def loop(part: slice) -> None:
        loops().own_logits(*shared, *(x[part] for x in mine), out[part])

    in_threads(loop, len(system.at))
    return found
