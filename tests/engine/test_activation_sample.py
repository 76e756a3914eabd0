"""A sample of activations is that of the whole stream, and is put together without a second copy."""

from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.engine.activation_summaries import _Reservoir


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 40), st.integers(0, 10**6))
def test_the_rows_with_the_smallest_keys_are_kept_in_order(sizes: list[int], capacity: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [(rng.integers(0, 5, n) / 4, {0: rng.random((n, 2)), 3: rng.random((n, 1))}) for n in sizes]
    found = _Reservoir(capacity)
    for keys, rows in parts:
        found.add(keys, dict(rows))
    keys = np.concatenate([x for x, _ in parts])
    keep = np.sort(np.argsort(keys, kind="stable")[:capacity])
    kept = found.sample()
    assert all((kept[i] == np.concatenate([x[i] for _, x in parts])[keep]).all() for i in (0, 3))


def test_parts_are_let_go_as_they_are_read() -> None:
    found, n = _Reservoir(10**6), 40
    tracemalloc.start()
    try:
        for _ in range(n):
            found.add(np.arange(1000.0), {0: np.zeros((1000, 64))})
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        assert found.sample()[0].shape == (1000 * n, 64)
        assert tracemalloc.get_traced_memory()[1] < 2.2 * held  # the array is reserved at once, and filled part by part
        assert tracemalloc.get_traced_memory()[0] < 1.2 * held
    finally:
        tracemalloc.stop()
