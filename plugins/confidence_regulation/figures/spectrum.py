"""The unembedding's singular values, and what the weights alone say of the selected neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.plotting import shapes as drawing
from harness.plotting.shapes import COLUMN
from harness.plugin import Figure, Frame, counted

from .neurons import norm_logit_var

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from harness.plugin import Selection

MAX_LINES = len(drawing.LINES)


def entropy_figures(selection: Selection) -> tuple[Figure | Frame, ...]:
    """What a selection of entropy neurons shows: norm and LogitVar of the layer, and the spectrum with the selected
    neurons; tables of how the choice depends on the rule and on the size of the null space.

    Reads the scores ``norm``, ``logit_var`` and ``rho`` and the details ``singular_values``, ``null_dims`` and, where
    they are, ``cosines`` (by neuron's name, [d]), ``published_rules`` and ``still_chosen``; what is missing is not
    shown.
    """
    figures: list[Figure | Frame] = []
    chosen = set(selection.units)
    scores = {name: np.asarray(values, dtype=float) for name, values in selection.scores.items()}
    if {"norm", "logit_var", "rho"} <= scores.keys():
        selected = np.array([neuron in chosen for neuron in selection.candidates], dtype=bool)
        names = [str(neuron) for neuron in selection.candidates]
        figures.append(norm_logit_var(names, scores["norm"], scores["logit_var"], scores["rho"], selected))
    if {"singular_values", "null_dims"} <= selection.details.keys():
        values = np.asarray(selection.details["singular_values"], dtype=float)
        cosines = selection.details.get("cosines") or {}
        rows = np.array(list(cosines.values()), dtype=float).reshape(len(cosines), len(values))
        figures.append(singular_values(values, int(selection.details["null_dims"]), list(cosines), rows))
    if published := selection.details.get("published_rules"):
        columns = {
            "rule": list(published),
            "neurons": [" ".join(x["neurons"]) for x in published.values()],
            "iou": [x["iou"] for x in published.values()],
        }
        said = "As many neurons by each published rule, and their overlap with the selected (intersection over union)"
        figures.append(Frame("selection_rules", said, columns))
    if still := selection.details.get("still_chosen"):
        n = len(selection.units)
        columns = {
            "null_dims": [int(k) for k in still],
            "still_chosen": [len(names) for names in still.values()],
            "of": [n] * len(still),
            "neurons": [" ".join(names) for names in still.values()],
        }
        said = "Selected neurons that the rule would still choose, or propose, with another size of the null space"
        figures.append(Frame("selection_null_space", said, columns))
    return tuple(figures)


def singular_values(
    values: np.ndarray, null_dims: int, neurons: Sequence[str], cosines: np.ndarray, name: str = "singular_values"
) -> Figure:
    """Figure 2d: the spectrum of W_U ends in a null space, and that is where entropy neurons write.

    The directions are counted from the last, on a logarithmic axis, which gives the few of the null space the room that
    the many others would take. Below, where the paper has |cos(w_out, v_j)| of each direction, is the share of the norm
    in the last j together, sqrt(sum of their squared cosines): within the null space the order of directions means
    nothing, and at its border this is rho. The data hold both.

    Args:
        values: [d] singular values, descending. null_dims: how many of the last form the null space.
        cosines: [k, d] cos(w_out, v_j) of k neurons; the absolute value is drawn, of the first eight.

    Raises:
        ValueError: arrays of different length.
    """
    d, k = len(values), len(neurons)
    cosines = np.abs(np.asarray(cosines, dtype=float)).reshape(k, -1) if k else np.empty((0, d))
    if cosines.shape != (k, d):
        raise ValueError(f"figure {name}: cosines {cosines.shape}, expected {(k, d)}")
    rank = np.arange(d, 0, -1)
    within = np.sqrt(np.cumsum(cosines[:, ::-1] ** 2, axis=1)[:, ::-1])
    shown = drawing.drawable(values, log=True)
    caption = [
        f"Does the unembedding have a null space, and who writes into it? Singular values ({counted(d, 'direction')}); "
        f"shaded: the last {null_dims}, its null space."
    ]
    if k:
        caption.append(
            f"Below, the share of the norm of the output weights of {counted(k, 'neuron', ',')} in as many last "
            "directions."
        )
    if left := d - int(shown.sum()):
        caption.append(f"{counted(left, 'direction', ',')} with a singular value of 0 left out above.")
    if k > MAX_LINES:
        caption.append(f"The first {counted(MAX_LINES, 'neuron')} are drawn.")

    def paint(canvas: Canvas) -> None:
        panels = canvas.subplots(2 if k else 1, 1, sharex=True, squeeze=False, height_ratios=[1, 1.1] if k else None)
        panels = panels[:, 0]
        top = panels[0]
        top.set_xscale("log")
        top.set_yscale("log")
        top.plot(rank[shown], values[shown], color=drawing.BASELINE, marker="." if d <= 128 else None, markersize=3)
        top.set_ylabel("singular value")
        for axes in panels:
            axes.axvspan(null_dims + 0.5, 0.8, color=drawing.YELLOW, alpha=0.28, linewidth=0, zorder=0)
        top.set_xlim(d * 1.05, 0.8)
        top.annotate(
            f"null space (k = {null_dims})", (1, 1), xycoords="axes fraction", xytext=(-2, -2),
            textcoords="offset points", ha="right", va="top",
        )  # fmt: skip
        if k:
            lower = panels[1]
            for row in range(min(k, MAX_LINES)):
                style = {**drawing.line_style(row), "linewidth": 0.9, "alpha": 0.9}
                lower.plot(rank, within[row], label=neurons[row], **style)
            lower.set(ylabel="share of the norm\nin the last j", ylim=(0, 1.03))
            drawing.legend(lower)
        panels[-1].set_xlabel("singular direction j, counted from the last")
        panels[-1].xaxis.set_major_formatter("{x:g}")

    data: dict[str, np.ndarray] = {
        "direction": np.arange(d),
        "from_the_last": rank,
        "singular_value": values,
        "null_space": rank <= null_dims,
    }
    data |= {f"abs_cos_{neuron}": row for neuron, row in zip(neurons, cosines, strict=True)}
    data |= {f"share_in_last_{neuron}": row for neuron, row in zip(neurons, within, strict=True)}
    return Figure(name, " ".join(caption), data, paint, (COLUMN, 3.6 if k else 2.2))
