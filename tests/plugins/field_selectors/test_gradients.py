"""Derivatives beside finite differences of edited passes, and integrals beside their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from harness_plugins.field_selectors.gradients import gradients, integrated_gradients

from harness.model import Model, wrap
from harness.testing import prompts_of
from harness.testing.tiny_models import tiny_hf, tokenizer

# LayerNorm; RMSNorm and a gated MLP; norms after MLPs and a soft cap; no final norm; scaled logits.
FAMILIES = ("gpt2", "llama_gqa_tied", "gemma2", "opt_350m", "granite")


def double(family: str) -> Model:
    return wrap(tiny_hf(family, torch.float64), tokenizer(), family)


def log_p(model: Model, tokens: tuple[int, ...], target: int, layer: int, change) -> float:
    """log p(target) where ``change`` edits the activations of a layer at the last position, by the model's own pass."""

    def edit(activations: torch.Tensor) -> torch.Tensor:
        edited = activations.clone()
        edited[:, -1] = change(edited[:, -1])
        return edited

    with torch.no_grad(), model.edit_neurons(layer, edit):
        return float(model.forward(model.pad([tokens])).logits[0, -1].double().log_softmax(-1)[target])


def prediction(model: Model, tokens: tuple[int, ...]) -> int:
    with torch.no_grad():
        return int(model.forward(model.pad([tokens])).logits[0, -1].argmax())


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_finite_differences(family):
    model = double(family)
    prompts, layers, step = prompts_of(model, 3), range(model.anatomy.n_layers), 1e-2
    found = gradients(model, prompts, layers, batch_size=2)
    rng = np.random.default_rng(0)
    for p, tokens in enumerate(prompts):
        target = prediction(model, tokens)
        for layer in layers:
            i = int(rng.integers(model.anatomy.d_mlp))
            unit = torch.zeros(model.anatomy.d_mlp, dtype=torch.float64)
            unit[i] = step
            above, below = (log_p(model, tokens, target, layer, lambda a, x=x: a + x) for x in (unit, -unit))
            # RMSNorms compute in float32: smaller steps would drown in their rounding.
            assert found.gradient[p, layer, i] == pytest.approx((above - below) / (2 * step), rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama_gqa_tied"])
def test_integrated_gradients_are_their_definition(family):
    """Through keys and values that are read once, as by whole passes; and they add up to what the answer loses."""
    model = double(family)
    prompts, layers, steps = prompts_of(model, 4), [0, 2], 5
    found = integrated_gradients(model, prompts, layers, steps, lambda n: None)
    fine = integrated_gradients(model, prompts, layers, 400, lambda n: None)
    for p, tokens in enumerate(prompts):
        target = prediction(model, tokens)
        for at, layer in enumerate(layers):
            kept: list[torch.Tensor] = []
            log_p(model, tokens, target, layer, lambda a, kept=kept: kept.append(a) or a)
            i, slopes = int(np.argmax(np.abs(found[p, at]))), []
            for k in range(1, steps + 1):
                h = torch.zeros_like(kept[0])
                h[:, i] = 1e-2
                point = k / steps * kept[0]
                ends = [np.exp(log_p(model, tokens, target, layer, lambda a, x=x: x)) for x in (point + h, point - h)]
                slopes.append((ends[0] - ends[1]) / 2e-2)
            assert found[p, at, i] == pytest.approx(float(kept[0][0, i]) * np.mean(slopes), rel=2e-3, abs=1e-5)
            whole = np.exp(log_p(model, tokens, target, layer, lambda a: a))
            without = np.exp(log_p(model, tokens, target, layer, lambda a: 0 * a))
            assert fine[p, at].sum() == pytest.approx(whole - without, rel=0.02, abs=1e-5)


def test_half_precision_has_gradients_of_the_readout_in_float32():
    ids = prompts_of(double("gpt2"), 2)
    half = gradients(wrap(tiny_hf("gpt2", torch.bfloat16), tokenizer(), "half"), ids, [0, 2], 8).gradient
    full = gradients(wrap(tiny_hf("gpt2"), tokenizer(), "full"), ids, [0, 2], 8).gradient
    assert np.corrcoef(half.ravel(), full.ravel())[0, 1] > 0.95
