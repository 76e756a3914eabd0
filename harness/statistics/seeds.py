"""Seeds: one for each component, all from the run's."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def derive_seed(seed: int, *names: str) -> int:
    """A seed in [0, 2^63) for one component: the start of sha256 of the JSON list ``[seed, *names]``."""
    return int.from_bytes(hashlib.sha256(json.dumps([seed, *names]).encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str) -> np.random.Generator:
    """A random generator for one component."""
    return np.random.default_rng(derive_seed(seed, *names))
