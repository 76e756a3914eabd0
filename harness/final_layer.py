"""The algebra of edits in the last layer: from one pass of the untouched model to the logits of every condition.

The last layer's MLP writes y = n @ w_out + bias into the residual stream, n its neurons. An edit changes n by delta on
a few neurons, hence the final residual x, and nothing else:

    direct write       x_c = x + rho * delta @ w_out                        rho: Granite's residual multiplier, else 1
    norm after the MLP x_c = r + t_c * (y * g + delta @ (w_out * g))        t_c = 1 / rms(y + delta @ w_out),
                                                                            r = x - t_0 * y * g, g the gain

    logits_c = W (x_c - mean(x_c)) / denominator(x_c) + b                   W: W_U times the final norm's gain

so the logits are one or two base vectors plus a few columns of W w_out^T, with scalar factors that follow from inner
products. Those are taken in float64, so that an edit which nearly cancels the residual does not lose its digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.conditions import SetNeurons, site_of
from harness.kernels import System
from harness.readout import probe_norm

if TYPE_CHECKING:
    from harness.conditions import Condition
    from harness.model import Batch, Model

BLOCK_ROWS = 8192
"""Rows of a half-precision unembedding that are held in float32 at once."""

COLUMN_BYTES = 2**30
"""Memory for the columns of W w_out^T that are held at once; conditions that need more are run in several parts."""


def fits(model: Model, conditions: Sequence[Condition]) -> bool:
    """Whether the closed form is valid: the last MLP's output enters the final residual as above, and the edits are of
    the last layer's neurons only, no neuron twice in a condition."""
    anatomy = model.anatomy
    post_norm = anatomy.post_mlp_norms[-1]
    if post_norm is None:
        straight = anatomy.direct_write or anatomy.residual_multiplier != 1.0
    else:
        kind, _, _, bias = probe_norm(post_norm, anatomy.d_model)
        straight = kind == "rmsnorm" and bias is None
    if not straight:
        return False
    for condition in conditions:
        if any(site_of(edit) != "neurons" for edit in condition.edits):
            return False
        edited = [index for edit in condition.edits for index in edit.indices]
        if len(set(edited)) < len(edited) or any(edit.layer != anatomy.n_layers - 1 for edit in condition.edits):
            return False
    return True


@dataclass(frozen=True)
class Observed:
    """What a pass of the untouched model leaves, at B places.

    Attributes (float32):
        residual: [B, d_model], the final residual. neurons: [B, d_mlp], the last layer's activations.
    """

    residual: torch.Tensor
    neurons: torch.Tensor

    def __getitem__(self, place: object) -> Observed:
        return Observed(self.residual[place], self.neurons[place])  # type: ignore[index]


