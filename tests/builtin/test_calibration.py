"""Calibration of one prediction a prompt: its numbers by hand, and as if there were many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from roles import conditions

from harness.builtin.calibration import BINS, Calibration, diagram
from harness.builtin.temperature import Temperature
from harness.plugin.records import Outcomes, Prompt
from harness.report.figure_files import draw, style
from harness.statistics.functionals import error_of_gaps, expected_calibration_error, gaps, reliability
from harness.statistics.summary import summarise


def outcomes(confidence: np.ndarray, right: np.ndarray, counts: np.ndarray, **more: np.ndarray) -> Outcomes:
    n = confidence.shape[1]
    values = {"tokens": np.broadcast_to(counts, confidence.shape), "confidence": confidence, "right": right, **more}
    note = {"calibrated": {"word": "answer", "note": "what is right"}}
    prompts = tuple(Prompt(f"p{i}", "", (1,), f"p{i}") for i in range(n))
    return Outcomes(conditions(len(confidence) - 2), prompts, values, details=note)


def by_hand() -> Outcomes:
    """Four prompts, the last of which does not count: more doubt under the treatment, and one answer turns right."""
    confidence = np.array([[0.9, 0.9, 0.4, 0.0], [0.7, 0.6, 0.3, 0.0], [0.9, 0.9, 0.4, 0.0]], np.float32)
    right = np.array([[1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]], bool)
    counts = np.array([1, 1, 1, 0], bool)
    tempered = np.array([[0.9, 0.9, 0.4, 0.0], [0.7, 0.7, 0.3, 0.0], [0.9, 0.9, 0.4, 0.0]], np.float32)
    return outcomes(confidence, right, counts, tempered_confidence=tempered)


def test_numbers_by_hand() -> None:
    found = Calibration().measure(by_hand())
    values = {x.name: x.values[:2] for x in found.measures}
    # Before: 0.9 twice in one bin, one of them right; 0.4 is wrong. After: three bins.
    np.testing.assert_allclose(values["ece"], [(0.8 + 0.4) / 3, (0.3 + 0.6 + 0.7) / 3], rtol=1e-6)
    np.testing.assert_allclose(values["brier"], [(0.01 + 0.81 + 0.16) / 3, (0.09 + 0.36 + 0.49) / 3], rtol=1e-5)
    np.testing.assert_allclose(values["confidence"], [2.2 / 3, 1.6 / 3], rtol=1e-6)
    np.testing.assert_allclose(values["right"], [1 / 3, 2 / 3], rtol=1e-6)
    assert not any(x.primary for x in found.measures) and found.remarks == ("calibration: what is right",)
    ece = next(x for x in found.measures if x.name == "ece")
    assert ece.null == pytest.approx(0.4) and ece.values[2] == pytest.approx(0.4)
    counts = np.reshape(found.figures[0].data["answers"], (2, BINS))
    assert [dict(zip(*(x.tolist() for x in (np.flatnonzero(row), row[row > 0])), strict=True)) for row in counts] == [
        {6: 1, 13: 2},
        {4: 1, 9: 1, 10: 1},
    ]


def test_what_temperature_makes_of_the_brier_score() -> None:
    """The untouched model at the temperature is right where it was right."""
    given_ = by_hand()
    values = {
        **given_.values,
        "odds": np.array([[0.0] * 4, [1.0] * 4, [0.0] * 4]),
        "tempered_odds": np.zeros((3, 4)),
        "log_temperature": np.zeros((3, 4)),
        "no_temperature": np.zeros((3, 4), bool),
    }
    about = {"tempered": [{"outcome": "odds", "title": "the odds"}]}
    found = Temperature().measure(Outcomes(given_.conditions, given_.prompts, values, details=about))
    beyond = next(x for x in found.measures if x.name == "brier_beyond")
    expected = ((0.09 + 0.36 + 0.49) - (0.09 + 0.49 + 0.09)) / 3
    np.testing.assert_allclose(beyond.values, [0, expected, 0], atol=1e-6)
    assert "ece_beyond" not in {x.name for x in found.measures}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_gaps_give_the_error_that_sums_of_bins_give(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    confidence = np.where(rng.random((3, n)) < 0.1, 1.0, rng.random((3, n)))
    right, counts = rng.random((3, n)) < confidence, rng.random(n) < 0.8
    short = error_of_gaps(gaps(confidence, right, np.broadcast_to(counts, (3, n)), BINS).sum(1, dtype=np.float64))
    long = reliability(confidence[:, counts], right[:, counts], np.zeros(int(counts.sum()), int), 1, BINS)[:, 0]
    np.testing.assert_allclose(short, expected_calibration_error(long), atol=1e-6)


def test_only_some_control_sets_are_resampled_and_all_are_compared_with() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random((62, 80)).astype(np.float32)
    right, counts = rng.random((62, 80)) < 0.5, np.ones(80, bool)
    ece = next(x for x in Calibration().measure(outcomes(confidence, right, counts)).measures if x.name == "ece")
    found = summarise(ece, np.arange(80), 0, 200)
    assert found.test.m == 60 and found.interval is not None and found.difference_interval is not None
    assert found.controls is not None and found.value is not None
    difference = found.value - found.controls["mean"]
    assert found.difference_interval.low < difference < found.difference_interval.high


@pytest.mark.parametrize("most", [9, 110, 15_000])
def test_no_labels_of_the_diagrams_axes_lie_on_each_other(most: int) -> None:
    edges = np.linspace(0, 1, 16)
    means, counts = np.tile((edges[:-1] + edges[1:]) / 2, (2, 1)), np.tile(np.geomspace(most / 5, most, 15), (2, 1))
    with style():
        canvas = draw(diagram(edges, means, means, counts))
        canvas.draw_without_rendering()
        for axis in (axis for axes in canvas.axes for axis in (axes.xaxis, axes.yaxis)):
            shown = [label for label in axis.get_ticklabels(which="both") if label.get_text() and label.get_visible()]
            boxes = [label.get_window_extent() for label in shown]
            assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]), axis.get_label_text()
