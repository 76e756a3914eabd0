"""Where value neurons and value heads are: by layer, and for heads as a map of layer and head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.outcomes import Figure
from harness.report import drawing
from harness.report.figures import COLUMN

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from harness.conditions import Selection


def value_figures(selection: Selection, noun: str, title: str, column: str) -> tuple[Figure, ...]:
    """A histogram over layers, where there is more than one, and of heads a map of layer and head.

    Args:
        noun: "neuron" or "head". title: what ``column`` of the scores is, in words.
    """
    layers = np.array([unit.layer for unit in selection.candidates])
    if len(np.unique(layers)) < 2:
        return ()
    score, unit = selection.scores[column], "logits" if column == "inner_product" else "nats"
    chosen = np.array([unit.layer for unit in selection.neurons])
    found = (by_layer(layers, score, chosen, noun, title, unit),)
    return (*found, head_map(score.reshape(layers.max() + 1, -1), title, unit)) if noun == "head" else found


def by_layer(layers: np.ndarray, score: np.ndarray, chosen: np.ndarray, noun: str, title: str, unit: str) -> Figure:
    """How many of the selected are in each layer, and what all of the layer's positive contributions add up to.

    Args:
        layers: int [n], of all candidates. score: [n]. chosen: int [k], layers of the selected.
    """
    n = int(layers.max()) + 1
    counts = np.bincount(chosen, minlength=n)
    total = np.bincount(layers, weights=np.maximum(score, 0), minlength=n)

    def paint(canvas: Canvas) -> None:
        from matplotlib.ticker import MaxNLocator

        above, below = canvas.subplots(2, 1, sharex=True)
        above.bar(np.arange(n), counts, color=drawing.SELECTED, width=0.8)
        above.set(ylabel=f"selected {noun}s")
        above.yaxis.set_major_locator(MaxNLocator(integer=True))
        below.bar(np.arange(n), total, color=drawing.OTHERS, width=0.8)
        below.set(xlabel="layer", ylabel=f"sum of positive\ncontributions ({unit})")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))

    return Figure(
        f"value_{noun}s_by_layer",
        f"The {len(chosen)} selected value {noun}s by layer, and the sum of all positive contributions ({title}, mean "
        f"over prompts) of a layer's {noun}s.",
        {"layer": np.arange(n), "selected": counts, "positive_sum": total},
        paint,
        (COLUMN, 3.0),
    )


def head_map(score: np.ndarray, title: str, unit: str) -> Figure:
    """The contribution of every head [n_layers, n_heads], as colours."""
    n_layers, n_heads = score.shape

    def paint(canvas: Canvas) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = canvas.subplots()
        limit = float(np.abs(score).max()) or 1.0
        drawn = axes.imshow(score, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
        axes.grid(False)
        axes.set(xlabel="head", ylabel="layer")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        canvas.colorbar(drawn, ax=axes, label=f"mean contribution ({unit})")

    layers, heads = np.indices(score.shape).reshape(2, -1)
    return Figure(
        "value_heads_map",
        f"Contribution of every head ({title}, mean over prompts), {n_layers} layers of {n_heads} heads.",
        {"layer": layers, "head": heads, "score": score.ravel()},
        paint,
        (COLUMN, 2.8),
    )
