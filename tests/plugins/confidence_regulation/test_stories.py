"""Confidence regulation on a small trained Llama: every number against the slow implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from against_slow import correlation_agrees, frequencies, induction_agrees, mediation_agrees
from checkout import reference
from harness_plugins.confidence_regulation.analysis.attention_heads import head_scores, random_repeats
from safetensors.numpy import load_file as load_arrays
from small_runs import all_finite, finish, record

from harness.model.model import Model

SENTENCES = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.",
    "Tom had a big red ball. He and his dog ran after it all day, and then they went home to eat.",
    "One day a bird saw a shiny stone near the river. \"I want it,\" said the bird, and took it to her nest.",
    "The sun was hot. Mom gave Ben a cold drink and he was happy. They sat under the old tree.",
    "A small cat was sad because it could not find its friend. It looked and looked until it was dark.",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(stories: Model) -> Model:
    return stories


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return [f"{a} {b}" for i, a in enumerate(SENTENCES) for j, b in enumerate(SENTENCES) if i != j]


@pytest.fixture(scope="module")
def run(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    from planted import write_corpus

    corpus = write_corpus(tmp_path_factory.mktemp("stories"), documents)

    stories = reference("models/stories260k")

    def make(task: str, selector: str, intervention: str, **more: Any) -> Path:
        folder = tmp_path_factory.mktemp("runs")
        found = finish(folder, model=f"hf:pretrained={stories}", task=f"{task},corpus={corpus}", selector=selector,
                       intervention=intervention, controls=2, **more)  # fmt: skip
        assert all_finite(record(found))
        return found

    return make


def test_mediation(run: Any, model: Model, documents: list[str]) -> None:
    folder = run("mediation:frequency=true,sequences=3,length=40,others=3", "entropy:top=3,rule=stolfo2024", "mean")
    mediation_agrees(folder, model.hf, model.tokenizer, frequencies(model.tokenizer, documents, 512))


def test_the_correlation_of_entropy_and_divergence(run: Any, model: Model, documents: list[str]) -> None:
    folder = run("unigram_entropy:sequences=3,length=40", "entropy:top=4,rule=stolfo2024", "mean")
    correlation_agrees(folder, model.hf, model.tokenizer, frequencies(model.tokenizer, documents, 512))


@pytest.mark.parametrize("neurons", ["4.3+4.80+4.101", "1.5+1.60", "2.7+4.9"])
def test_induction(run: Any, model: Model, neurons: str) -> None:
    folder = run("induction_synthetic:sequences=3,length=16", f"neurons:neurons={neurons}", "clip_mean")
    induction_agrees(folder, model.hf)


@pytest.mark.parametrize("neurons", ["4.3+4.80+4.101", "1.5+1.60"])
def test_natural_induction(run: Any, model: Model, neurons: str) -> None:
    folder = run(
        "induction_natural:candidates=40,length=120,ngram=3,sequences=4", f"neurons:neurons={neurons}", "clip_mean"
    )
    induction_agrees(folder, model.hf, n_counted=3)
    entropy = load_arrays(folder / "outcomes.safetensors")["series entropy"]
    assert entropy.shape[2] == 8  # A0 A1 A2 B A0 A1 A2 X
    np.testing.assert_array_equal(entropy[0, :, :4], entropy[1, :, :4])
    assert np.abs(entropy[1, :, 4:] - entropy[0, :, 4:]).max() > 1e-4


def test_prefix_matching(model: Model) -> None:
    """Attention from a token of the second copy to the token after its first occurrence, one by one."""
    import transformers

    length, sequences = 7, random_repeats(model, 3, 7, seed=1)
    hf = transformers.AutoModelForCausalLM.from_pretrained(reference("models/stories260k"), attn_implementation="eager")
    hf = hf.double().eval()
    matching, first = np.zeros((5, 8)), np.zeros((5, 8))
    for tokens in sequences:
        begin = len(tokens) - 2 * length
        assert tokens[begin : begin + length] == tokens[begin + length :] and tokens[:begin] == [1]
        with torch.no_grad():
            patterns = hf(torch.tensor([tokens]), output_attentions=True).attentions
        for layer in range(5):
            for head in range(8):
                pattern = patterns[layer][0, head].numpy()
                at = [pattern[p, tokens.index(tokens[p], begin) + 1] for p in range(begin + length, len(tokens))]
                matching[layer, head] += np.mean(at) / len(sequences)
                first[layer, head] += pattern[1:, 0].mean() / len(sequences)
    found = head_scores(model, sequences, length)
    np.testing.assert_allclose(found.prefix_matching, matching, atol=1e-5)
    np.testing.assert_allclose(found.first_token, first, atol=1e-5)
