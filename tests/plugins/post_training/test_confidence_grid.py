"""The grid of the overlap of entropy neurons: the rule is the selector's, and the cells are set arithmetic."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from harness_plugins.confidence_regulation.selectors.entropy import Entropy
from harness_plugins.post_training.comparison.confidence_grid import (
    COUNTS,
    SHARES,
    entropy_neurons,
    grid_rows,
    grid_sentence,
)
from harness_plugins.post_training.comparison.neurons import FinalLayer
from harness_plugins.post_training.comparison.settings import Settings
from harness_plugins.post_training.figures.confidence_grid import grid_figure

from harness.engine.closed_form import ClosedFormEngine
from harness.plugin.components import SelectionContext
from harness.testing import tiny_model
from harness.testing.common import check_shown


def test_a_cell_takes_what_the_selector_takes() -> None:
    model = tiny_model("llama")
    layer, k = FinalLayer.of(model, null_dims=3)
    context = SelectionContext(model, ClosedFormEngine(model), [], 0)
    for quantile, n in ((0.75, 4), (0.5, 7), (0.0, 3)):
        chosen = Entropy(rule="du2025", norm_quantile=quantile, top=n, null_dims=k).select(context)
        assert entropy_neurons(layer.scores, 1 - quantile, n).tolist() == [unit.index for unit in chosen.units]


def test_cells_are_set_arithmetic_and_a_model_shares_all_with_itself() -> None:
    layer, _ = FinalLayer.of(tiny_model("llama"), null_dims=3)
    rows = grid_rows(layer, layer, (1.0, 0.25), (3, 10**6))
    assert [(row["share of norm"], row["neurons"]) for row in rows] == [
        (0.25, 3),
        (0.25, 10**6),
        (1.0, 3),
        (1.0, 10**6),
    ]
    assert all(row["IoU"] == 1 for row in rows) and rows[3]["shared"] == len(layer.w_out) and rows[3]["p"] == 1
    rng = np.random.default_rng(0)
    other = dataclasses.replace(layer, scores={name: rng.permutation(x) for name, x in layer.scores.items()})
    for row in (found := grid_rows(layer, other, SHARES, COUNTS)):
        a, b = (set(entropy_neurons(x.scores, row["share of norm"], row["neurons"]).tolist()) for x in (layer, other))
        assert row["IoU"] == pytest.approx(len(a & b) / len(a | b))
    assert len(found) == 25 and "at 25 settings: IoU from" in grid_sentence(found)
    check_shown([grid_figure(found)], "grid")


def test_a_grid_is_made_where_one_of_its_sides_is_named() -> None:
    assert Settings().grid is None and Settings(counts=(10,)).grid == (SHARES, (10,))
    assert Settings(norm_shares=(0.25,)).recorded["norm_shares"] == (0.25,)
