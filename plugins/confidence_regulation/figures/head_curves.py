"""Activations by position when heads are ablated: a line for each set of heads, coloured by how it matches prefixes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.plotting import shapes as drawing
from harness.plotting.shapes import COLUMN, PAGE
from harness.plugin import Figure, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure as Canvas

MAX_PANELS = 6


@dataclass(frozen=True)
class HeadSet:
    """Heads that are ablated together.

    Attributes:
        text: "L5H1+L5H5"; "none". kind: the untouched model, selected heads, or baseline heads.
        score: sum of the heads' prefix-matching scores, NaN where it is not known.
    """

    text: str
    kind: Literal["untouched", "selected", "baseline"]
    score: float


def head_curves(
    neurons: Sequence[str],
    sets: Sequence[HeadSet],
    position: np.ndarray,
    mean: np.ndarray,
    se: np.ndarray,
    split: int,
    n: int,
    name: str = "head_curves",
) -> Figure:
    """Figure 5c, 12, 13: activations of neurons by position when induction heads are ablated, a panel for each neuron.

    Args:
        sets: s sets of heads, the untouched model among them. position: [t]. mean, se: [k, s, t] activation over n
            sequences, and its standard error. split: where the second copy begins.

    Raises:
        ValueError: arrays of another shape.
    """
    k, s = len(neurons), len(sets)
    mean, se = np.asarray(mean, dtype=float), np.asarray(se, dtype=float)
    if mean.shape != (k, s, len(position)) or se.shape != mean.shape:
        raise ValueError(f"figure {name}: mean {mean.shape}, se {se.shape}, expected {(k, s, len(position))}")
    drawn = min(k, MAX_PANELS)
    columns = min(drawn, 3) or 1
    lines = math.ceil(drawn / columns) or 1
    selected = [row for row, x in enumerate(sets) if x.kind == "selected"]
    known = any(math.isfinite(sets[row].score) for row in selected)
    caption = (
        f"Do the neurons follow the induction heads? Activations by position in {counted(n, 'sequence', ',')} whose "
        f"second copy begins at position {split} "
        f"(dashed), untouched and with {counted(len(selected), 'set')} of induction heads ablated"
        f"{', coloured by the sum of their prefix-matching scores' if known else ''}; grey: baseline heads."
    )
    if k > MAX_PANELS:
        caption += f" The first {MAX_PANELS} of {counted(k, 'neuron')} are drawn."

    def paint(canvas: Canvas) -> None:
        panels = canvas.subplots(lines, columns, sharex=True, squeeze=False).ravel()
        scale = _scale([sets[row].score for row in selected])
        for i, axes in enumerate(panels):
            if i < drawn:
                _lines(axes, sets, position, mean[i], scale)
                drawing.divider(axes, split)
                axes.set_title(neurons[i])
            else:
                axes.set_axis_off()
        canvas.supxlabel("position", fontsize="medium")
        canvas.supylabel("activation", fontsize="medium")
        handles = panels[0].get_legend_handles_labels()[0]
        canvas.legend(handles=handles, loc="outside upper left", ncols=2 if columns == 1 else 4)
        if known:
            from matplotlib.cm import ScalarMappable

            bar = ScalarMappable(scale, drawing.colours())
            canvas.colorbar(bar, ax=panels.tolist(), label="prefix matching, sum over the heads", pad=0.02, aspect=28)

    data: dict[str, Any] = {
        "neuron": np.repeat(np.array(neurons, dtype=str), s * len(position)),
        "ablated": [x.text for x in sets for _ in position] * k,
        "kind": [x.kind for x in sets for _ in position] * k,
        "prefix_matching": [x.score for x in sets for _ in position] * k,
        "position": np.tile(position, k * s),
        "mean": mean.ravel(),
        "se": se.ravel(),
    }
    width = COLUMN if columns == 1 else PAGE
    return Figure(name, caption, data, paint, (width, 0.8 + 1.6 * lines))


def _scale(scores: Sequence[float]) -> Normalize:
    """From 0 to the largest sum that is known."""
    from matplotlib.colors import Normalize

    return Normalize(0, max((x for x in scores if math.isfinite(x)), default=1.0) or 1.0)


def _lines(axes: Axes, sets: Sequence[HeadSet], position: np.ndarray, mean: np.ndarray, scale: Normalize) -> None:
    """One panel: baseline heads behind, then the selected ones, the untouched model on top."""
    palette, dashes, label = drawing.colours(), 0, "baseline heads"
    for row, one in enumerate(sets):
        if one.kind == "baseline":
            style: dict[str, Any] = {"color": drawing.GUIDE, "linewidth": 0.7, "zorder": 1.5, "label": label}
            label = "_"
        elif one.kind == "selected":
            colour = palette(scale(one.score)) if math.isfinite(one.score) else drawing.SELECTED
            pattern = drawing.LINES[dashes % len(drawing.LINES)][1]
            style = {"color": colour, "linestyle": pattern, "linewidth": 1.0, "zorder": 2, "label": one.text}
            dashes += 1
        else:
            style = {"color": drawing.BLACK, "linewidth": 0.8, "zorder": 3, "label": "untouched"}
        axes.plot(position, mean[row], **style)
