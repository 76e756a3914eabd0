"""Tiny random models of every family (:mod:`harness.testing.tiny_models`), wrapped, and greedy continuations of
them."""

from __future__ import annotations

from typing import Any

import torch

from harness.model.key_values import cache_of
from harness.model.model import Model
from harness.model.wrapping import wrap
from harness.testing.tiny_models import BOS, D_VOCAB, EOS, FAMILIES, MIXTURES, Family, tiny_hf, tokenizer

__all__ = [
    "BOS",
    "D_VOCAB",
    "EOS",
    "FAMILIES",
    "MIXTURES",
    "SHAPES",
    "Family",
    "greedy",
    "tiny",
    "tiny_hf",
    "tokenizer",
]

SHAPES = (
    "gpt2",  # layer norms with biases, learned positions, transposed weights (Conv1D), query, key and value fused
    "gpt_neo",  # windows of attention, two layers
    "gpt_neox",  # attention and MLP in parallel with a norm each, fused head by head, untied
    "gptj",  # the same with one norm, a bias of the unembedding
    "falcon_new",  # fused in groups of heads, patterns that the fused attention does not give
    "falcon_alibi",  # biases of distance in the place of positions
    "opt",  # learned positions that padding moves, ReLU
    "opt_350m",  # no final norm, a projection behind the residual stream
    "llama",  # RMS norms, a gated MLP
    "llama_gqa_tied",  # heads that share keys and values, a tied unembedding, biases in the MLP
    "phi3",  # gate and up projection fused
    "gemma2",  # gains of 1 + w, norms behind the blocks, capped logits
    "qwen3",  # norms of queries and keys, heads wider than their share of d_model
    "olmo",  # norms without gains
    "olmo2",  # norms behind the blocks alone
    "cohere",  # scaled logits, norms without biases
    "granite",  # multiplied embeddings, attention, residual writes and logits
)
"""One family of each kind that this project's code, rather than transformers', treats differently.

The others are like one of these. What depends on how each family's own modules are called (parts, hooks, layers that
are shared between conditions) is tested on all of :data:`FAMILIES`."""


def tiny(family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> Model:
    """:func:`tiny_hf` with :func:`tokenizer`, wrapped; ``options`` are those of :func:`harness.model.wrapping.wrap`."""
    return wrap(tiny_hf(family, dtype, seed), tokenizer(), family, **options)


def greedy(model: Model, sequences: list[list[int]], n: int) -> list[list[int]]:
    """``n`` greedy tokens for each sequence, batched, left-padded, with the cache."""
    batch = model.pad(sequences)
    new: list[torch.Tensor] = []
    out = model.forward(batch, use_cache=True)
    for _ in range(n):
        new.append(out.logits[:, -1].argmax(-1))
        batch = batch.extend(new[-1][:, None])
        out = model.forward(batch, past=cache_of(out))
    return torch.stack(new, 1).tolist()
