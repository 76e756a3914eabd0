"""Where the selected neurons lie among all candidates of the selector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plugin import Figure, Frame, Measurement, Metric

from ..figures import logit_var_rho, norm_distribution
from .transition_cells import columns_of

if TYPE_CHECKING:
    from harness.plugin import Outcomes, Selection


class SelectedNeurons(Metric):
    """Each selected neuron's scores with their percentiles among all candidates; LogitVar against rho, and norms.

    Nothing where the selector scores nothing (``random``, ``neurons``).
    """

    name = "selected_neurons"

    def measure(self, outcomes: Outcomes) -> Measurement:
        selection = outcomes.selection
        if selection is None or not selection.scores or not selection.candidates:
            return Measurement()
        chosen = set(selection.units)
        selected = np.array([neuron in chosen for neuron in selection.candidates])
        scores = {name: np.asarray(column, dtype=float) for name, column in selection.scores.items()}
        figures: list[Figure] = []
        if {"logit_var", "rho"} <= set(scores):
            names = [str(neuron) for neuron in selection.candidates]
            figures.append(logit_var_rho(names, scores["logit_var"], scores["rho"], selected))
        if "norm" in scores:
            figures.append(norm_distribution(scores["norm"], selected))
        return Measurement(frames=(percentiles(selection, scores),), figures=tuple(figures))


def percentiles(selection: Selection, scores: dict[str, np.ndarray]) -> Frame:
    """A row for each selected neuron: its scores, and the percent of all candidates below each (ties half)."""
    rows: list[dict[str, Any]] = []
    place = {neuron: row for row, neuron in enumerate(selection.candidates)}
    for neuron in selection.units:
        if neuron not in place:
            continue
        entry: dict[str, Any] = {"neuron": str(neuron)}
        for name, column in scores.items():
            value, known = column[place[neuron]], column[np.isfinite(column)]
            finite = bool(np.isfinite(value))
            entry[name] = float(value) if finite else None
            below = ((known < value).sum() + (known == value).sum() / 2) / max(len(known), 1)
            entry[f"{name}_percentile"] = float(100 * below) if finite else None
        rows.append(entry)
    return Frame("selected_neurons", "selected neurons: scores, and percent of all candidates below", columns_of(rows))