class FinalLayer:
    """All conditions' logits from the final residual and the last layer's activations."""

    def __init__(self, model: Model, conditions: Sequence[Condition], column_bytes: int | None = None) -> None:
        self.model, self.n = model, len(conditions)
        self.layer, readout, anatomy = model.anatomy.n_layers - 1, model.readout, model.anatomy
        self.device, self.n_tokens = readout.W_U.device, len(readout.W_U)
        self.constant = readout.folded_bias(centre=False) * readout.scale
        self.w_out = model.w_out(self.layer).to(self.device)
        self.bias = model.down_bias(self.layer)
        self.post_norm = None
        self.written = self.w_out * anatomy.residual_multiplier
        if (module := anatomy.post_mlp_norms[-1]) is not None:
            _, eps, gain, _ = probe_norm(module, anatomy.d_model)
            self.post_norm = eps, gain.to(self.device)
            self.written = self.w_out * self.post_norm[1]
        if readout.centre_writes:
            self.written = self.written - self.written.mean(1, keepdim=True)
        self.parts = list(self._split(conditions, column_bytes or COLUMN_BYTES))

    def _split(self, conditions: Sequence[Condition], column_bytes: int) -> Iterator[Part]:
        """Parts of consecutive conditions whose columns fit in ``column_bytes``; at least one condition each."""
        room = max(1, column_bytes // (4 * self.n_tokens))
        start, used = 0, set[int]()
        for stop, condition in enumerate(conditions):
            own = {i for edit in condition.edits for i in edit.indices}
            if len(used | own) > room and stop > start:
                yield Part(self, conditions[start:stop], start)
                start, used = stop, set()
            used |= own
        yield Part(self, conditions[start:], start)

    def run(self, batch: Batch, past: object = None, use_cache: bool = False) -> tuple[Observed, object]:
        """One pass of the untouched model: what it leaves at every position [batch, pos, ...], and the cache."""
        with self.model.capture_residual() as captured, self.model.capture_neurons(self.layer) as neurons:
            out = self.model.forward(batch, past=past, logits_to_keep=1, use_cache=use_cache)
        found = Observed(captured.residual, neurons[self.layer].view(*captured.residual.shape[:2], -1))
        found = Observed(found.residual.to(self.device).float(), found.neurons.to(self.device).float())
        return found, getattr(out, "past_key_values", None)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """x @ W^T, float32 [n, d_vocab], of vectors [n, d_model]; W, which is W_U times the gain, is never made."""
        x, W_U = x * self.model.readout.gain, self.model.readout.W_U
        if W_U.dtype == torch.float32:
            return x @ W_U.T
        out = x.new_empty(len(x), self.n_tokens)
        for start in range(0, self.n_tokens, BLOCK_ROWS):
            out[:, start : start + BLOCK_ROWS] = x @ W_U[start : start + BLOCK_ROWS].float().T
        return out

    def base(self, seen: Observed) -> Base:
        """What all conditions share at some places."""
        return Base(self, seen)

    def systems(self, seen: Observed, at: torch.Tensor | None = None) -> Iterator[tuple[slice, System]]:
        """The logits of every condition, a part of the conditions at a time.

        Args:
            seen: at B places. at: int64 [C, R], the place that each row of each condition stands on; default: row i of
                every condition on place i.
        """
        if at is None:
            at = torch.arange(len(seen.residual), device=self.device).expand(self.n, -1)
        base = self.base(seen)
        for part in self.parts:
            here = slice(part.start, part.start + part.n)
            yield here, part.system(base, at[here])
            if len(self.parts) > 1:  # the columns of all parts would not fit
                part.release()


class Base:
    """What all conditions share at B places, centred as the final norm centres."""

    def __init__(self, final: FinalLayer, seen: Observed) -> None:
        readout = final.model.readout
        self.neurons = seen.neurons
        x, y = seen.residual, None
        self.own: torch.Tensor | None = None
        self.square_own = torch.zeros(0)
        if final.post_norm is not None:
            eps, gain = final.post_norm
            own = seen.neurons @ final.w_out
            own = own if final.bias is None else own + final.bias.to(own)
            self.own = own.double()
            self.square_own = self.own.square().sum(-1)
            y = own * gain
            x = x - y * (own.square().mean(-1, keepdim=True) + eps).rsqrt()
        if readout.centre_writes:
            x = x - x.mean(-1, keepdim=True)
            y = None if y is None else y - y.mean(-1, keepdim=True)
        self.logits = final.project(x)
        self.second = None if y is None else final.project(y)
        self.x, self.y = x.double(), None if y is None else y.double()


class Part:
    """Some consecutive conditions: their neurons, how these change, and the columns of W w_out^T."""

    def __init__(self, final: FinalLayer, conditions: Sequence[Condition], start: int) -> None:
        self.final, self.conditions, self.start, self.n = final, conditions, start, len(conditions)
        device = final.device
        width = max((sum(len(e.indices) for e in c.edits) for c in conditions), default=0)
        rows = [[i for e in c.edits for i in e.indices] for c in conditions]
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
        self._columns: tuple[torch.Tensor, torch.Tensor] | None = None
        # Inner products of the written directions of one condition, [C, k, k].
        vectors = self.written.double()[self.indices]
        self.gram = vectors @ vectors.transpose(1, 2)
        raw = final.w_out[self.used].double()[self.indices] if final.post_norm is not None else None
        self.gram_own = None if raw is None else raw @ raw.transpose(1, 2)

    @property
    def columns(self) -> tuple[torch.Tensor, torch.Tensor]:
        """W w_out^T of the neurons in use [m, d_vocab], and the largest magnitude in each row [m]; see release()."""
        if self._columns is None:
            columns = self.final.project(self.written)
            reach = torch.maximum(columns.amax(1), -columns.amin(1)) if len(columns) else columns.new_zeros(0)
            self._columns = columns, reach
        return self._columns

    def release(self) -> None:
        """Forget the columns; they are made again when they are needed."""
        self._columns = None

    def _deltas(self, neurons: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Change of the edited activations [C, R, k]; neurons [B, d_mlp]."""
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
        return torch.where(self.filled[:, None, :], new - now, 0.0)

    def system(self, base: Base, at: torch.Tensor) -> System:
        """The logits of these conditions where they stand, ``at`` [C, R]."""
        readout, width = self.final.model.readout, self.final.model.anatomy.d_model
        delta = self._deltas(base.neurons, at)
        exact, places = delta.double(), (at[:, :, None], self.indices[:, None, :])
        square, share = base.x.square().sum(-1)[at], None

        def along(vectors: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
            """Inner products [C, R] of vectors [B, d_model] with delta @ written."""
            return (exact * (vectors @ written[self.used].double().T)[places]).sum(-1)

        pushed = ((exact @ self.gram) * exact).sum(-1)  # |delta @ written|^2
        if self.final.post_norm is None:
            square = square + 2 * along(base.x, self.final.written) + pushed
        else:
            assert base.own is not None and base.y is not None and self.gram_own is not None
            own = base.square_own[at] + 2 * along(base.own, self.final.w_out)
            own = (own + ((exact @ self.gram_own) * exact).sum(-1)).clamp_min(0)
            share = (own / width + self.final.post_norm[0]).rsqrt()
            both = (base.x * base.y).sum(-1)[at] + along(base.x, self.final.written)
            inner = base.y.square().sum(-1)[at] + 2 * along(base.y, self.final.written) + pushed
            square = square + 2 * share * both + share.square() * inner
            delta = (share[..., None] * exact).float()
        denominator = torch.ones_like(square)
        if readout.norm != "none":
            denominator = (square.clamp_min(0) / width + readout.eps).sqrt()
        return System(
            base=base.logits,
            second=base.second,
            columns=self.columns[0],
            reach=self.columns[1],
            constant=self.final.constant,
            indices=self.indices,
            delta=delta,
            scale=(readout.scale / denominator).float(),
            share=None if share is None else share.float(),
            at=at,
            cap=readout.cap,
        )


def _filled(
    rows: Sequence[Sequence[float]], width: int, with_: float, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Rows of different lengths as one tensor [len(rows), width]."""
    return torch.tensor([[*row, *[with_] * (width - len(row))] for row in rows], dtype=dtype, device=device).view(
        len(rows), width
    )
