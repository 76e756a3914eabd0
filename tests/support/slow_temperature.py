"""Temperature by its definition: bisection over all of the vocabulary, float64, nothing of ours."""

from __future__ import annotations

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def entropy(log_p: np.ndarray) -> np.ndarray:
    return np.asarray(-(np.exp(log_p) * log_p).sum(-1))


def tempered(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Log-probabilities [T, V] of ``before`` at the temperatures, from 1/16 to 16, at which it has ``after``'s
    entropies."""
    before, wanted = np.asarray(before, np.float64), entropy(np.asarray(after, np.float64))
    low, high = np.full(len(before), -np.log(16.0)), np.full(len(before), np.log(16.0))
    for _ in range(60):
        middle = (low + high) / 2
        above = entropy(log_softmax(np.exp(middle)[:, None] * before)) > wanted
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return log_softmax(np.exp(low)[:, None] * before)
