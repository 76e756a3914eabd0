"""Figures of directions: how well each layer's tells the classes apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.plotting import shapes as drawing
from harness.plotting.shapes import COLUMN
from harness.plugin import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from harness.plugin import Selection


def separation_by_layer(selection: Selection) -> Figure:
    """AUROC and accuracy of every layer's direction on held-out texts, and the area on training texts that decided.

    The selected layer is marked."""
    layers = np.array([unit.layer for unit in selection.candidates])
    chosen = selection.units[0].layer
    scores = selection.scores
    lines = {
        "accuracy": "accuracy",
        "auroc": "area under the ROC curve",
        "auroc_train": "the same, training texts in cross-validation",
    }
    lines = {name: title for name, title in lines.items() if name in scores}

    def paint(canvas: Canvas) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = canvas.subplots()
        axes.axhline(0.5, color=drawing.GUIDE, linewidth=0.8)
        if "accuracy_low" in scores:  # with one held-out group there is no interval
            low, high = scores["accuracy_low"], scores["accuracy_high"]
            axes.fill_between(layers, low, high, color=drawing.BLUE, alpha=0.15, linewidth=0)
        for row, (name, title) in enumerate(lines.items()):
            axes.plot(layers, scores[name], **drawing.line_style(row), marker=drawing.LINES[row][2], label=title)
        axes.axvline(chosen, color=drawing.SELECTED, linewidth=0.8, linestyle=":", label="selected layer")
        axes.set(xlabel="layer", ylabel="held-out texts", ylim=(min(0.4, *(scores[x].min() for x in lines)), 1.03))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        drawing.legend(axes, columns=1)

    return Figure(
        "separation_by_layer",
        "After which layer does the direction tell held-out texts apart? Area under the ROC curve and accuracy "
        "(band: 95% interval over groups of texts); a layer that was not asked for is chosen on the training texts.",
        {"layer": layers, **scores},
        paint,
        (COLUMN, 2.4),
    )
