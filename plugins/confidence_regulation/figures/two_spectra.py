"""Figure 6: the singular values of two unembeddings, with how the neurons of both models write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plotting import shapes as drawing
from harness.plotting.shapes import PAGE
from harness.plugin import Figure, counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from ..analysis.spectra import Spectrum


LEAST = 1e-8
"""Singular values below this share of the largest are rounding, and drawn there."""


def two_spectra(spectra: Sequence[Spectrum], name: str = "spectra") -> Figure:
    """Figure 6, of any pair: singular values over their median by share of the directions, counted from the last; rho
    and norms of the last layers' neurons, each as the share of neurons that have as much or more.
    """
    names = [f"{'ab'[i]}: {x.name}" for i, x in enumerate(spectra)]
    curves = [_curves(x) for x in spectra]
    few = " and ".join(counted(x.few, "direction") for x in spectra)
    caption = (
        f"Do both models have a null space, and neurons that write into it? Unembedding and last layer of "
        f"{' and '.join(names)}. Left: singular values over their median, by share of "
        "directions, counted from the last, without those that a LayerNorm makes null. Middle and right: the share "
        f"of neurons with this much or more of their output weights' norm in the last {few} (rho), and with this norm, "
        "over the median, or more."
    )

    def paint(canvas: Canvas) -> None:
        panels = canvas.subplots(1, 3)
        texts = ("share of directions, from the last", r"$\rho$", "norm of the output weights / median")
        for i, found in enumerate(curves):
            for axes, (x, y) in zip(panels, found.values(), strict=True):
                axes.plot(x, y, label=names[i], **drawing.line_style(i))
        for axes, text in zip(panels, texts, strict=True):
            axes.set(xlabel=text, yscale="log")
        panels[0].set(xscale="log", ylabel="singular value / median")
        panels[1].set(ylabel="share of neurons")
        canvas.legend(handles=panels[0].get_lines(), loc="outside upper left", ncols=2)

    data: dict[str, list[Any]] = {"model": [], "curve": [], "x": [], "y": []}
    for text, found in zip(names, curves, strict=True):
        for curve, (x, y) in found.items():
            data["model"] += [text] * len(x)
            data["curve"] += [curve] * len(x)
            data["x"] += x.tolist()
            data["y"] += y.tolist()
    return Figure(name, caption, data, paint, (PAGE, 2.4))


def _curves(spectrum: Spectrum) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """x and y of each panel."""
    n, alive = len(spectrum.singular_values), spectrum.norm > 0
    norm = spectrum.norm[alive]
    return {
        "singular values": (np.arange(n, 0, -1) / n, np.maximum(spectrum.relative, LEAST * spectrum.relative[0])),
        "rho": _at_least(spectrum.rho[alive]),
        "norm": _at_least(norm / np.median(norm)),
    }


def _at_least(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values, ascending, and the share of all that are as large or larger."""
    ordered = np.sort(values)
    return ordered, 1 - np.searchsorted(ordered, ordered, side="left") / len(ordered)
