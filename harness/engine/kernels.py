"""Best token, normaliser and entropy of many distributions that differ by a few columns, without storing them.

A :class:`System` says what the logits are; on the CPU one compiled loop (numba) makes the logits of a condition in the
processor's cache, reduces them and forgets them; elsewhere torch does it in blocks. Both return the same numbers to
float32 precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import torch

from harness.errors import HarnessError

BLOCK_BYTES = 32 * 2**20
"""Size of one block of logits where torch makes them."""

CANDIDATES = 16
"""Tokens of a branch that are tried first when only the best token is wanted."""

SLACK = 1e-5
"""Relative margin by which a candidate must beat the bound on all others: far above the rounding of float32."""


@dataclass(frozen=True)
class System:
    """The logits of C conditions at R places each, which stand on B branches (distinct token prefixes):

        l[c, r] = cap((base[b] + share[c, r] * second[b] + sum_j delta[c, r, j] * columns[indices[c, j]])
                       * scale[c, r] + constant),      b = at[c, r],      cap(l) = cap * tanh(l / cap)

    and, where ``after`` is given, after[c, r] * directions[which[c]] on top: what is added to capped logits.

    Attributes (float32 unless said otherwise):
        base: [B, V]. second: [B, V] or None. columns: [m, V]. constant: [V].
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
    directions: torch.Tensor | None = None
    which: torch.Tensor | None = None
    after: torch.Tensor | None = None

    def __post_init__(self) -> None:
        for array in (self.base, self.second, self.delta, self.scale, self.share, self.after):
            if array is not None and not torch.isfinite(array).all():
                raise not_finite()

    @property
    def largest(self) -> torch.Tensor:
        """Largest magnitude in each column [m]."""
        if self.reach is not None:
            return self.reach
        return self.columns.abs().amax(1) if len(self.columns) else self.columns.new_zeros(0)

    @property
    def second_rows(self) -> torch.Tensor:
        """The second base; where there is none, an array without rows, as compiled loops want it."""
        return self.base.new_zeros(0, self.base.shape[1]) if self.second is None else self.second

    def gather(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [C, R, n] of tokens [C, R, n]."""
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


def not_finite() -> HarnessError:
    return HarnessError("the model's logits are not finite under some condition (NaN or infinity).")


def summarise(system: System, target: torch.Tensor | None = None) -> Summary:
    """Summaries of all distributions; ``target``: tokens [R] whose logits ``reached`` compares with; else it is 0.

    Raises:
        HarnessError: a distribution is not finite.
    """
    shape = system.at.shape
    if target is None:
        target = torch.full(shape[1:], -1, device=system.base.device)
    if system.at.numel() == 0:
        empty = torch.zeros(shape, device=system.base.device)
        return Summary(empty.long(), empty, empty, empty.long(), empty)
    found = (_summarise_numba if _compiled(system) else _summarise_torch)(system, target)
    if not torch.isfinite(found.normaliser).all() or not torch.isfinite(found.entropy).all():
        raise not_finite()
    return found


def choose(system: System) -> torch.Tensor:
    """Best token of all distributions, int64 [C, R]; ties to the smaller id."""
    if not _compiled(system) or system.at.numel() == 0:
        return summarise(system).best
    return _choose_numba(system)


def _compiled(system: System) -> bool:
    return system.base.device.type == "cpu" and system.cap is None and system.after is None


# -- torch -----------------------------------------------------------------------------------------------------------


def _summarise_torch(system: System, target: torch.Tensor) -> Summary:
    found = Summary(*(torch.empty(system.at.shape, device=system.base.device, dtype=t) for t in _TYPES))
    for here, logits in system.blocks():
        top, best = logits.max(-1, keepdim=True)
        shifted = (logits - top).clamp_min_(-1e4)  # a weight of 0 contributes 0, not 0 * -inf
        weights = shifted.exp()
        total = weights.sum(-1)
        found.best[here] = best[..., 0]
        found.normaliser[here] = total.log() + top[..., 0]
        # With p = softmax(l) and m = max l: H = log Z - sum p (l - m), Z = sum exp(l - m).
        found.entropy[here] = total.log() - (weights * shifted).sum(-1) / total
        own = logits.gather(-1, target.clamp_min(0).expand(len(logits), -1)[..., None])
        found.reached[here] = torch.where(target >= 0, (logits >= own).sum(-1), 0)
        found.top[here] = -total.log()
    return found


_TYPES = (torch.int64, torch.float32, torch.float32, torch.int64, torch.float32)


# -- numba -----------------------------------------------------------------------------------------------------------


def loops() -> Any:
    """The compiled loops, imported only here: importing numba takes a while."""
    from harness.engine import numba_loops as compiled

    return compiled


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


def _summarise_numba(system: System, target: torch.Tensor) -> Summary:
    compiled = loops()

    found = Summary(*(torch.empty(system.at.shape, dtype=t) for t in _TYPES))
    out = as_numpy(found.best, found.normaliser, found.entropy, found.reached, found.top)
    shared, own, [wanted] = _shared(system), _own(system), as_numpy(target)

    def loop(part: slice) -> None:
        compiled.summarise(*shared, *(x[part] for x in own), wanted, *(x[part] for x in out))

    in_threads(loop, len(system.at))
    return found


def _choose_numba(system: System) -> torch.Tensor:
    """The candidates of a branch are its best tokens at the branch's mean scale; all other tokens are bounded at once:

        l[v] <= U + B |scale - mean scale| + scale (S |share - mean share| + sum_j |delta_j| max_v |columns_j|)

    with U, B, S the largest logit, base and second base outside of the candidates. Where the best candidate does not
    beat the bound, the whole vocabulary is looked at.
    """
    compiled = loops()

    branches, n_tokens = system.base.shape
    at = system.at.reshape(-1)
    seen = torch.bincount(at, minlength=branches).clamp_min(1)
    scale = torch.zeros(branches).index_add_(0, at, system.scale.reshape(-1)) / seen
    base, share = system.base, torch.zeros(branches)
    if system.second is not None and system.share is not None:
        share = torch.zeros(branches).index_add_(0, at, system.share.reshape(-1)) / seen
        base = base + share[:, None] * system.second
    logits = torch.addcmul(system.constant, base, scale[:, None])
    n = min(CANDIDATES, n_tokens)
    candidates = logits.topk(n, sorted=False).indices.sort().values  # ascending, so that ties go to the smaller id
    rest = torch.ones_like(logits, dtype=torch.bool).scatter_(1, candidates, False)

    def outside(values: torch.Tensor) -> torch.Tensor:
        return values.masked_fill(~rest, float("-inf")).amax(-1) if n < n_tokens else torch.full((branches,), -1e30)

    second = torch.zeros(branches) if system.second is None else outside(system.second.abs())
    bounds = torch.stack([outside(logits), outside(base.abs()), second, scale, share], 1)
    best = torch.empty(system.at.shape, dtype=torch.int64)
    shared, own, [out] = _shared(system), _own(system), as_numpy(best)
    extra = as_numpy(candidates, bounds, system.largest)

    def loop(part: slice) -> bool:
        found: bool = compiled.choose(*shared, *(x[part] for x in own), *extra, out[part], SLACK)
        return found

    if not all(in_threads(loop, len(system.at))):
        raise not_finite()
    return best
