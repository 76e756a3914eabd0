"""Gradients of the predicted token's probability with respect to neurons at the last position.

They go through the layers behind the neurons and through the model's own final norm and unembedding
(:class:`harness.model.Readout`); tests compare them with finite differences of edited passes.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plugin import HarnessError

if TYPE_CHECKING:
    import torch

    from harness.plugin import Batch, Model

ROWS = 256
"""Rows of a pass: prompts, or prompts times steps."""


@dataclass(frozen=True)
class Gradients:
    """What neurons of some layers do at the last position of P prompts, layers in the order that was asked for.

    Attributes (float64 [P, n_layers, d_mlp]):
        activation: a. gradient: d log p(answer) / d a, everything behind the neuron following it.
    """

    activation: np.ndarray
    gradient: np.ndarray


def equally_long(prompts: Sequence[Sequence[int]], size: int) -> Iterator[np.ndarray]:
    """Rows of prompts in batches without padding: what a family leaves there may be NaN. No prediction reads it, but
    derivatives are NaN everywhere then."""
    lengths = np.array([len(tokens) for tokens in prompts])
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def log_probabilities(
    model: Model, batch: Batch, targets: torch.Tensor | None = None, past: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p of a token after each row [batch], with its graph, and the tokens [batch].

    Args:
        targets: int64 [batch]; None: the most likely tokens.
    """
    import torch

    from harness.model import on_final_residual

    seen: list[torch.Tensor] = []
    undo = on_final_residual(model.anatomy.layers[-1], model.anatomy.final_norm, seen.append)
    try:
        model.forward(batch, past=past)
    finally:
        undo()
    residual, readout = seen[-1][:, -1], model.readout
    half = readout.W_U.dtype in (torch.bfloat16, torch.float16)
    logits = readout.logits(residual, readout.denominator(residual) if half else None)
    log_p = logits.float().log_softmax(-1) if logits.dtype != torch.float64 else logits.log_softmax(-1)
    targets = log_p.argmax(-1) if targets is None else targets.to(log_p.device)
    return log_p.gather(-1, targets[:, None])[:, 0], targets


def gradients(model: Model, prompts: Sequence[Sequence[int]], layers: Sequence[int], batch_size: int) -> Gradients:
    """Of the token that the model predicts after each prompt, all layers in one backward pass.

    Raises:
        HarnessError: a gradient is not finite.
    """
    import torch

    shape = (len(prompts), len(layers), model.anatomy.d_mlp)
    found = Gradients(np.zeros(shape), np.zeros(shape))
    for rows in equally_long(prompts, min(batch_size, ROWS)):
        own: dict[int, torch.Tensor] = {}
        leaves: dict[int, torch.Tensor] = {}
        with torch.enable_grad(), contextlib.ExitStack() as stack:
            for layer in layers:
                stack.enter_context(model.edit_neurons(layer, _with_leaf(layer, own, leaves)))
            log_p, _ = log_probabilities(model, model.pad([list(prompts[row]) for row in rows]))
            slopes = torch.autograd.grad(log_p.sum(), [leaves[layer] for layer in layers])
        for i, (layer, slope) in enumerate(zip(layers, slopes, strict=True)):
            found.activation[rows, i] = own[layer].double().cpu().numpy()
            found.gradient[rows, i] = slope.double().cpu().numpy()
    _finite(found.gradient, model)
    return found


def _with_leaf(
    layer: int, own: dict[int, torch.Tensor], leaves: dict[int, torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """An edit that adds zeros to the activations at the last position: ``own[layer]`` and ``leaves[layer]`` [batch,
    d_mlp] are these activations and the zeros, of which derivatives are taken."""
    import torch

    def add(activations: torch.Tensor) -> torch.Tensor:
        here = activations[:, -1]
        own[layer], leaves[layer] = here.detach(), torch.zeros_like(here, requires_grad=True)
        return torch.cat([activations[:, :-1], (here + leaves[layer])[:, None]], 1)

    return add


def integrated_gradients(
    model: Model, prompts: Sequence[Sequence[int]], layers: Sequence[int], steps: int, advance: Callable[[int], None]
) -> np.ndarray:
    """The integrated gradients of p(answer) along the neurons of each layer, float64 [P, n_layers, d_mlp].

    For each layer: mean over k = 1 ... steps of d p(answer | a = k / steps * a0) / d a, times a0; all neurons of the
    layer are scaled together, at the last position. What precedes that position is read once, and kept as keys and
    values: it does not depend on it. ``advance`` is told of len(prompts) * len(layers) in all.

    Raises:
        HarnessError: a gradient is not finite, or the model's passes do not go on from their keys and values.
    """
    import torch

    found = np.zeros((len(prompts), len(layers), model.anatomy.d_mlp))
    for rows in equally_long(prompts, max(1, ROWS // steps)):
        whole = model.pad([list(prompts[row]) for row in rows])
        with torch.no_grad(), model.capture_neurons(layers) as seen:
            _, targets = log_probabilities(model, whole)
        batch, past = _last_tokens(model, whole, steps)
        factors = (torch.arange(1, steps + 1, device=targets.device) / steps).repeat_interleave(len(rows))
        for i, layer in enumerate(layers):
            start = seen[layer][:, -1]
            scaled = (factors.to(start)[:, None] * start.repeat(steps, 1)).requires_grad_(True)

            def put(activations: torch.Tensor, scaled: torch.Tensor = scaled) -> torch.Tensor:
                return torch.cat([activations[:, :-1], scaled[:, None]], 1)

            with torch.enable_grad(), model.edit_neurons(layer, put):
                log_p, _ = log_probabilities(model, batch, targets.repeat(steps), copy.deepcopy(past))
                slopes = torch.autograd.grad(log_p.exp().sum(), scaled)[0]
            mean = slopes.double().unflatten(0, (steps, len(rows))).mean(0)
            found[rows, i] = (mean * start.double()).cpu().numpy()
            advance(len(rows))
    _finite(found, model)
    return found


def _last_tokens(model: Model, whole: Batch, copies: int) -> tuple[Batch, Any]:
    """The last tokens of a batch, ``copies`` times one after another, and the keys and values of what precedes them.

    Where a prompt has one token, nothing precedes it, and the whole batch is returned.
    """
    import torch

    from harness.model import Batch, cache_of

    if int(whole.attention_mask.sum(1).min()) < 2:
        return whole.tile(copies), None
    model.check_cache()
    before = Batch(whole.input_ids[:, :-1], whole.attention_mask[:, :-1], whole.position_ids[:, :-1])
    with torch.no_grad():
        past = cache_of(model.forward(before, use_cache=True))
    if not hasattr(past, "reorder_cache"):
        raise HarnessError(
            f"{model.name} keeps keys and values in a form that cannot be repeated: {type(past).__name__}."
        )
    past.reorder_cache(torch.arange(len(whole.input_ids), device=whole.input_ids.device).repeat(copies))
    return before.extend(whole.input_ids[:, -1:]).tile(copies), past


def _finite(values: np.ndarray, model: Model) -> None:
    if not np.isfinite(values).all():
        raise HarnessError(f"gradients through {model.name} are not finite (NaN or infinity) on these prompts.")
