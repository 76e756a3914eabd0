"""Statistics of a few conditions at a time are those of all at once, bit by bit, and hold little."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.results.arrays import Mapped, write_arrays
from harness.statistics import AnyMeasure, Each, Functional, Measure, bootstrap, interval_of, summarise
from harness.statistics.blocks import MEMORY, blocks, budget
from harness.statistics.comparison import paired_intervals, swap_test
from harness.statistics.functionals import moments, pearson

CASES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "controls": st.integers(1, 40),
        "clusters": st.integers(1, 40),
        "per_cluster": st.integers(1, 3),
        "kind": st.sampled_from(["share", "of those", "mean", "ratio", "columns", "functional"]),
    }
)


def numbers(case: dict[str, Any]) -> tuple[Callable[[slice], tuple[np.ndarray, ...]], int, np.ndarray]:
    """What is made of some conditions, how many conditions there are, and clusters of prompts."""
    rng, n = np.random.default_rng(case["seed"]), case["clusters"] * case["per_cluster"]
    rows = case["controls"] + 2
    x, y = rng.normal(size=(rows, n)).astype(np.float32), rng.random((rows, n)) < 0.4
    clusters, columns = rng.permutation(np.repeat(np.arange(case["clusters"]), case["per_cluster"])), rng.permutation(n)
    made: dict[str, Callable[[slice], tuple[np.ndarray, ...]]] = {
        "share": lambda s: (y[s], np.broadcast_to(True, y[s].shape)),
        "of those": lambda s: (y[s] & (x[s] > 0), x[s] > 0),
        "mean": lambda s: (np.where(y[0], np.nan, x[s] - x[0]), np.broadcast_to(~y[0], y[s].shape)),
        "ratio": lambda s: (x[s] - x[0], np.abs(x[s])),
        "columns": lambda s: ((x[s] - x[0])[:, columns], np.broadcast_to(True, y[s].shape)),
        "functional": lambda s: (np.stack(moments(x[s], x[s] * x[0]), -1),),
    }
    return made[case["kind"]], rows, clusters


def measure(of: Callable[[slice], tuple[np.ndarray, ...]], n: int, each: bool) -> AnyMeasure:
    parts = [Each(n, lambda s, i=i: of(s)[i]) if each else of(slice(0, n))[i] for i in range(len(of(slice(0, 1))))]
    if len(parts) == 1:
        return Functional("r", "r", "share", parts[0], pearson)
    return Measure("x", "x", "share", *parts)


def few(patch: pytest.MonkeyPatch) -> None:
    """As little as can be: two conditions at a time, weights on the disk."""
    patch.setenv(MEMORY, "1")
    patch.setattr(bootstrap, "KEPT_WEIGHTS", 0)
    patch.setattr("harness.statistics.blocks.CELL", 2**20)
    patch.setattr("harness.statistics.blocks.SMALL", 2**40)
    patch.setattr("harness.statistics.bootstrap.budget", lambda: 0)
    bootstrap._stored.cache_clear()


@settings(max_examples=60)
@given(CASES)
def test_a_few_conditions_at_a_time_are_all_at_once(case: dict[str, Any]) -> None:
    of, n, clusters = numbers(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "PRODUCT", 1)  # no budget changes it: products round by their sizes
        whole = summarise(measure(of, n, each=False), clusters, 3, 60)
        few(patch)
        for each in (True, False):
            parts = measure(of, n, each)
            assert repr(summarise(parts, clusters, 3, 60)) == repr(whole)


@settings(max_examples=15)
@given(CASES, st.integers(0, 1))
def test_comparisons_and_single_conditions_are_the_same(case: dict[str, Any], row: int) -> None:
    of, n, clusters = numbers(case)
    a, b = (measure(of, n, each) for each in (False, True))
    assert interval_of(a, row, clusters, 1, 40) == interval_of(b, row, clusters, 1, 40)
    some = np.flatnonzero(clusters < max(1, case["clusters"] - 1))
    first, second = a.over(some), b.over(some)
    given = (clusters[some], clusters[some], 5)
    assert paired_intervals(first, first, *given, 40) == paired_intervals(second, second, *given, 40)
    assert swap_test(first, first, *given, 20) == swap_test(second, second, *given, 20)


def test_what_is_not_finite_is_refused_when_it_is_made() -> None:
    values = np.where(np.arange(5)[:, None] == 3, np.nan, np.ones((5, 4)))
    made = Measure("entropy", "x", "nats", Each(5, lambda rows: values[rows]), np.ones((5, 4)))
    with pytest.raises(HarnessError, match=r'"entropy": a value that is not finite .* control-0001, 4 prompts'):
        summarise(made, np.arange(4), 0, 20)


@given(st.integers(2, 50), st.integers(0, 10**9))
def test_blocks_hold_two_conditions_at_least(n: int, per_condition: int) -> None:
    found = list(blocks(n, per_condition))
    assert [i for x in found for i in range(x.start, x.stop)] == list(range(n))
    assert all(x.stop - x.start >= 2 for x in found)


@pytest.mark.parametrize("value", ["0", "-1", "much", "1e3", "٣"])
def test_a_budget_is_a_number_of_mebibytes(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(MEMORY, value)
    with pytest.raises(HarnessError, match="HARNESS_MEMORY: expected a number of MiB"):
        budget()
    monkeypatch.setenv(MEMORY, "3")
    assert budget() == 3 * 2**20


def test_what_takes_long_is_kept_once_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def make(rows: slice) -> np.ndarray:
        asked.extend(range(rows.start, rows.stop))
        return np.arange(24.0).reshape(8, 3)[rows]

    monkeypatch.setattr("harness.statistics.blocks.budget", lambda: 0)
    found = Each(8, make).kept()
    assert (found == np.arange(24.0).reshape(8, 3)).all() and not found.flags.owndata
    assert sorted(asked) == [0, *range(8)]  # the first row says what there is


def test_what_is_little_is_made_once() -> None:
    asked: list[slice] = []

    def make(rows: slice) -> np.ndarray:
        asked.append(rows)
        return np.arange(24.0).reshape(8, 3)[rows]

    found = Each(8, make)
    assert found[2].tolist() == [6, 7, 8] and found[2:4].shape == (2, 3) and found[[0, 7]].shape == (2, 3)
    assert asked == [slice(0, 1), slice(0, 8)]


def held(path: Path, n_prompts: int, n_conditions: int = 120) -> int:
    """The most bytes that are held while a share and a mean of outcomes on the disk are summed up."""
    rng = np.random.default_rng(0)
    shape = (n_conditions, n_prompts)
    write_arrays(path, {"source": rng.integers(0, 3, shape).astype(np.int8), "entropy": rng.random(shape, np.float32)})
    seen, clusters = Mapped(path).whole(), np.arange(n_prompts) // 3
    tracemalloc.start()
    try:
        for measure in (
            Measure("s", "s", "%", Each(n_conditions, lambda s: seen["source"][s] != seen["source"][0]),
                    np.broadcast_to(True, shape), 100.0),
            Measure("e", "e", "nats", Each(n_conditions, lambda s: seen["entropy"][s] - seen["entropy"][0]),
                    Each(n_conditions, lambda s: seen["source"][s] > 0)),
        ):  # fmt: skip
            summarise(measure, clusters, 0, 40)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_is_held_does_not_grow_with_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes of a prompt and condition take five bytes on the disk; held at once, with all that is made of them, they
    took more than forty."""
    monkeypatch.setenv(MEMORY, "4")
    monkeypatch.setattr(bootstrap, "PRODUCT", 60_000)
    monkeypatch.setattr(bootstrap, "KEPT_WEIGHTS", 60_000)
    small, large = 2_000, 8_000
    grown = held(tmp_path / "large", large) - held(tmp_path / "small", small)
    assert grown < 1.5 * 120 * (large - small)


@given(st.integers(2, 60), st.integers(1, 30), st.integers(1, 40))
def test_draws_are_the_same_in_blocks_of_any_size(n: int, block: int, seed: int) -> None:
    whole = np.concatenate(list(bootstrap._drawn(n, seed, 30, 30)))
    assert (whole == np.concatenate(list(bootstrap._drawn(n, seed, 30, block)))).all() and (whole.sum(1) == n).all()
