"""How the selected neurons' activations are distributed, and where the ablation values lie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.files.wording import counted
from harness.plotting import shapes as drawing
from harness.plotting.shapes import COLUMN, PAGE, bin_edges
from harness.plugin.records import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

MAX_PANELS = 6


def activation_values(
    neurons: Sequence[str],
    samples: np.ndarray,
    values: Mapping[str, Sequence[float]],
    used: str,
    name: str = "activation_values",
) -> Figure:
    """Figure 9 of Tighidet et al. 2025: histograms of activations with the ablation values marked.

    Args:
        neurons: k names. samples: [k, n] activations. values: ablation value -> [k]. used: the one of the run, or "".

    Raises:
        ValueError: arrays of another shape.
    """
    k = len(neurons)
    samples = np.asarray(samples, dtype=float)
    if samples.ndim != 2 or len(samples) != k or any(len(row) != k for row in values.values()):
        given = list(map(len, values.values()))
        raise ValueError(f"figure {name}: {counted(k, 'neuron')}, samples {samples.shape}, values of {given}")
    drawn = min(k, MAX_PANELS)
    edges = [bin_edges(row[np.isfinite(row)]) for row in samples]
    counts = [np.histogram(row[np.isfinite(row)], bounds)[0] for row, bounds in zip(samples, edges, strict=True)]
    data: dict[str, list[Any]] = {"neuron": [], "bin_low": [], "bin_high": [], "count": [], **{x: [] for x in values}}
    for row, (neuron, bounds, found) in enumerate(zip(neurons, edges, counts, strict=True)):
        data["neuron"] += [neuron] * len(found)
        data["bin_low"] += bounds[:-1].tolist()
        data["bin_high"] += bounds[1:].tolist()
        data["count"] += found.tolist()
        for key, marks in values.items():
            data[key] += [float(marks[row])] * len(found)
    caption = (
        f"Activations of {counted(drawn, 'selected neuron', ',')} ({counted(samples.shape[1], 'position', ',')}, "
        "logarithmic counts) and the values that ablations set them to"
        f"{f'; {used} is the one of this run' if used in values else ''}."
    )

    def paint(canvas: Canvas) -> None:
        columns = min(3, drawn) or 1
        panels = canvas.subplots(math.ceil(drawn / columns) or 1, columns, squeeze=False).ravel()
        for row, axes in enumerate(panels):
            if row >= drawn:
                axes.set_axis_off()
                continue
            axes.stairs(counts[row], edges[row], fill=True, color=drawing.OTHERS, alpha=0.6)
            for line, (key, marks) in enumerate(values.items()):
                style = drawing.line_style(line) | {"linewidth": 1.8 if key == used else 1.0}
                axes.axvline(marks[row], label=key.replace("_", " "), **style)
            axes.set_yscale("log")
            axes.set_title(neurons[row])
            axes.locator_params(axis="x", nbins=5)
        canvas.supxlabel("activation", fontsize="medium")
        canvas.supylabel("positions", fontsize="medium")
        handles = panels[0].get_legend_handles_labels()[0] if drawn else []
        if handles:
            canvas.legend(handles=handles, loc="outside upper left", ncols=3 if drawn > 1 else 2)

    size = (COLUMN if drawn < 2 else PAGE, 0.9 + 1.5 * (math.ceil(drawn / 3) or 1))
    return Figure(name, caption, data, paint, size)
