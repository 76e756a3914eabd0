"""Numerical checks of what the structural search found, made with a few tokens when a model is loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from harness.errors import HarnessError
from harness.model.experts import Experts, tensor_in
from harness.model.matrices import ROUNDING, write_matrix
from harness.model.modules import down_bias, input_device, layer_input, on_final_residual, text_config

if TYPE_CHECKING:
    from harness.model.model import Model

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest accepted relative error, by the dtype of the forward pass."""

PADDING = 1e-2
"""Largest accepted relative change of logits where a row is padded."""

N_TOKENS = 6
"""Length of the probe sequence."""


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference over the largest magnitude wanted."""
    wanted = wanted.to(found.device, torch.float32)
    return ((found.float() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-9)).item()


def tolerance_of(hf: Any, logits: torch.Tensor) -> float:
    """The tolerance for a model that computes in the dtype of its logits, and whose weights may be quantised."""
    return _tolerance(hf, logits.dtype)


def _tolerance(hf: Any, dtype: torch.dtype) -> float:
    own = TOLERANCE.get(dtype, 1e-2)
    return own if getattr(hf.config, "quantization_config", None) is None else max(own, ROUNDING)


@torch.no_grad()
def run(hf: Any, rows: int = 1, change_last: bool = False) -> torch.Tensor:
    """Logits [rows, N_TOKENS, d_vocab] of equal probe sequences; ``change_last``: the last row's last token differs.

    Raises:
        HarnessError: the logits are not finite.
    """
    ids = torch.arange(1, N_TOKENS + 1).repeat(rows, 1)
    ids[-1, -1] += int(change_last)
    ids = ids % text_config(hf).vocab_size
    logits: torch.Tensor = hf(input_ids=ids.to(input_device(hf)), use_cache=False).logits
    if not torch.isfinite(logits).all():
        raise HarnessError(f"{type(hf).__name__} gives logits that are not finite (NaN or infinity) for plain tokens.")
    return logits


def check_causal(hf: Any, logits: torch.Tensor) -> None:
    """Refuse a model if changing the last token (first and last row of :func:`run`) changes predictions before it."""
    if relative_error(logits[-1, :-1], logits[0, :-1]) > tolerance_of(hf, logits):
        raise HarnessError(
            f"{type(hf).__name__} is not a causal language model: a token changes the predictions before it."
        )


@torch.no_grad()
def padding_error(model: Model) -> float:
    """The relative change of logits where a row is padded; found out with a few tokens.

    Of a model that leaves masked tokens alone it is rounding: sums of other lengths round otherwise, by 1e-4 of the
    largest logit in SmolLM2-135M. NaN in float64 in Gemma 2, whose mask overflows there.
    """
    row = [i % text_config(model.hf).vocab_size for i in range(1, N_TOKENS + 1)]
    padded = model.forward(model.pad([row, [*row, *row[:2]]])).logits[0, -1]
    return relative_error(padded, run(model.hf)[0, -1])


def check_padding(model: Model) -> None:
    """Refuse a model whose predictions depend on what is put before a shorter row and masked.

    Raises:
        HarnessError: they do, as in hybrids whose recurrences are fed the padding.
    """
    # NaN is let through: one prompt at a time is still right.
    if model.padding_error >= _most(model):
        raise HarnessError(
            f"{type(model.hf).__name__} is not supported: padding before a shorter prompt, masked as it is, changes "
            f"what it predicts (relative difference {model.padding_error:.1e})."
        )


def _most(model: Model) -> float:
    """Of a padding error, from which on padding is refused."""
    return max(PADDING, 3 * _tolerance(model.hf, model.dtype))


def tolerance_between_passes(model: Model, logits: torch.Tensor) -> float:
    """The tolerance for logits of one text in two passes whose sums have other lengths: with and without a cache,
    resumed from a layer, with another implementation of attention.

    Some models round much more than others of their dtype, so that it is what this model is known to change by where
    rows are padded, thirty times; at least :func:`tolerance_of`, and never so much that padding would be refused.
    """
    own = 30 * model.padding_error
    return max(tolerance_of(model.hf, logits), min(own, _most(model)) if own == own else 0.0)


@dataclass
class Probe:
    """The last layer in one pass over three rows: untouched; heads perturbed; neurons perturbed.

    Attributes (float32):
        neurons: [3, pos, d_mlp], before their perturbation.
        written: [3, pos, d_model], output of the down projection.
        expected: [3, pos, d_model], the same, recomputed as neurons @ w_out + bias.
        residual: [3, pos, d_model], the final residual.
        push: [d_model], what the perturbation of the neurons writes.
        flattened: the down projection sees [batch * pos, d_mlp].
        tolerance: for relative errors in the model's dtype.
    """

    neurons: torch.Tensor
    written: torch.Tensor
    expected: torch.Tensor
    residual: torch.Tensor
    push: torch.Tensor
    flattened: bool
    tolerance: float


def probe_last_layer(
    hf: Any, layer: nn.Module, down: nn.Module, attention_output: nn.Module, final_norm: nn.Module | None
) -> Probe:
    """Run the perturbed pass; the perturbations are as large as the residual stream, to stand out of the rounding."""
    generator = torch.Generator().manual_seed(0)
    seen: dict[str, Any] = {}

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen["size"] = layer_input(args, kwargs).float().norm(dim=-1).mean().item()

    def perturb(row: int, key: str) -> Any:
        def hook(module: nn.Module, args: Any) -> Any:
            x = args[0].detach()
            rows = x.clone().view(3, N_TOKENS, -1)
            seen[key] = rows.float().clone()
            weight = write_matrix(module, x.dtype).to(x.device).float()
            direction = torch.randn(rows.shape[-1], generator=generator).to(x.device)
            direction = (direction * seen["size"] / (direction @ weight).norm().clamp(min=1e-9)).to(x.dtype)
            rows[row] += direction
            seen[key + " push"] = direction.float() @ weight
            seen[key + " expected"] = rows.float() @ weight
            return (rows.view(x.shape), *args[1:])

        return hook

    def written(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        seen["flattened"] = output.dim() == 2
        # Cloned: Falcon adds the attention's output to it in place.
        seen["written"] = output.detach().float().clone().view(3, N_TOKENS, -1)

    def residual(x: torch.Tensor) -> None:
        seen["residual"] = x.detach().float().clone()

    with contextlib.ExitStack() as hooks:
        hooks.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
        hooks.callback(attention_output.register_forward_pre_hook(perturb(1, "heads")).remove)
        hooks.callback(down.register_forward_pre_hook(perturb(2, "neurons")).remove)
        hooks.callback(down.register_forward_hook(written).remove)
        hooks.callback(on_final_residual(layer, final_norm, residual))
        logits = run(hf, rows=3)
    bias = down_bias(down)
    return Probe(
        neurons=seen["neurons"],
        written=seen["written"],
        expected=seen["neurons expected"] + (0 if bias is None else bias.to(seen["written"].device)),
        residual=seen["residual"],
        push=seen["neurons push"],
        flattened=seen["flattened"],
        tolerance=tolerance_of(hf, logits),
    )


def check_neurons(hf: Any, probe: Probe) -> None:
    """Refuse a down projection that is no plain linear map of the neurons."""
    error = relative_error(probe.written, probe.expected)
    if not error < probe.tolerance:
        raise HarnessError(
            f"{type(hf).__name__} is not supported: the MLP's output differs from neurons @ w_out + bias by "
            f"{error:.1e} (relative); adapters that are not merged are not supported."
        )


def write_multiplier(change: torch.Tensor, push: torch.Tensor, tolerance: float, config: Any) -> float | None:
    """Factor with which the last MLP's output enters the final residual; None when it is not merely added.

    Args:
        change: [pos, d_model], of the final residual where the output is pushed. push: [d_model].
    """
    push = push.to(change.device)
    factor = ((change @ push).mean() / (push @ push)).item()
    if not relative_error(change, factor * push.expand_as(change)) < 3 * tolerance:
        return None
    for known in (1.0, getattr(config, "residual_multiplier", None)):
        if isinstance(known, float) and abs(factor - known) < tolerance * max(abs(known), 1e-3):
            return known
    return factor


@torch.no_grad()
def check_down_projections(hf: Any, downs: Sequence[nn.Module | None], tolerance: float) -> None:
    """Refuse a model in which some layer's down projection is no plain linear map of its neurons."""
    errors: dict[int, float] = {}

    def compare(layer: int) -> Any:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            wanted = args[0].float() @ write_matrix(module, args[0].dtype).to(args[0].device).float()
            bias = down_bias(module)
            errors[layer] = relative_error(output, wanted if bias is None else wanted + bias.to(wanted.device))

        return hook

    with contextlib.ExitStack() as hooks:
        for layer, down in enumerate(downs):
            if down is not None:
                hooks.callback(down.register_forward_hook(compare(layer)).remove)
        run(hf)
    for layer, error in errors.items():
        if not error < tolerance:
            raise HarnessError(
                f"{type(hf).__name__} is not supported: the dense output of the MLP of layer {layer} differs from "
                f"neurons @ w_out + bias by {error:.1e} (relative)."
            )


