"""Activations and attributions of latents, against one sequence at a time and finite differences."""

from __future__ import annotations

from pathlib import Path

import dictionaries as slow
import numpy as np
import pytest
import torch
from engines import some_prompts
from families import tiny
from harness_plugins.dictionaries.access import captured, edited
from harness_plugins.dictionaries.dictionary import Dictionary, load
from harness_plugins.dictionaries.reading import read_latents

from harness.model.model import Model


@torch.no_grad()
def log_probability(model: Model, dictionary: Dictionary, tokens: list[int], answer: int, push: torch.Tensor) -> float:
    """Of the answer after the tokens, with latents moved by ``push`` [pos, d_sae]."""
    with edited(model, dictionary, lambda z: z + push):
        logits = model.forward(model.pad([tokens])).logits[0, -1]
    return float(logits.double().log_softmax(-1)[answer])


@pytest.mark.parametrize(
    ("family", "kind", "options"),
    [
        ("gpt2", "topk", {"hook": "blocks.1.hook_resid_pre"}),
        ("llama", "standard", {"normalize_activations": "layer_norm"}),
        ("olmo2", "transcoder", {"hook": "blocks.2.x"}),
    ],
)
def test_attribution_is_activation_times_the_slope_of_the_answer(
    tmp_path: Path, family: str, kind: str, options: dict[str, str]
) -> None:
    model, dictionary = tiny(family, torch.float64), load(str(slow.random_dictionary(tmp_path, kind, 32, **options)))
    prompts = some_prompts(5, n=4, longest=6)
    last, whole = (read_latents(model, dictionary, prompts, at, True, 3) for at in ("last", "all"))
    for row, tokens in enumerate(prompts):
        with torch.no_grad(), captured(model, dictionary) as seen:
            logits = model.forward(model.pad([tokens])).logits[0, -1]
        z, answer = seen[dictionary.configuration.layer][0], int(logits.argmax())
        assert last.answers[row] == whole.answers[row] == answer
        later = slice(1, None) if len(tokens) > 1 else slice(None)
        np.testing.assert_allclose(last.activation[row], z[-1], atol=1e-5)
        np.testing.assert_allclose(whole.activation[row], z[later].mean(0), atol=1e-5)
        for i in np.argsort(-np.abs(whole.attribution[row]))[:2]:
            slopes = []
            for place in range(len(tokens)):
                push = torch.zeros(*z.shape, dtype=torch.float64)
                push[place, i] = 1e-3
                up, down = (log_probability(model, dictionary, tokens, answer, sign * push) for sign in (1, -1))
                slopes.append((up - down) / 2e-3 * float(z[place, i]))
            np.testing.assert_allclose(last.attribution[row, i], slopes[-1], rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(whole.attribution[row, i], sum(slopes[later]), rtol=1e-3, atol=1e-4)
    assert np.abs(whole.attribution).max() > 0.01
    assert np.array_equal(whole.active, last.active) and whole.tokens == sum(len(x) - 1 for x in prompts)


def test_without_gradients_nothing_is_attributed_and_half_precision_agrees(tmp_path: Path) -> None:
    dictionary = load(str(slow.random_dictionary(tmp_path, "jumprelu", 32)))
    whole, half = (
        read_latents(tiny("llama", dtype), dictionary, some_prompts(5, n=6), "all", gradients, 4)
        for dtype, gradients in ((torch.float32, False), (torch.bfloat16, True))
    )
    assert not whole.attribution.any() and half.attribution.any()
    assert np.corrcoef(half.activation.ravel(), whole.activation.ravel())[0, 1] > 0.99
