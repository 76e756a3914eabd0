"""How well mass-mean probes tell true from false after every layer, in data sets that they were not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plotting import shapes as drawing
from harness.plotting.shapes import PAGE
from harness.plugin import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


def sweep_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy by layer: of each model's probe in each, over data sets, and of the tuned model's own by data set."""
    layers = sorted({row["layer"] for row in rows})
    cells = list(dict.fromkeys((row["of"], row["in"]) for row in rows))
    families = list(dict.fromkeys(row["tested on"] for row in rows))

    def line(of: tuple[str, str], among: Sequence[str]) -> list[float]:
        chosen = [x for x in rows if (x["of"], x["in"]) == of and x["tested on"] in among]
        return [float(np.mean([x["accuracy"] for x in chosen if x["layer"] == layer])) for layer in layers]

    def paint(canvas: Canvas) -> None:
        from matplotlib.ticker import MaxNLocator

        left, right = canvas.subplots(1, 2, sharey=True)
        for row, of in enumerate(cells):
            left.plot(layers, line(of, families), **drawing.line_style(row), label=f"{of[0]}'s in {of[1]}")
        for row, family in enumerate(families):
            right.plot(layers, line(("tuned", "tuned"), [family]), **drawing.line_style(row), label=family)
        left.set(ylabel="accuracy, held-out data sets", ylim=(None, 1.03))
        for axes in (left, right):
            axes.axhline(0.5, color=drawing.GUIDE, linewidth=0.7, zorder=1)
            axes.set_xlabel("layer")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            drawing.legend(axes)

    return Figure(
        "probe_sweep",
        "Does one model's probe of truth read the other? Accuracy of mass-mean probes trained on the other data "
        "sets, by layer: the mean over held-out data sets of "
        "each model's probe in each model, and the tuned model's own in each data set.",
        {key: [row[key] for row in rows] for key in rows[0]},
        paint,
        (PAGE, 2.6),
    )
