"""The algebra of edits in the last layer: from one pass of the untouched model to the logits of every condition.

The last layer's MLP writes y = n @ w_out + bias into the residual stream, n its neurons. An edit changes n by delta on
a few neurons, hence the final residual x, and nothing else:

    direct write       x_c = x + rho * delta @ w_out                        rho: Granite's residual multiplier, else 1
    norm after the MLP x_c = r + t_c * (y * g + delta @ (w_out * g))        t_c = 1 / rms(y + delta @ w_out),
                                                                            r = x - t_0 * y * g, g the gain

    logits_c = W (x_c - mean(x_c)) / denominator(x_c) + b                   W: W_U times the final norm's gain

so the logits are one or two base vectors plus a few columns of W w_out^T, with scalar factors that follow from inner
products. Those are taken in float64, so that an edit which nearly cancels the residual does not lose its digits.

A condition that freezes the final norm has the untouched residual's denominator. One that freezes the logits' component
along v = log p_freq - mean(log p_freq) has one more column, v, whose factor takes back what the edit has changed of the
component: l . v needs x . W^T v only. With a soft cap v is added to the capped logits
(:mod:`harness.conditions.frozen`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from harness.conditions.conditions import SetNeurons
from harness.engine import columns as columns_of
from harness.engine.columns import Columns, reach_of
from harness.engine.kernels import System
from harness.model.readout import BLOCK_ROWS

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.engine.final_layer import FinalLayer, Observed

GRAM_CONDITIONS = 256
"""Conditions whose written directions are held in float64 at once."""


class Base:
    """What all conditions share at B places, centred as the final norm centres."""

    def __init__(self, final: FinalLayer, seen: Observed) -> None:
        readout = final.model.readout
        self.final, self.seen, self.neurons = final, seen, seen.neurons
        x, y = seen.residual, None
        self.own: torch.Tensor | None = None
        self.square_own = torch.zeros(0)
        if final.post_norm is not None:
            eps, gain = final.post_norm
            own = seen.own
            if final.units is None:  # to more digits than the module's own sum in half precision
                own = seen.neurons @ final.w_out
                own = own if final.bias is None else own + final.bias.to(own)
            self.own = own.double()
            self.square_own = self.own.square().sum(-1)
            y = own * gain
            x = x - y * (own.square().mean(-1, keepdim=True) + eps).rsqrt()
        if readout.centre_writes:
            x = x - x.mean(-1, keepdim=True)
            y = None if y is None else y - y.mean(-1, keepdim=True)
        # One product: a large unembedding takes longer to read than to multiply with.
        both = final.project(x if y is None else torch.cat([x, y]))
        self.logits, self.second = both[: len(x)], None if y is None else both[len(x) :]
        self.x, self.y = x.double(), None if y is None else y.double()

    @cached_property
    def untouched(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Its square, as :meth:`ConditionBlock.system` has it, and its share, float64 [B]; 0 without."""
        square = self.x.square().sum(-1)
        if self.final.post_norm is None or self.y is None:
            return square, torch.zeros_like(square)
        share = (self.square_own.clamp_min(0) / self.x.shape[1] + self.final.post_norm[0]).rsqrt()
        inner = self.y.square().sum(-1)
        return square + 2 * share * (self.x * self.y).sum(-1) + share.square() * inner, share

    def written(self, places: torch.Tensor) -> torch.Tensor:
        """Output of the down projection of the untouched model at some places [n], float64 [n, d_model]."""
        if self.final.units is not None:
            return self.seen.own[places].double()
        distinct, back = torch.unique(places, return_inverse=True)
        neurons, w_out = self.neurons[distinct].double(), self.final.w_out
        total = neurons.new_zeros(len(distinct), w_out.shape[1])
        for start in range(0, len(w_out), BLOCK_ROWS):
            here = slice(start, start + BLOCK_ROWS)
            total += neurons[:, here] @ w_out[here].double()
        return (total if self.final.bias is None else total + self.final.bias.to(total))[back]

    def with_places(self, x: torch.Tensor) -> Base:
        """The same with the centred final residuals x, float64 [n, d_model], as places of their own after all others:
        nothing of them depends on a norm after the MLP."""
        more = copy.copy(self)
        more.x = torch.cat([self.x, x])
        more.logits = torch.cat([self.logits, self.final.project(x.float())])
        if self.y is not None and self.second is not None:
            more.y = torch.cat([self.y, torch.zeros_like(x)])
            more.second = torch.cat([self.second, self.second.new_zeros(len(x), self.second.shape[1])])
        return more


