"""Tiny random models of every family (:mod:`harness.testing.tiny_models`), wrapped, and greedy continuations of
them."""

from __future__ import annotations

from typing import Any

import torch

from harness.model.key_values import cache_of
from harness.model.model import Model, wrap
from harness.testing.tiny_models import BOS, D_VOCAB, EOS, FAMILIES, MIXTURES, Family, tiny_hf, tokenizer

__all__ = ["BOS", "D_VOCAB", "EOS", "FAMILIES", "MIXTURES", "Family", "greedy", "tiny", "tiny_hf", "tokenizer"]


def tiny(family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> Model:
    """:func:`tiny_hf` with :func:`tokenizer`, wrapped; ``options`` are those of :func:`harness.model.model.wrap`."""
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
