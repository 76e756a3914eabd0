"""Figures of two models beside each other: the base model in blue circles, the tuned one in orange diamonds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.files.wording import last
from harness.plotting import shapes as drawing
from harness.plotting.shapes import COLUMN, PAGE
from harness.plugin import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from harness.plugin import Selection

    from ..comparison.neurons import FinalLayer

BASE, TUNED = drawing.BLUE, drawing.VERMILLION

TEXTS = {
    "norm": "norm of the output weights",
    "logit_var": "LogitVar",
    "rho": r"share in the null space, $\rho$",
    "norm_per_log_logit_var": "norm / log LogitVar",
}


def weights_figures(
    base: FinalLayer,
    tuned: FinalLayer,
    chosen: Mapping[str, Sequence[Selection]],
    cosine: Mapping[str, np.ndarray],
    other: Mapping[str, np.ndarray],
) -> tuple[Figure, Figure]:
    """Every score of a neuron in the one model against the other, and the cosines of its weights."""
    return _scores_figure(base, tuned, chosen), _cosine_figure(cosine, other)


def _scores_figure(base: FinalLayer, tuned: FinalLayer, chosen: Mapping[str, Sequence[Selection]]) -> Figure:
    n = len(base.w_out)
    sets = [{unit.index for both in chosen.values() for unit in both[i].units} for i in (0, 1)]
    selected = np.array([("base " * (i in sets[0]) + "tuned" * (i in sets[1])).strip() for i in range(n)])
    names = [f"{base.layer}.{i}" for i in range(n)]

    def paint(canvas: Canvas) -> None:
        grid = canvas.subplots(1, len(TEXTS))
        for axes, (name, text) in zip(grid, TEXTS.items(), strict=True):
            log = name == "logit_var"
            # What is zero but for rounding stands at the edge of a logarithmic axis.
            x, y = (np.maximum(layer.scores[name], 1e-12 if log else -np.inf) for layer in (base, tuned))
            drawing.points(axes, x, y)
            drawing.highlights(axes, x[selected != ""], y[selected != ""])
            if log:
                axes.set(xscale="log", yscale="log")
            low, high = min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])
            axes.plot([low, high], [low, high], color=drawing.GUIDE, linewidth=0.7, zorder=1)
            axes.set(xlim=(low, high), ylim=(low, high), title=text, xlabel="base", aspect="equal")
        grid[0].set_ylabel("tuned")

    data: dict[str, Any] = {"neuron": names, "chosen": selected.tolist()}
    for name in TEXTS:
        data |= {f"{name} base": base.scores[name], f"{name} tuned": tuned.scores[name]}
    title = (
        "Are both models' neurons entropy neurons alike? Scores of the last layer's neurons in both; diamonds: "
        "chosen by "
        "one of the rules in one of them"
    )
    return Figure("scores", title, data, paint, (PAGE, 2.1))


def _cosine_figure(cosine: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> Figure:
    def paint(canvas: Canvas) -> None:
        grid = np.atleast_1d(canvas.subplots(1, len(cosine), sharey=True))
        bins = np.linspace(-1, 1, 81)
        for axes, (name, values) in zip(grid, cosine.items(), strict=True):
            axes.hist(other[name], bins, color=drawing.CONTROLS, label="different neurons")
            axes.hist(values, bins, color=TUNED, label="the same neuron")
            axes.set(yscale="log", title=f"{name.removeprefix('cosine ')} weights", xlabel="cosine, base and tuned")
        grid[0].set_ylabel("neurons")
        handles, labels = grid[0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper center", ncols=2)

    data: dict[str, Any] = {
        f"{name}{said}": values
        for said, found in (("", cosine), (", different neurons", other))
        for name, values in found.items()
    }
    title = (
        "Are they still the same neurons? Cosine between each neuron's weights in the two models, beside pairs of "
        "different neurons"
    )
    return Figure("cosines", title, data, paint, (COLUMN, 2.3))


def spectrum_figure(base: FinalLayer, tuned: FinalLayer, angles: np.ndarray, k: int) -> Figure:
    """Singular values of both unembeddings, and the principal angles (degrees) between their null spaces."""
    d = len(base.singular_values)
    place = np.arange(1, d + 1)

    def paint(canvas: Canvas) -> None:
        left, right = canvas.subplots(1, 2, width_ratios=(3, 2))
        for row, (layer, text) in enumerate(((base, "base"), (tuned, "tuned"))):
            floor = base.singular_values[0] * 1e-8
            shown = np.maximum(layer.singular_values, floor)
            left.plot(place, shown, label=text, **drawing.line_style(row))
        drawing.divider(left, d - k + 0.5)
        left.set(yscale="log", xlabel="direction of $W_U$", ylabel="singular value")
        drawing.legend(left)
        right.bar(np.arange(1, len(angles) + 1), angles, color=drawing.CONTROLS)
        right.set(xlabel="principal angle", ylabel="degrees", ylim=(0, max(10.0, 1.1 * float(max(angles, default=0)))))

    data: dict[str, Any] = {
        "direction": place,
        "singular value base": base.singular_values,
        "singular value tuned": tuned.singular_values,
        "angle": [float(x) for x in angles] + [np.nan] * (d - len(angles)),
    }
    title = (
        "Do both models have the same null space? Singular values of the two unembeddings, with the "
        f"{last(k, 'direction')} marked, and the "
        "principal angles "
        "between their null spaces"
    )
    return Figure("unembedding", title, data, paint, (PAGE, 2.2))


def answers_figure(rows: Sequence[Mapping[str, Any]], table: np.ndarray, sources: Sequence[str]) -> Figure:
    """Shares of the answers' sources in both models, and where the base model's answers went [k, k]."""
    total = table.sum()

    def paint(canvas: Canvas) -> None:
        left, right = canvas.subplots(1, 2, width_ratios=(3, 2))
        place = np.arange(len(sources))
        for offset, key, colour, text in ((-0.2, "first", BASE, "base"), (0.2, "second", TUNED, "tuned")):
            left.bar(place + offset, [row[key] for row in rows], 0.38, color=colour, label=text)
        left.set(xticks=place, xticklabels=sources, ylabel="answers (%)", ylim=(0, 100))
        left.grid(False, axis="x")
        drawing.legend(left)
        right.imshow(table / max(total, 1), cmap=drawing.colours(), vmin=0, aspect="auto")
        for i, j in np.ndindex(table.shape):
            share = table[i, j] / max(total, 1)
            dark = share > 0.5 * table.max() / max(total, 1)
            right.text(j, i, f"{table[i, j]:,}", ha="center", va="center", color="white" if dark else "black")
        right.set(xticks=place, xticklabels=sources, yticks=place, yticklabels=sources, xlabel="tuned", ylabel="base")
        right.grid(False)

    data: dict[str, Any] = {
        "source": list(sources),
        "base_percent": [row["first"] for row in rows],
        "tuned_percent": [row["second"] for row in rows],
        **{f"tuned {x}": table[:, j] for j, x in enumerate(sources)},
    }
    title = (
        "Does tuning change where answers come from? The sources of both models' answers on the same prompts, and how "
        "each prompt's source changed"
    )
    return Figure("answers", title, data, paint, (PAGE, 2.3))


def directions_figure(
    name: str, words: str, cells: Sequence[Mapping[str, Any]], alike: Sequence[Mapping[str, Any]]
) -> Figure:
    """Accuracy on held-out texts by layer, each model's direction in each model; and their cosine.

    Args:
        name: of the figure. words: what the directions are of.
    """

    from ..comparison.directions import SHUFFLED

    def paint(canvas: Canvas) -> None:
        from matplotlib.ticker import MaxNLocator

        left, right = canvas.subplots(1, 2, width_ratios=(3, 2))
        pairs = [(a, b) for a in ("base", "tuned") for b in ("base", "tuned")]
        for row, (a, b) in enumerate(pairs):
            found = [x for x in cells if (x["trained_on"], x["tested_on"]) == (a, b)]
            style = {**drawing.line_style(row), "marker": drawing.LINES[row][2], "label": f"{a} in {b}"}
            left.plot([x["layer"] for x in found], [x["accuracy"] for x in found], **style)
        left.axhline(0.5, color=drawing.GUIDE, linewidth=0.7, zorder=1)
        left.set(xlabel="layer", ylabel="accuracy, held-out texts", ylim=(None, 1.03))
        drawing.legend(left)
        layers, random = [x["layer"] for x in alike], [x[SHUFFLED] for x in alike]
        right.plot(layers, [x["cosine"] for x in alike], color=TUNED, marker="D", label="base and tuned")
        right.plot(layers, random, color=drawing.CONTROLS, marker="o", linestyle=":", label="shuffled labels")
        right.set(xlabel="layer", ylabel="cosine", ylim=(min(0.0, *(x["cosine"] for x in alike)) - 0.03, 1.03))
        drawing.legend(right)
        for axes in (left, right):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    shown = ("layer", "trained_on", "tested_on", "accuracy", "accuracy_low", "accuracy_high", "auroc")
    data = {key: [x[key] for x in cells] for key in shown}
    data["cosine"] = [alike[x["layer"]]["cosine"] for x in cells]
    data["cosine_shuffled"] = [alike[x["layer"]][SHUFFLED] for x in cells]
    title = (
        f"Does a direction of one model serve the other? Directions of {words}: how well each model's tells held-out "
        "texts "
        "apart in each model, and how alike they are"
    )
    return Figure(f"{name}_directions", title, data, paint, (PAGE, 2.4))


def steering_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Change of a refusal's log-odds when a direction is added or ablated, with the mean of the control directions."""

    def paint(canvas: Canvas) -> None:
        axes, place = canvas.subplots(), np.arange(len(rows))[::-1]
        value = np.array([row["log-odds"] for row in rows])
        for low, high, y in zip((r["low"] for r in rows), (r["high"] for r in rows), place, strict=True):
            if low is not None:
                axes.plot([low, high], [y, y], color=drawing.SELECTED, linewidth=1.2)
        axes.plot([r["controls"] for r in rows], place, "o", color=drawing.CONTROLS, label="control directions (mean)")
        axes.plot(value, place, "D", color=drawing.SELECTED, label="refusal direction")
        drawing.zero_line(axes, vertical=True)
        names = [f"{r['direction']}'s {r['change']} in {r['model']}" for r in rows]
        axes.set(yticks=place, yticklabels=names, xlabel="change of the log-odds of a refusal (nats)")
        drawing.legend(axes)

    data = {key: [row[key] for row in rows] for key in rows[0]}
    title = (
        "Does a direction of one model steer the other's refusals? What both models' directions do to the log-odds "
        "of a "
        "refusal in both"
    )
    return Figure("steering", title, data, paint, (PAGE, 2.6))