class ConditionBlock:
    """Some consecutive conditions: their neurons, how these change, and the columns of W w_out^T."""

    def __init__(self, final: FinalLayer, conditions: Sequence[Condition], start: int) -> None:
        self.final, self.conditions, self.start, self.n = final, conditions, start, len(conditions)
        device = final.device
        width = max((sum(len(e.indices) for e in c.edits) for c in conditions), default=0)
        rows = [final.places([i for e in c.edits for i in e.indices]) for c in conditions]
        used = sorted({i for row in rows for i in row})
        place = {index: row for row, index in enumerate(used)}
        self.used = torch.tensor(used, dtype=torch.long, device=device)
        # Conditions with fewer neurons are filled up with the first one, whose delta is then 0.
        self.indices = _filled([[place[i] for i in row] for row in rows], width, 0, torch.long, device)
        self.filled = _filled([[True] * len(row) for row in rows], width, False, torch.bool, device)
        constant = all(isinstance(e, SetNeurons) for c in conditions for e in c.edits)
        values = [[v for e in c.edits for v in getattr(e, "values", ())] for c in conditions]
        self.values = _filled(values, width, 0.0, torch.float32, device) if constant else None
        self.written = final.written[self.used]
        norm_held = [c.frozen is not None and c.frozen.what == "final_norm" for c in conditions]
        self.norm_held = torch.tensor(norm_held, device=device) if any(norm_held) else None
        direction = final.directions.rows(conditions)
        self.direction = direction if bool((direction >= 0).any()) else None
        held = final.directions.v.float() if self.direction is not None else final.w_out.new_zeros(0, final.n_tokens)
        self.made = Columns(final, self.written, held)
        self.holds = final.held or 4 * len(self.made) * final.n_tokens <= columns_of.COLUMN_BYTES
        self._columns: tuple[torch.Tensor, torch.Tensor] | None = None
        self.gram = _gram(self.written, self.indices)
        self.gram_own = None if final.post_norm is None else _gram(final.w_out[self.used], self.indices)

    @property
    def columns(self) -> tuple[torch.Tensor, torch.Tensor]:
        """W w_out^T of the neurons in use [m, d_vocab], then the directions along which conditions freeze the logits;
        and the largest magnitude in each row; see release()."""
        if self._columns is None:
            columns = self.made[:]
            self._columns = columns, reach_of(columns)
        return self._columns

    def release(self) -> None:
        """Forget the columns; they are made again when they are needed."""
        self._columns = None

    def _deltas(self, neurons: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Change of the edited activations, float64 [C, R, k]; neurons [B, d_mlp]."""
        now = neurons[:, self.used][at[:, :, None], self.indices[:, None, :]]
        if self.values is not None:
            new = self.values[:, None, :].expand_as(now)
        else:
            new = now.clone()
            for c, condition in enumerate(self.conditions):
                place = 0
                for edit in condition.edits:
                    end = place + len(edit.indices)
                    new[c, :, place:end] = edit.apply(now[c, :, place:end])
                    place = end
        return torch.where(self.filled[:, None, :], new.double() - now.double(), 0.0)

    def residuals(self, base: Base, at: torch.Tensor, pairs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Final residuals, float64 [n, d_model], centred as the final norm centres, of the pairs (condition, row of
        ``at``): added up from what no edit touches, so that an edit may take away nearly all of the residual.
        """
        c, r = pairs
        final, places = self.final, at[c, r]
        change = self._deltas(base.neurons, at)[c, r]
        own = base.written(places)
        for condition in torch.unique(c):
            mine = c == condition
            own[mine] += change[mine] @ final.w_out[self.used[self.indices[condition]]].double()
        if final.post_norm is not None:
            eps, gain = final.post_norm
            own = own * (own.square().mean(-1, keepdim=True) + eps).rsqrt() * gain.double()
        x = base.seen.rest[places].double() + final.multiplier * own
        return x - x.mean(-1, keepdim=True) if final.model.readout.centre_writes else x

    def system(self, base: Base, at: torch.Tensor) -> System:
        """The logits of these conditions where they stand, ``at`` [C, R], but for what they freeze of the logits
        themselves; :mod:`harness.engine.systems` adds that, and mends what has cancelled."""
        width = self.final.model.anatomy.d_model
        delta = self._deltas(base.neurons, at)
        places = (at[:, :, None], self.indices[:, None, :])
        square, share = base.x.square().sum(-1)[at], None

        def along(vectors: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
            """Inner products [C, R] of vectors [B, d_model] with delta @ written."""
            return (delta * (vectors @ written[self.used].double().T)[places]).sum(-1)

        pushed = ((delta @ self.gram) * delta).sum(-1)  # |delta @ written|^2
        if self.final.post_norm is None:
            square = square + 2 * along(base.x, self.final.written) + pushed
        else:
            assert base.own is not None and base.y is not None and self.gram_own is not None
            own = base.square_own[at] + 2 * along(base.own, self.final.w_out)
            own = (own + ((delta @ self.gram_own) * delta).sum(-1)).clamp_min(0)
            share = (own / width + self.final.post_norm[0]).rsqrt()
            both = (base.x * base.y).sum(-1)[at] + along(base.x, self.final.written)
            inner = base.y.square().sum(-1)[at] + 2 * along(base.y, self.final.written) + pushed
            square = square + 2 * share * both + share.square() * inner
            delta = share[..., None] * delta
        if self.norm_held is not None:
            square = torch.where(self.norm_held[:, None], base.untouched[0][at], square)
        columns, reach = self.columns if self.holds else (base.logits.new_zeros(len(self.made), 0), None)
        return System(
            base=base.logits,
            second=base.second,
            columns=columns,
            reach=reach,
            made=None if self.holds else self.made,
            constant=self.final.constant,
            indices=self.indices,
            delta=delta.float(),
            scale=self.final.scale(square).float(),
            share=None if share is None else share.float(),
            at=at,
            cap=self.final.model.readout.cap,
        )


def _gram(written: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Inner products [C, k, k], float64, of the written directions [m, d_model] of each condition, indices [C, k]."""
    vectors = (written[some].double() for some in indices.split(GRAM_CONDITIONS))
    return torch.cat([x @ x.transpose(1, 2) for x in vectors])


def _filled(
    rows: Sequence[Sequence[float]], width: int, with_: float, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Rows of different lengths as one tensor [len(rows), width]."""
    return torch.tensor([[*row, *[with_] * (width - len(row))] for row in rows], dtype=dtype, device=device).view(
        len(rows), width
    )
