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
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

MAX_PANELS = 6
BINS = 40


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
    linear = [_pile(row[np.isfinite(row)]) for row in samples]
    edges = [_edges(row[np.isfinite(row)], width) for row, width in zip(samples, linear, strict=True)]
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
        "Which activations does the ablation replace, and by what? Those of "
        f"{counted(drawn, 'selected neuron', ',')} ({counted(samples.shape[1], 'position', ',')}, "
        "logarithmic counts) and the values that ablations set them to"
        f"{f'; {used} is the one of this run' if used in values else ''}."
    )
    if any(width is not None for width in linear[:drawn]):
        caption += " Where most of them lie close together, the axis is linear there and logarithmic beyond."

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
            if linear[row] is None:
                axes.locator_params(axis="x", nbins=5)
            else:
                axes.set_xscale("asinh", linear_width=linear[row])
                _few_ticks(axes, np.array([*edges[row][[0, -1]], *(marks[row] for marks in values.values())]))
        canvas.supxlabel("activation", fontsize="medium")
        canvas.supylabel("positions", fontsize="medium")
        handles = panels[0].get_legend_handles_labels()[0] if drawn else []
        if handles:
            canvas.legend(handles=handles, loc="outside upper left", ncols=3 if drawn > 1 else 2)

    size = (COLUMN if drawn < 2 else PAGE, 0.9 + 1.5 * (math.ceil(drawn / 3) or 1))
    return Figure(name, caption, data, paint, size)


PILE = 0.02
"""Share of their range in which half of the activations lie, where they are a pile that a linear axis cannot part."""


def _pile(values: np.ndarray) -> float | None:
    """Within what the axis is linear where half of the values [n] lie within :data:`PILE` of their range: a quarter of
    the width of this half, which has the room of decades then. Else None."""
    if len(values) < 2 or not (reach := float(np.ptp(values))):
        return None
    ordered, half = np.sort(values), (len(values) + 1) // 2
    width = float((ordered[half - 1 :] - ordered[: len(values) - half + 1]).min())
    return max(width / 4, 1e-4 * reach) if width < PILE * reach else None


def _edges(values: np.ndarray, width: float | None) -> np.ndarray:
    """Edges of bins that look alike on the axis: of equal width where it is linear."""
    if width is None:
        return bin_edges(values)
    low, high = np.arcsinh(values.min() / width), np.arcsinh(values.max() / width)
    edges: np.ndarray = width * np.sinh(np.linspace(low, high, BINS + 1))
    edges[[0, -1]] = values.min(), values.max()  # which rounding may have put outside
    return edges


def _few_ticks(axes: Axes, shown: np.ndarray) -> None:
    """An axis for all of ``shown`` [n] with 0, and powers of ten on both sides that are far enough apart to be read."""
    low, high = float(shown.min()), float(shown.max())
    far = max(abs(low), abs(high))
    ticks = [0.0, *(side * 10.0**power for side in (-1, 1) for power in range(math.floor(math.log10(far)) + 1, -9, -1))]
    scale = axes.xaxis.get_transform()
    ends = scale.transform(np.array([low, high]))
    kept: list[float] = []
    for tick in ticks:
        place = scale.transform(np.array([tick]))[0]
        apart = all(abs(place - scale.transform(np.array([other]))[0]) > 0.16 * (ends[1] - ends[0]) for other in kept)
        if low <= tick <= high and apart:
            kept.append(tick)
    axes.set_xticks(sorted(kept), [f"{tick:g}" for tick in sorted(kept)])
    axes.minorticks_off()
    axes.set_xlim(low, high)
