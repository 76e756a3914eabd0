"""The heat map of shared entropy neurons by share of norm and number of neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plotting import shapes as drawing
from harness.plotting.shapes import COLUMN
from harness.plugin import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


def grid_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Intersection over union: shares of norm from top to bottom, numbers of neurons from left to right."""
    shares, counts = (list(dict.fromkeys(row[key] for row in rows)) for key in ("share of norm", "neurons"))
    values = np.array([row["IoU"] for row in rows]).reshape(len(shares), len(counts))

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        drawn = axes.imshow(values, cmap=drawing.colours(), vmin=0, vmax=1, aspect="auto")
        for i, j in np.ndindex(values.shape):
            text = f"{values[i, j]:.2f}"
            axes.text(j, i, text, ha="center", va="center", color="white" if values[i, j] > 0.5 else "black")
        axes.set(xlabel="neurons", ylabel="share with the largest norms")
        axes.set_xticks(range(len(counts)), [f"{n}" for n in counts])
        axes.set_yticks(range(len(shares)), [f"{share:.0%}" for share in shares])
        axes.grid(False)
        drawing.colour_bar(axes, drawn, "IoU")

    return Figure(
        "overlap_grid",
        "Does the overlap depend on the rule? Entropy neurons that the two models share (intersection over union), "
        "by how large the norms must be and how "
        "many neurons of the lowest LogitVar are taken of these.",
        {key: [row[key] for row in rows] for key in rows[0]},
        paint,
        (COLUMN, 2.4),
    )
