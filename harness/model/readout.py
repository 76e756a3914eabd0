"""From the final residual to logits: final norm, unembedding, scale and soft cap, as explicit numbers.

    denominator(x) = sqrt(mean((x - c)^2) + eps)          c = mean(x) for a LayerNorm, 0 for an RMSNorm
    logits(x)      = cap(scale * (W_U ((x - c) / denominator(x) * gain + bias) + b_U)),  cap(l) = C tanh(l / C)

The norm's kind, eps, gain and bias are found by evaluating it (so Gemma's 1 + weight, OLMo's missing weight or a norm
nobody has seen before need no table), and the formula is compared with the model's own logits when a model is loaded.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Float32
from torch import nn

from harness.errors import HarnessError
from harness.model.anatomy import Anatomy
from harness.model.matrices import write_matrix
from harness.model.modules import down_bias, materialised, on_final_residual, text_config
from harness.model.probes import relative_error, run, tolerance_of

NormKind = Literal["layernorm", "rmsnorm", "none"]

HALF = (torch.bfloat16, torch.float16)
"""Half precision: logits of a model in it are computed in float32."""

BLOCK_ROWS = 8192
"""Rows of a half-precision unembedding that are held in float32 at once."""


@dataclass(frozen=True, eq=False)
class Readout:
    """Final norm and unembedding of a model.

    Attributes:
        norm: "layernorm" (subtracts the mean), "rmsnorm" (does not) or "none".
        eps: under the root of the denominator.
        gain: float32 [d_model], the effective gain: Gemma's 1 + weight is already in it.
        bias: float32 [d_model], or None.
        W_U: unembedding [d_vocab, d_model] in the model's dtype, not a copy (a product where linear maps sit between
            the norm and the unembedding, as in OPT-350m; dequantised where it is packed).
        b_U: float32 [d_vocab], or None.
        scale: factor on the logits (Cohere's ``logit_scale``, the inverse of Granite's ``logits_scaling``).
        cap: soft cap C of the logits (Gemma 2), or None.
        norm_module, tail, unembedding: the model's own modules.
    """

    norm: NormKind
    eps: float
    gain: Float32[torch.Tensor, " d_model"]
    bias: Float32[torch.Tensor, " d_model"] | None
    W_U: Float[torch.Tensor, "d_vocab d_model"]
    b_U: Float32[torch.Tensor, " d_vocab"] | None
    scale: float
    cap: float | None
    norm_module: nn.Module | None
    tail: tuple[nn.Module, ...]
    unembedding: nn.Module

    @property
    def centre_writes(self) -> bool:
        """Whether the part of a write direction along (1, ..., 1) is invisible: then w_out is centred over d_model."""
        return self.norm == "layernorm"

    def denominator(self, residual: Float[torch.Tensor, "*place d_model"]) -> Float32[torch.Tensor, "*place 1"]:
        """The norm's denominator, float32 [..., 1], of final residuals [..., d_model]; ones without a norm."""
        x = self._centred(residual)
        if self.norm == "none":
            return torch.ones_like(x[..., :1])
        return (x.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def logits(
        self,
        residual: Float[torch.Tensor, "*place d_model"],
        denominator: Float[torch.Tensor, "*place 1"] | None = None,
    ) -> Float[torch.Tensor, "*place d_vocab"]:
        """Logits [..., d_vocab] of final residuals [..., d_model].

        Without ``denominator`` the model's own modules run, in the model's own dtype: the result is the model's, bit
        by bit in any dtype. With a ``denominator`` [..., 1] (that of another residual: direct effects, Stolfo et al.
        2024, eq. 6) the formula above is evaluated in float32, the product with W_U in float64 if that is the model's
        dtype; returns float32.
        """
        if denominator is not None:
            return self.unembed(self.normalised(residual, denominator))
        x = residual.to(self.W_U.dtype)
        # .forward, so that hooks on the model's modules do not see these residuals.
        for module in (self.norm_module, *self.tail, self.unembedding):
            x = x if module is None else module.forward(x)
        return self._finish(x)

    def normalised(
        self,
        residual: Float[torch.Tensor, "*place d_model"],
        denominator: Float[torch.Tensor, "*place 1"] | None = None,
    ) -> Float32[torch.Tensor, "*place d_model"]:
        """Output of the final norm by the formula, float32 [..., d_model], by default with its own denominator."""
        x = self._centred(residual)
        x = x / (self.denominator(residual) if denominator is None else denominator.to(x)) * self.gain
        return x if self.bias is None else x + self.bias

    def unembed(self, normalised: Float[torch.Tensor, "*place d_model"]) -> Float32[torch.Tensor, "*place d_vocab"]:
        """Logits float32 [..., d_vocab] of outputs of the final norm; the product is taken in W_U's dtype, or in
        float32 if that is half precision."""
        if self.W_U.dtype in HALF:
            x = torch.cat([normalised @ rows.float().T for rows in self.W_U.split(BLOCK_ROWS)], -1)
        else:
            x = nn.functional.linear(normalised.to(self.W_U.dtype), self.W_U).float()
        return self._finish(x if self.b_U is None else x + self.b_U)

    def folded_unembedding(
        self, fold: bool = True, centre: bool = True, dtype: torch.dtype = torch.float32
    ) -> Float[torch.Tensor, "d_vocab d_model"]:
        """A copy of W_U [d_vocab, d_model] with the norm's gain folded into its columns, centred over the vocabulary.

        The weight pre-processing of Stolfo et al. 2024, app. C. Softmax does not see what centring removes (a
        constant per position); the scale and the soft cap of the logits are not part of it.
        """
        folded = self.W_U.detach().to(dtype, copy=True)
        if fold:
            folded *= self.gain.to(dtype)
        if centre:
            folded -= folded.mean(0)
        return folded

    def folded_bias(self, centre: bool = True, dtype: torch.dtype = torch.float32) -> Float[torch.Tensor, " d_vocab"]:
        """The constant part of the logits [d_vocab]: W_U @ bias + b_U, centred over the vocabulary.

        ``((x - c) / denominator(x)) @ folded_unembedding().T + folded_bias()`` equals the logits before scale and cap,
        up to a constant per position.
        """
        constant = self.W_U.new_zeros(self.W_U.shape[0], dtype=dtype)
        if self.bias is not None:
            constant += torch.cat([rows.to(dtype) @ self.bias.to(dtype) for rows in self.W_U.split(BLOCK_ROWS)])
        if self.b_U is not None:
            constant += self.b_U.to(dtype)
        return constant - constant.mean() if centre else constant

    def _centred(self, residual: torch.Tensor) -> torch.Tensor:
        x = residual.to(self.W_U.device, torch.float32)
        return x - x.mean(-1, keepdim=True) if self.norm == "layernorm" else x

    def _finish(self, logits: torch.Tensor) -> torch.Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


@torch.no_grad()
def read_out(hf: Any, anatomy: Anatomy) -> Readout:
    """Describe the readout of a model and check it against the model's own logits on a few tokens.

    Raises:
        HarnessError: the final norm is neither LayerNorm nor RMSNorm, or the logits are not reproduced.
    """
    W_U, b_U = _unembedding(anatomy, hf.dtype)
    norm, eps, gain, bias = probe_norm(anatomy.final_norm, anatomy.d_model)
    readout = Readout(
        norm=norm,
        eps=eps,
        gain=gain.to(W_U.device),
        bias=None if bias is None else bias.to(W_U.device),
        W_U=W_U,
        b_U=b_U,
        scale=1.0,
        cap=None,
        norm_module=anatomy.final_norm,
        tail=anatomy.tail,
        unembedding=anatomy.unembedding,
    )
    residual, logits = _final_residual(hf, anatomy)
    tolerance = tolerance_of(hf, logits)
    raw = readout.unembed(readout.normalised(residual))
    for scale, cap in (*_configured(hf), (1.0, None), (_fitted_scale(raw, logits), None)):
        candidate = replace(readout, scale=scale, cap=cap)
        error = relative_error(candidate._finish(raw), logits)
        if error < tolerance and relative_error(candidate.logits(residual), logits) < tolerance:
            return candidate
    raise HarnessError(
        f"{type(hf).__name__} is not supported: its logits are not those of its final norm and unembedding (relative "
        f"difference {relative_error(raw, logits):.1e}); add what it does to them to harness/model/readout.py."
    )


@torch.no_grad()
def probe_norm(module: nn.Module | None, d_model: int) -> tuple[NormKind, float, torch.Tensor, torch.Tensor | None]:
    """``(kind, eps, gain, bias)`` of a norm, float32 on the CPU, found by evaluating a float64 copy of it.

    Raises:
        HarnessError: it is neither a LayerNorm nor an RMSNorm.
    """
    if module is None:
        return "none", 0.0, torch.ones(d_model), None
    with materialised(module):
        norm = copy.deepcopy(module)
    if hasattr(norm, "_hf_hook"):
        from accelerate.hooks import remove_hook_from_module

        remove_hook_from_module(norm)
    norm = norm.to("cpu", torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, d_model, generator=generator, dtype=torch.float64) * 3 + 1

    def f(inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = norm.forward(inputs)
        return output.double()

    bias = f(torch.zeros(1, d_model, dtype=torch.float64))[0]
    kind: NormKind = "layernorm" if torch.allclose(f(x + 5), f(x), atol=1e-4, rtol=1e-3) else "rmsnorm"
    z = x - x.mean(-1, keepdim=True) if kind == "layernorm" else x
    unit = z / z.square().mean(-1, keepdim=True).sqrt()
    gain = ((f(1e3 * unit) - bias) * unit).sum(0) / unit.square().sum(0)
    # Where the mean square is as small as eps, the output shrinks by sqrt(m / (m + eps)).
    m, seen = 1e-6, gain.abs() > 1e-3 * gain.abs().max()
    shrunk = ((f(m**0.5 * unit) - bias) / gain)[:, seen]
    ratio = (shrunk * unit[:, seen]).sum() / unit[:, seen].square().sum()
    eps = _snapped(module, (m * (1 / ratio.square() - 1)).item())
    predicted = z / (z.square().mean(-1, keepdim=True) + eps).sqrt() * gain + bias
    if not torch.allclose(predicted, f(x), atol=1e-4 * predicted.abs().max().item(), rtol=0):
        raise HarnessError(
            f"the final norm {type(module).__name__} is neither a LayerNorm nor an RMSNorm; add its formula to "
            "harness/model/readout.py."
        )
    return kind, eps, gain.float(), bias.float() if bias.abs().max() > 0 else None


def _snapped(module: nn.Module, measured: float) -> float:
    """The norm's own eps where it confirms the measured one, which is exact to about five digits only."""
    for name in ("eps", "variance_epsilon", "epsilon"):
        stated = getattr(module, name, None)
        if isinstance(stated, float) and abs(stated - measured) < 1e-3 * stated + 1e-11:
            return stated
    return measured if measured > 1e-11 else 0.0


def _unembedding(anatomy: Anatomy, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
    """W_U and b_U, with the linear maps between norm and unembedding multiplied in."""
    W_U = write_matrix(anatomy.unembedding, dtype).T
    for module in reversed(anatomy.tail):
        W_U = W_U @ write_matrix(module, dtype).T
    return W_U, down_bias(anatomy.unembedding)


def _final_residual(hf: Any, anatomy: Anatomy) -> tuple[torch.Tensor, torch.Tensor]:
    """Final residual [pos, d_model] and logits [pos, d_vocab] of a few tokens."""
    seen: list[torch.Tensor] = []
    undo = on_final_residual(anatomy.layers[-1], anatomy.final_norm, seen.append)
    try:
        logits = run(hf)[0]
    finally:
        undo()
    return seen[0][0], logits


def _configured(hf: Any) -> list[tuple[float, float | None]]:
    """Scale and soft cap as the configuration states them, under the names in use."""
    config = text_config(hf)
    multiply, divide = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)
    cap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
    scale = float(multiply) if isinstance(multiply, int | float) else 1.0
    scale = scale / float(divide) if isinstance(divide, int | float) and divide else scale
    return [(scale, float(cap) if cap else None)]


def _fitted_scale(raw: torch.Tensor, logits: torch.Tensor) -> float:
    """The factor that takes the raw logits to the model's in the least-squares sense."""
    target = logits.to(raw)
    return ((raw * target).sum() / raw.square().sum().clamp(min=1e-30)).item()
