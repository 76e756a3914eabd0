"""Sums over clusters, and what is resampled of them, are bit by bit those of the plain way."""

import numpy as np
import pytest

from harness.statistics import Measure, bootstrap
from harness.statistics.clusters import cluster_sums

THREES = np.repeat(np.arange(40), 3)
CLUSTERS = {
    "one after another": THREES,
    "in any order": np.random.default_rng(0).permutation(THREES),
    "of unequal size": np.sort(np.random.default_rng(1).integers(0, 30, 120)),
    "each alone": np.arange(120),
    "large": np.repeat(np.arange(10), 12),
}
RNG = np.random.default_rng(2)
ARRAYS = {
    "float64": RNG.standard_normal((7, 120)),
    "float32, a column after another": RNG.standard_normal((120, 7)).astype(np.float32).T,
    "events": RNG.random((7, 120)) < 0.3,
    "events, a column after another": (RNG.random((120, 7)) < 0.3).T,
    "views of one row": np.broadcast_to(RNG.standard_normal(120), (7, 120)),
}


def plainly(array: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    order = np.argsort(clusters, kind="stable")
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    return np.add.reduceat(array[:, order], starts, axis=1, dtype=np.float64)


@pytest.mark.parametrize("clusters", CLUSTERS)
@pytest.mark.parametrize("array", ARRAYS)
def test_sums_over_clusters_are_those_of_reduceat(array: str, clusters: str) -> None:
    found, wanted = (f(ARRAYS[array], CLUSTERS[clusters]) for f in (cluster_sums, plainly))
    assert found.tobytes() == wanted.tobytes()
    assert found.flags.c_contiguous  # or sums of them would be others


def test_whole_numbers_are_resampled_in_float32_without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    events, among = RNG.random((9, 120)) < 0.1, RNG.random((9, 120)) < 0.5
    measures = [
        Measure("share", "share", "%", events & among, among, scale=100),
        Measure("mean", "mean", "nats", np.where(among, RNG.standard_normal((9, 120)), 0.0), among),
    ]

    def resampled() -> list[bytes]:
        blocks = (bootstrap.resampled(x, range(1, 9), THREES, 3, 600) for x in measures)
        return [np.concatenate(list(some)).tobytes() for some in blocks]

    counts = cluster_sums(events, THREES).T
    assert bootstrap._factor(counts).dtype == np.float32
    assert bootstrap._factor(counts * 2**20).dtype == np.float64  # as large, sums need not be exact
    assert bootstrap._factor(counts + 0.5).dtype == np.float64
    found = resampled()
    monkeypatch.setattr(bootstrap, "_factor", lambda sums: sums)
    assert found == resampled()
