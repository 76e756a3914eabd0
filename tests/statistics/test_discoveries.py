"""Sets beside chance: exact tails by counting, mean overlaps by hypergeometric expectation."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.statistics.comparison import chance_overlap
from harness.statistics.discoveries import agreement, beside_chance, combined_p


def test_the_tail_is_that_of_all_sets():
    planted, candidates, chosen = {0, 1, 2}, range(7), 3
    hits = [len(planted & set(some)) for some in combinations(candidates, chosen)]
    for true in range(4):
        found = beside_chance(chosen, true, len(planted), len(candidates))
        assert found.p == pytest.approx(np.mean([x >= true for x in hits]))
        assert found.expected == pytest.approx(np.mean(hits))


def test_overlaps_of_random_sets_have_the_expected_iou():
    found = agreement([(4, 10, 12, 60)] * 3, seed=0)
    assert found.iou == pytest.approx(4 / 18) and found.pairs == 3
    assert found.expected == pytest.approx(chance_overlap([(4, 10, 12, 60)]).expected_iou, rel=0.05)


def test_a_single_pair_has_the_exact_p_of_the_hypergeometric_tail():
    found, exact = agreement([(3, 8, 8, 40)], seed=1), chance_overlap([(3, 8, 8, 40)]).p
    assert found.p == pytest.approx(exact, abs=0.02)
    assert agreement([(8, 8, 8, 400)], seed=1).p == 1 / 10_000
    assert agreement([], seed=0) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_a_combined_p_is_no_smaller_than_the_smallest(values):
    found = combined_p(values)
    assert min(values) <= found <= 1
    assert combined_p(values[:1]) == values[0] and combined_p([]) is None
