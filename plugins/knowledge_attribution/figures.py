"""Where attributed components are: by layer, for heads as maps of layer and head and of layer and source position."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.plotting import shapes as drawing
from harness.plotting.shapes import COLUMN, PAGE
from harness.plugin import Figure, Head, counted, plural, the

from .tables import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from harness.plugin import Selection

UNITS = {"inner_product": "logits"}
"""Units of scores; the others are in nats."""


def by_layers_and_modules(selection: Selection, noun: str, title: str, column: str) -> tuple[Figure, ...]:
    """A histogram over layers, where there is more than one, of heads a map of layer and head, and the whole
    attentions and MLPs where they were measured.

    Args:
        noun: "value neuron", "value head" or "query neuron". title: what ``column`` of the scores is, in words.
    """
    layers = np.array([unit.layer for unit in selection.candidates])
    found = []
    if len(np.unique(layers)) > 1:
        score, unit = selection.scores[column], UNITS.get(column, "nats")
        chosen = np.array([unit.layer for unit in selection.units])
        found.append(by_layer(layers, score, chosen, noun, title, unit))
        if isinstance(selection.units[0], Head):
            found.append(head_map(score.reshape(layers.max() + 1, -1), title, unit))
        if "modules" in selection.details:
            modules = selection.details["modules"]
            found.append(modules_by_layer(np.array(modules["attention"]), np.array(modules["mlp"])))
    return tuple(found)


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
        above.set(ylabel=f"selected {plural(noun.split()[-1])}")
        above.yaxis.set_major_locator(MaxNLocator(integer=True))
        below.bar(np.arange(n), total, color=drawing.OTHERS, width=0.8)
        below.set(xlabel="layer", ylabel=f"sum of positive\ncontributions ({unit})")
        _whole_numbers(below, "x")

    return Figure(
        f"{noun.replace(' ', '_')}s_by_layer",
        f"In which layers does the knowledge lie? {the(len(chosen), f'selected {noun}').capitalize()} by layer, and "
        "the sum of all positive "
        f"contributions ({title}, mean over "
        f"prompts) of a layer's {plural(noun.split()[-1])}.",
        {"layer": np.arange(n), "selected": counts, "positive_sum": total},
        paint,
        (COLUMN, 3.0),
    )


def modules_by_layer(attention: np.ndarray, mlp: np.ndarray) -> Figure:
    """Increase by the whole attention and the whole MLP of every layer [n_layers], side by side."""
    layers = np.arange(len(attention))

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        for offset, values, colour, text in (
            (-0.2, attention, drawing.ORANGE, "attention"),
            (0.2, mlp, drawing.BLUE, "MLP"),
        ):
            axes.bar(layers + offset, values, 0.4, color=colour, label=text)
        drawing.zero_line(axes)
        axes.set(xlabel="layer", ylabel="log-probability increase (nats)")
        _whole_numbers(axes, "x")
        drawing.legend(axes)

    return Figure(
        "increase_by_module",
        "Which layers raise the prediction, by attention or by MLP? Log-probability increase by the whole of each, "
        "mean "
        "over prompts.",
        {"layer": layers, "attention": attention, "mlp": mlp},
        paint,
        (COLUMN, 2.3),
    )


def head_map(score: np.ndarray, title: str, unit: str) -> Figure:
    """The contribution of every head [n_layers, n_heads], as colours."""
    n_layers, n_heads = score.shape

    def paint(canvas: Canvas) -> None:
        axes = _map(canvas, score, f"mean contribution ({unit})")
        axes.set(xlabel="head", ylabel="layer")
        _whole_numbers(axes, "xy")

    layers, heads = np.indices(score.shape).reshape(2, -1)
    return Figure(
        "value_heads_map",
        f"Which heads raise the prediction? Contribution of every head ({title}, mean over prompts), "
        f"{counted(n_layers, 'layer')} of "
        f"{counted(n_heads, 'head')}.",
        {"layer": layers, "head": heads, "score": score.ravel()},
        paint,
        (COLUMN, 2.8),
    )


def source_map(selection: Selection) -> Figure:
    """What the attention of every layer writes from each source position of the first prediction, as colours."""
    example = selection.details["example"]
    increases, layers, tokens = np.array(example["increases"]), example["layers"], example["tokens"]
    texts = [words([token]) or repr(token)[1:-1] for token in tokens]

    def paint(canvas: Canvas) -> None:
        axes = _map(canvas, increases, "increase (nats)")
        axes.set(ylabel="layer")
        axes.set_xticks(range(len(texts)), texts, rotation=90)
        axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])

    rows, columns = np.indices(increases.shape).reshape(2, -1)
    return Figure(
        "sources_map",
        "Which words does the prediction come from? Log-probability increase of one "
        f'("{words([example["target"]])}") by what the attention of every layer '
        "brings from each source position.",
        {
            "layer": np.array(layers)[rows],
            "position": columns,
            "token": [tokens[i] for i in columns],
            "increase": increases.ravel(),
        },
        paint,
        (COLUMN if len(tokens) <= 24 else PAGE, 1.4 + 0.11 * max(map(len, texts)) / 2 + 0.16 * len(layers)),
    )


def _map(canvas: Canvas, values: np.ndarray, text: str) -> Axes:
    """Axes with the values [rows, columns] as colours, white at 0."""
    axes: Axes = canvas.subplots()
    limit = float(np.abs(values).max()) or 1.0
    drawn = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    axes.grid(False)
    drawing.colour_bar(axes, drawn, text)
    return axes


def _whole_numbers(axes: Axes, which: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    for name in which:
        {"x": axes.xaxis, "y": axes.yaxis}[name].set_major_locator(MaxNLocator(integer=True))
