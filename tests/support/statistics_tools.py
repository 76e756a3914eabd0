"""Measures made of arrays, for the tests of statistics."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.statistics import Measure


def measure(numerator: Any, denominator: Any = None, **fields: Any) -> Measure:
    """A measure of these rows; by default a share in percent of all prompts."""
    numerator = np.asarray(numerator, dtype=float)
    denominator = np.ones_like(numerator) if denominator is None else np.asarray(denominator, dtype=float)
    fields = {"name": "m", "title": "A measure", "unit": "%", "scale": 100.0, **fields}
    return Measure(numerator=numerator, denominator=denominator, **fields)


def share_of_events(rates: list[float], n: int, seed: int = 0, **fields: Any) -> Measure:
    """A baseline without events, and one row of events for every rate."""
    rng = np.random.default_rng(seed)
    return measure([np.zeros(n), *(rng.random(n) < rate for rate in rates)], **fields)
