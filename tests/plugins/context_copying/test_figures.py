"""Figures of the context-copying metrics: what they hold, and that they can be drawn, also where little is defined."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from conflicts import CK, HAND, LOG_P, ND, observed, outcomes
from harness_plugins.context_copying.metrics.first_token import LogOdds
from harness_plugins.context_copying.metrics.relation_groups import RelationGroups
from harness_plugins.context_copying.metrics.selected_neurons import SelectedNeurons
from harness_plugins.context_copying.metrics.transitions import ConversionRatios, Transitions

from harness.conditions.conditions import Selection
from harness.conditions.units import Neuron
from harness.plugin.records import Figure, Measurement
from harness.report.figure_files import csv_bytes, render

PNG = b"\x89PNG"


def figures(measurement: Measurement) -> dict[str, Figure]:
    return {figure.name: figure for figure in measurement.figures}


def drawn(figure: Figure) -> str:
    """Draw a figure; returns its CSV."""
    png, svg = render(figure)
    assert "? " in figure.title  # which question it answers
    assert png.startswith(PNG) and b"<svg" in svg and len(png) > 5000
    return csv_bytes(figure.data).decode()


def test_sources_before_and_after() -> None:
    found = figures(Transitions().measure(outcomes(HAND)))["knowledge_sources"]
    assert list(found.data["before"]) == [3, 3, 4] and list(found.data["after"]) == [4, 3, 3]
    assert list(found.data["control_mean"]) == [1.5, 1.5, 7.0]
    assert drawn(found).startswith("source,before,after,control_mean")


def test_conversion_ratios_beside_the_controls() -> None:
    found = figures(ConversionRatios().measure(outcomes(HAND)))
    bars = found["conversion_ratios"].data
    assert list(bars["ratio"]) == ["CK conversion ratio", "PK conversion ratio", "ND conversion ratio"]
    assert (list(bars["count"]), list(bars["of"])) == ([3, 2, 2], [7, 7, 6])
    assert list(bars["control_mean"]) == [0.0, 0.0, 50.0]
    drawn(found["conversion_ratios"])
    scores = found["global_transition_score"]
    assert scores.title.endswith("; quantile 100.0.")
    assert list(scores.data["value"]) == pytest.approx([70, 0, 60])
    drawn(scores)


def test_what_could_not_convert_is_said_and_no_controls_are_needed() -> None:
    found = figures(ConversionRatios().measure(outcomes([[CK] * 3, [CK, CK, ND]])))
    assert math.isnan(found["conversion_ratios"].data["treated"][0])  # everything was CK before
    assert set(found) == {"conversion_ratios"}  # no histogram of no controls
    for figure in (*found.values(), *figures(Transitions().measure(outcomes([[CK] * 3, [CK, CK, ND]]))).values()):
        drawn(figure)


def test_densities_of_log_odds_integrate_to_one() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(-2, 1, size=(3, 60))
    values = {name: first + i + rng.normal(0, 0.1, size=(3, 60)) for i, name in enumerate(LOG_P)}
    [found] = LogOdds().measure(outcomes([[CK] * 60] * 3, **values)).figures
    data = {name: np.array(column) for name, column in found.data.items()}
    assert set(data["pair"]) == {"log(P_CK/P_PK)", "log(P_ND/P_CK)", "log(P_ND/P_PK)"}
    for pair in set(data["pair"]):
        rows = (data["pair"] == pair) & (data["what"] == "log-odds")
        for column in ("before", "after"):
            area = np.trapezoid(data[column][rows].astype(float), data["x"][rows].astype(float))
            assert 0.8 < area < 1.001
    drawn(found)
    assert "lie on each other" not in found.title
    steps = np.array([0.0, 0.01, 0.02])[:, None]
    near = {name: rng.normal(i, 1, 60) + (i + 1) * steps for i, name in enumerate(LOG_P)}
    [close] = LogOdds().measure(outcomes([[CK] * 60] * 3, **near)).figures
    assert "lie on each other before and after and are not drawn" in close.title and close.size[1] < found.size[1]
    assert set(close.data["what"]) == {"log-odds", "shift"}  # the data have both
    drawn(close)


def test_log_odds_without_spread_or_without_prompts_can_be_drawn() -> None:
    still = {name: [[-1.0] * 4] * 3 for name in LOG_P}
    drawn(LogOdds().measure(outcomes([[CK] * 4] * 3, **still)).figures[0])
    alike = LogOdds().measure(outcomes([[CK] * 4] * 3, first_tokens=[(5, 5)] * 4, **still))
    assert alike.figures == ()


def test_bars_of_groups() -> None:
    [found] = RelationGroups().measure(observed()).figures
    assert (found.name, len(found.data["group"])) == ("by_group", 9)
    drawn(found)


def test_neurons_by_null_space_and_norm() -> None:
    rng = np.random.default_rng(0)
    candidates = tuple(Neuron(11, i) for i in range(300))
    scores = {"rho": rng.random(300), "logit_var": 10.0 ** rng.normal(-3, 1, 300), "norm": rng.gamma(2, size=300)}
    selection = Selection(candidates[:6], "rule", candidates, scores)
    found = figures(SelectedNeurons().measure(replace(outcomes(HAND), selection=selection)))
    assert set(found) == {"logit_var_rho", "weight_norms"}
    assert np.asarray(found["logit_var_rho"].data["selected"]).sum() == 6
    for figure in found.values():
        drawn(figure)
