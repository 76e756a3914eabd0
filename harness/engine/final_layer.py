"""The last layer, as the closed form has it: which conditions it is valid for, what one pass of the untouched model
leaves, and the unembedding that all conditions share; :mod:`harness.engine.condition_blocks` has the algebra.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float32

from harness.conditions.conditions import BASELINE, site_of
from harness.conditions.frozen import Directions
from harness.conditions.placed import where_all
from harness.conditions.units import NEURONS
from harness.engine.columns import Tokens
from harness.engine.condition_blocks import Base, ConditionBlock
from harness.model.key_values import cache_of
from harness.model.readout import BLOCK_ROWS, probe_norm

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.conditions.units import Site
    from harness.model.model import Batch, Model


def site_in(conditions: Sequence[Condition]) -> Site | None:
    """The one site that the conditions edit, neurons where they edit nothing; None of several."""
    sites = list(dict.fromkeys(site_of(edit) for condition in conditions for edit in condition.edits))
    return None if len(sites) > 1 else sites[0] if sites else NEURONS


def fits(model: Model, conditions: Sequence[Condition]) -> bool:
    """Whether the closed form is valid: the edits are of the last layer only and of one site, whose units write into
    what the layer adds; those of a condition act at the same tokens, on no unit twice; and the last MLP's output enters
    the final residual in one of the two ways of :mod:`harness.engine.condition_blocks`."""
    site, last = site_in(conditions), model.anatomy.n_layers - 1
    if site is None or site.enters is None:
        return False
    for condition in conditions:
        edited = [index for edit in condition.edits for index in edit.indices]
        if (
            where_all(condition) is None
            or any(getattr(edit, "reads_all", False) for edit in condition.edits)
            or len(set(edited)) < len(edited)
            or any(edit.layer != last for edit in condition.edits)
        ):
            return False
    return site.enters == "residual" or _enters_straight(model, site.enters == "experts")


def _enters_straight(model: Model, experts: bool) -> bool:
    """Whether what the last layer's dense neurons (its ``experts``) write enters the final residual as it is, times a
    factor, or through an RMSNorm."""
    anatomy = model.anatomy
    if not (anatomy.experts_enter if experts else anatomy.neurons_enter):
        return False
    post_norm = anatomy.post_mlp_norms[-1]
    if post_norm is None:
        return anatomy.direct_write or anatomy.residual_multiplier != 1.0
    kind, _, _, bias = probe_norm(post_norm, anatomy.d_model)
    return kind == "rmsnorm" and bias is None


@dataclass(frozen=True)
class Observed:
    """What a pass of the untouched model leaves, at B places.

    Attributes (float32):
        residual: [B, d_model], the final residual. rest: [B, d_model], it without what the last MLP writes.
        neurons: [B, d_mlp], the last layer's activations; of another site than neurons those of its units in use.
        own: [B, d_model], what units of another site than neurons write into: what the last MLP returned, before a
            norm behind it, or nothing (0) in the residual stream. Of neurons it is made from their activations, [B, 0].
    """

    residual: Float32[torch.Tensor, "*B d_model"]
    rest: Float32[torch.Tensor, "*B d_model"]
    neurons: Float32[torch.Tensor, "*B d_mlp"]
    own: Float32[torch.Tensor, "*B d_own"]

    def __getitem__(self, place: object) -> Observed:
        return self.map(lambda x: x[place])  # type: ignore[index]

    def map(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> Observed:
        """The same with ``fn`` of each array."""
        return Observed(fn(self.residual), fn(self.rest), fn(self.neurons), fn(self.own))

    @classmethod
    def cat(cls, parts: Sequence[Observed]) -> Observed:
        """The places of all parts, in order."""
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))


class FinalLayer:
    """All conditions' logits from the final residual and the last layer's activations.

    Attributes:
        site: what the conditions edit. units: which of the layer's units ``w_out`` and activations are of, int64 [n];
            None: all, as of neurons.

    Args:
        column_bytes: in parts of consecutive conditions whose columns of W w_out^T are held in so many bytes. By
            default all are one part, whose columns are made again and again where they would take too much memory.
    """

    def __init__(self, model: Model, conditions: Sequence[Condition], column_bytes: int | None = None) -> None:
        self.model, self.n = model, len(conditions)
        self.layer, readout, anatomy = model.anatomy.n_layers - 1, model.readout, model.anatomy
        self.device, self.n_tokens = readout.W_U.device, len(readout.W_U)
        self.constant = readout.folded_bias(centre=False) * readout.scale
        self.site = site_in(conditions) or NEURONS
        used = sorted({i for condition in conditions for edit in condition.edits for i in edit.indices})
        self.units = None if self.site == NEURONS else torch.tensor(used, dtype=torch.long)
        self.w_out = self.site.written(model, self.layer, None if self.units is None else used).to(self.device)
        self.bias = model.down_bias(self.layer) if self.units is None else None
        self.multiplier = 1.0 if self.site.enters == "residual" else anatomy.residual_multiplier
        self.post_norm = None
        self.written = self.w_out * self.multiplier
        if self.site.enters != "residual" and (module := anatomy.post_mlp_norms[-1]) is not None:
            _, eps, gain, _ = probe_norm(module, anatomy.d_model)
            self.post_norm = eps, gain.to(self.device)
            self.written = self.w_out * self.post_norm[1]
        if readout.centre_writes:
            self.written = self.written - self.written.mean(1, keepdim=True)
        self.directions, self.held = Directions(readout, conditions), column_bytes is not None
        whole = [(0, len(conditions))] if column_bytes is None else self._split(conditions, column_bytes)
        self.parts = [ConditionBlock(self, conditions[start:stop], start) for start, stop in whole]

    @cached_property
    def untouched(self) -> ConditionBlock:
        """The untouched model as the only condition."""
        return ConditionBlock(self, [BASELINE], 0)

    @cached_property
    def longest(self) -> float:
        """Largest norm of a row of W."""
        gain = self.model.readout.gain
        return max(float((rows.float() * gain).norm(dim=1).max()) for rows in self.model.readout.W_U.split(BLOCK_ROWS))

    def places(self, indices: Sequence[int]) -> list[int]:
        """Rows of ``w_out`` of some of the layer's units."""
        if self.units is None:
            return list(indices)
        return torch.searchsorted(self.units, torch.tensor(indices, dtype=torch.long)).tolist()

    def _split(self, conditions: Sequence[Condition], column_bytes: int) -> Iterator[tuple[int, int]]:
        """Runs of consecutive conditions whose columns fit in ``column_bytes``; at least one condition each."""
        room = max(1, column_bytes // (4 * self.n_tokens) - len(self.directions.v))
        start, used = 0, set[int]()
        for stop, condition in enumerate(conditions):
            own = {i for edit in condition.edits for i in edit.indices}
            if len(used | own) > room and stop > start:
                yield start, stop
                start, used = stop, set()
            used |= own
        yield start, len(conditions)

    def run(self, batch: Batch, past: object = None, use_cache: bool = False) -> tuple[Observed, object]:
        """One pass of the untouched model: what it leaves at every position [batch, pos, ...], and the cache.

        In float32 what the last MLP writes is added here, by the model's own modules: once it is rounded into the
        residual, the rest cannot be had to more digits than the sum. In half precision the order in which a model adds
        shows, and its own sum is taken; so it is for units that are read from all of it.
        """
        model = self.model
        into = self.site.enters
        hold = into != "residual" and model.dtype in (torch.float32, torch.float64)
        writes: AbstractContextManager[list[torch.Tensor]] = contextlib.nullcontext([])
        if into != "residual":
            writes = (model.capture_expert_write if into == "experts" else model.capture_write)(self.layer, hold)
        with (
            model.capture_residual() as captured,
            self.site.capture(model, [self.layer]) as neurons,
            writes as written,
            model.without_logits(),
        ):
            out = model.forward(batch, past=past, logits_to_keep=1, use_cache=use_cache)
        seen = captured.residual
        acts = neurons[self.layer].view(*seen.shape[:2], -1)
        if self.units is not None:
            acts = acts[..., self.units.to(acts.device)]
        if into == "residual":  # an edit adds to all of it, whatever the MLP wrote
            left = seen, seen, acts, torch.zeros_like(seen)
        else:
            write = written[-1]
            own = seen[..., :0] if self.units is None else write.view_as(seen)
            if (post_norm := model.anatomy.post_mlp_norms[-1]) is not None:
                write = post_norm.forward(write)
            if model.anatomy.residual_multiplier != 1.0:
                write = write * model.anatomy.residual_multiplier
            write = write.view_as(seen).to(seen)
            residual, rest = (seen + write, seen) if hold else (seen, seen.float() - write.float())
            left = residual, rest, acts, own
        return Observed(*(x.to(self.device).float() for x in left)), cache_of(out)

    def project(self, x: torch.Tensor, tokens: Tokens = slice(None)) -> torch.Tensor:
        """x @ W^T, float32 [n, d_vocab], of vectors [n, d_model], or some of its columns; W, which is W_U times the
        gain, is never made."""
        x, W_U = x * self.model.readout.gain, self.model.readout.W_U[tokens]
        if W_U.dtype == torch.float32:
            return x @ W_U.T
        out = x.new_empty(len(x), len(W_U))
        for start in range(0, len(W_U), BLOCK_ROWS):
            out[:, start : start + BLOCK_ROWS] = x @ W_U[start : start + BLOCK_ROWS].float().T
        return out

    def scale(self, square: torch.Tensor) -> torch.Tensor:
        """Factor on the logits by the final norm, float64, from the squared norm of the centred residual (float64)."""
        readout = self.model.readout
        if readout.norm == "none":
            return torch.full_like(square, readout.scale)
        return readout.scale / (square.clamp_min(0) / self.model.anatomy.d_model + readout.eps).sqrt()

    def finish(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits from residuals times W^T and the norm's factor: with their constant part, capped."""
        logits, cap = logits + self.constant, self.model.readout.cap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def exactly(self, x: torch.Tensor) -> torch.Tensor:
        """:meth:`project` in float64."""
        x, W_U = x * self.model.readout.gain.double(), self.model.readout.W_U
        out = x.new_empty(len(x), self.n_tokens)
        for start in range(0, self.n_tokens, BLOCK_ROWS):
            out[:, start : start + BLOCK_ROWS] = x @ W_U[start : start + BLOCK_ROWS].double().T
        return out

    def base(self, seen: Observed) -> Base:
        """What all conditions share at some places."""
        return Base(self, seen)