@dataclass
class ExpertProbe:
    """The last layer in one pass over three rows: untouched; heads perturbed; what the experts write pushed.

    Attributes (float32):
        entering: [3, pos, d_model], what the experts read. residual: [3, pos, d_model], the final residual.
        push: [d_model], what was added to what the experts write.
        normed: [3, pos, d_model], output of the norm after the MLP, if there is one.
        tolerance: for relative errors in the model's dtype.
    """

    entering: torch.Tensor
    residual: torch.Tensor
    push: torch.Tensor
    normed: torch.Tensor | None
    tolerance: float


@torch.no_grad()
def probe_experts(
    hf: Any,
    layer: nn.Module,
    experts: Experts,
    mixer: nn.Module,
    post_norm: nn.Module | None,
    final_norm: nn.Module | None,
) -> ExpertProbe:
    """Run the perturbed pass; the perturbations are as large as the residual stream, to stand out of the rounding."""
    generator = torch.Generator().manual_seed(0)
    seen: dict[str, Any] = {}

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen["size"] = layer_input(args, kwargs).float().norm(dim=-1).mean().item()

    def heads(module: nn.Module, args: Any) -> Any:
        rows = args[0].detach().clone()
        push = torch.randn(rows.shape[-1], generator=generator).to(rows)
        rows.view(3, N_TOKENS, -1)[1] += push * (seen["size"] / push.norm())
        return (rows, *args[1:])

    def written(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        call = experts.call(args, kwargs, tensor_in(output))
        seen["entering"] = call.tokens.float().clone().view(3, N_TOKENS, -1)
        out = call.output.detach().clone()
        push = torch.randn(out.shape[-1], generator=generator).to(out)
        push = push * (seen["size"] / push.norm())
        seen["push"] = push.float()
        out.view(3, N_TOKENS, -1)[2] += push
        return (out, *output[1:]) if isinstance(output, tuple | list) else out

    def keep(key: str) -> Any:
        def hook(x: torch.Tensor) -> None:
            seen[key] = x.detach().float().clone().view(3, N_TOKENS, -1)

        return hook

    with contextlib.ExitStack() as hooks:
        hooks.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
        hooks.callback(mixer.register_forward_pre_hook(heads).remove)
        hooks.callback(experts.site.register_forward_hook(written, with_kwargs=True).remove)
        if post_norm is not None:
            see = keep("normed")
            hooks.callback(post_norm.register_forward_hook(lambda module, args, output: see(output)).remove)
        hooks.callback(on_final_residual(layer, final_norm, keep("residual")))
        logits = run(hf, rows=3)
    return ExpertProbe(seen["entering"], seen["residual"], seen["push"], seen.get("normed"), tolerance_of(hf, logits))
