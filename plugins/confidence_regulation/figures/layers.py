"""How what the weights say of neurons varies over the layers of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.plotting import shapes as drawing
from harness.plotting.shapes import COLUMN, PAGE
from harness.plugin import Figure, Frame, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from harness.plugin import Selection

QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
"""What is told of the distribution of a score in a layer."""

SCORES = {"rho": r"$\rho$", "logit_var": "LogitVar", "norm": "norm of the output weights"}
"""The scores that are drawn, and the texts of their axes."""


@dataclass(frozen=True)
class ByLayer:
    """The neurons of some layers.

    Attributes:
        layer: [M], the layer of each neuron. scores: rho, LogitVar and norm, [M] each, by name.
        selected: bool [M]. min_rho: from which rho on neurons are counted.
        chance: P(rho >= min_rho) of a random direction, so that counts have something to stand beside.
    """

    layer: np.ndarray
    scores: dict[str, np.ndarray]
    selected: np.ndarray
    min_rho: float
    chance: float

    @classmethod
    def of(cls, selection: Selection) -> ByLayer:
        """What a selection of entropy neurons has scored; its details hold ``min_rho`` and the null space."""
        from ..analysis.confirmation import chance_of_rho

        details, chosen = selection.details, set(selection.units)
        trivial, min_rho = int(details["trivial"]), float(details["min_rho"])
        d_model = len(details["singular_values"])
        return cls(
            layer=np.array([neuron.layer for neuron in selection.candidates]),
            scores={name: np.asarray(selection.scores[name], dtype=float) for name in SCORES},
            selected=np.array([neuron in chosen for neuron in selection.candidates], dtype=bool),
            min_rho=min_rho,
            chance=float(chance_of_rho(np.array([min_rho]), d_model, int(details["null_dims"]), trivial)[0]),
        )

    @property
    def layers(self) -> np.ndarray:
        """Which layers, ascending [L]."""
        return np.unique(self.layer)

    def quantiles(self, score: str) -> dict[str, np.ndarray]:
        """Quantiles [L] of a score in each layer, by their name; NaN where no neuron has one."""
        values = self.scores[score]
        columns = [values[(self.layer == layer) & np.isfinite(values)] for layer in self.layers]
        return {
            name: np.array([np.quantile(column, q) if len(column) else np.nan for column in columns])
            for name, q in QUANTILES.items()
        }

    def counts(self, which: np.ndarray) -> np.ndarray:
        """How many neurons of each layer [L] a mask [M] takes."""
        return np.array([int(which[self.layer == layer].sum()) for layer in self.layers])

    def columns(self) -> dict[str, list[int] | list[float]]:
        """A row for each layer: how many neurons, how many of them from ``min_rho`` on and by chance, quantiles."""
        alive = self.counts(self.scores["norm"] > 0)
        found: dict[str, list[int] | list[float]] = {
            "layer": self.layers.tolist(),
            "neurons": self.counts(np.ones(len(self.layer), bool)).tolist(),
            "selected": self.counts(self.selected).tolist(),
            "in_null_space": self.counts(self.scores["rho"] >= self.min_rho).tolist(),
            "by_chance": (alive * self.chance).tolist(),
        }
        for score in SCORES:
            found |= {f"{score}_{name}": values.tolist() for name, values in self.quantiles(score).items()}
        return found


def layer_figures(selection: Selection) -> tuple[Figure | Frame, ...]:
    """How rho, LogitVar and norm vary over the layers, and how many neurons write into the null space; as a table, too.

    A selection from one layer has none of them.
    """
    if "min_rho" not in selection.details or len({neuron.layer for neuron in selection.candidates}) < 2:
        return ()
    found = ByLayer.of(selection)
    said = (
        f"The neurons of each layer: how many, how many have rho >= {found.min_rho:g}, how many random directions "
        "would, and quantiles of their scores"
    )
    return scores_by_layer(found), null_space_by_layer(found), Frame("layers", said, found.columns())


def scores_by_layer(found: ByLayer, name: str = "scores_by_layer") -> Figure:
    """Distributions of rho, LogitVar and norm in every layer: medians, halves and nine tenths of the neurons."""
    layers, k = found.layers, int(found.selected.sum())
    caption = (
        f"In which layers do neurons write where the unembedding does not read? Share of the norm in its null space "
        f"(rho), LogitVar and norm of the "
        f"{counted(len(found.layer), 'neuron', ',')} of {counted(len(layers), 'layer')}: medians, the middle half and "
        "the middle nine tenths" + (f"; {k} selected as diamonds." if k else ".")
    )

    def paint(canvas: Canvas) -> None:
        panels = canvas.subplots(1, len(SCORES))
        for axes, (score, text) in zip(panels, SCORES.items(), strict=True):
            floor = None if score == "rho" else drawing.log_floor(found.scores[score])
            of = {name: np.maximum(values, floor or -np.inf) for name, values in found.quantiles(score).items()}
            axes.fill_between(layers, of["q05"], of["q95"], color=drawing.OTHERS, alpha=0.2, linewidth=0)
            axes.fill_between(layers, of["q25"], of["q75"], color=drawing.OTHERS, alpha=0.4, linewidth=0)
            axes.plot(layers, of["median"], color=drawing.BASELINE, marker=".", markersize=3)
            values = np.maximum(found.scores[score], floor or -np.inf)
            shown = found.selected & drawing.drawable(values, log=score != "rho")
            drawing.highlights(axes, found.layer[shown], values[shown])
            axes.set(xlabel="layer", ylabel=text, yscale="linear" if score == "rho" else "log")
            _whole_layers(axes)

    return Figure(name, caption, found.columns(), paint, (PAGE, 2.3))


def null_space_by_layer(found: ByLayer, name: str = "null_space_by_layer") -> Figure:
    """How many neurons of every layer write into the null space, beside how many random directions would."""
    layers, columns = found.layers, found.columns()
    caption = (
        f"Which layers have more neurons in the null space than chance? Neurons with rho >= {found.min_rho:g} in "
        f"each of {counted(len(layers), 'layer')}, and how many of as many "
        "random directions would have it. What a neuron below the last layer writes there, later layers read."
    )

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        axes.bar(layers, columns["in_null_space"], 0.8, color=drawing.OTHERS, label=rf"$\rho \geq$ {found.min_rho:g}")
        if any(columns["selected"]):
            axes.bar(layers, columns["selected"], 0.8, color=drawing.SELECTED, label="selected")
        axes.plot(
            layers, columns["by_chance"], color=drawing.BASELINE, linestyle=(0, (3, 2)), label="random directions",
        )  # fmt: skip
        axes.set(xlabel="layer", ylabel="neurons")
        axes.grid(False, axis="x")
        _whole_layers(axes)
        drawing.legend(axes, columns=1)

    kept = ("layer", "neurons", "selected", "in_null_space", "by_chance")
    return Figure(name, caption, {key: columns[key] for key in kept}, paint, (COLUMN, 2.3))


def _whole_layers(axes: Axes) -> None:
    """Ticks at layers, never between two."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
