"""Effects beside what they are compared with: total and direct, induction and baseline heads, corrupted text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plotting import shapes as drawing
from harness.plotting.shapes import COLUMN, PAGE
from harness.plugin import Figure, counted

from .tokens import file_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

MAX_BOXES = 12
MAX_PANELS = 6


def total_direct(
    neurons: Sequence[str],
    total: np.ndarray,
    direct: np.ndarray,
    selected: np.ndarray,
    direct_name: str = "direct effect, norm frozen",
    name: str = "total_direct",
) -> Figure:
    """Figure 2c, 3c: total and direct effects of the selected neurons, and of all others together.

    Args:
        total, direct: [n_neurons, n_prompts] mean absolute changes of the loss, in nats. selected: bool [n_neurons].

    Raises:
        ValueError: arrays of different shape.
    """
    total, direct, selected = np.asarray(total), np.asarray(direct), np.asarray(selected, dtype=bool)
    if not len(neurons) == len(total) == len(direct) == len(selected) or total.shape != direct.shape:
        raise ValueError(
            f"figure {name}: {counted(len(neurons), 'neuron')}, total {total.shape}, direct {direct.shape}"
        )
    groups = [(neurons[i], np.array([i])) for i in np.flatnonzero(selected).tolist()][:MAX_BOXES]
    others = np.flatnonzero(~selected)
    if len(others):
        groups.append((f"{counted(len(others), 'other')}" if len(others) > 1 else neurons[others[0]], others))
    rows: list[dict[str, Any]] = [
        {"group": text, "selected": bool(selected[members[0]]), "effect": effect}
        | drawing.box_statistics(values[members].ravel())
        for text, members in groups
        for effect, values in (("total", total), ("direct", direct))
    ]
    n_prompts = total.shape[1]
    caption = (
        f"How much of the effect on the loss is left when a path is held? Total effect and {direct_name}: "
        f"{counted(int(selected.sum()), 'selected neuron')} beside "
        f"{counted(len(others), 'other', ',')} pooled ({counted(n_prompts, 'prompt', ',')}). Boxes: quartiles; "
        "whiskers: to the last value within 1.5 interquartile ranges; values beyond are not drawn."
    )
    if int(selected.sum()) > MAX_BOXES:
        caption += f" The first {MAX_BOXES} of the selected are drawn."

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        ends = np.array([row[key] for row in rows for key in ("whisker_low", "median", "whisker_high")], dtype=float)
        ends = ends[np.isfinite(ends)]
        if len(ends) and (ends > 0).all() and ends.max() > 30 * ends.min():
            axes.set_yscale("log")
        for i, row in enumerate(rows):
            colour = drawing.SELECTED if row["selected"] else drawing.CONTROLS
            if row["n"]:
                filled = row["effect"] == "total"
                drawing.box(axes, i // 2 + (-0.2 if filled else 0.2), row, colour=colour, filled=filled)
        if len(others) and len(groups) > 1:
            drawing.divider(axes, len(groups) - 1.5)
        texts = [text for text, _ in groups]
        axes.set_xticks(range(len(groups)), texts, rotation=35 if len(groups) > 4 else 0, rotation_mode="anchor")
        for tick in axes.get_xticklabels():
            tick.set_horizontalalignment("right" if len(groups) > 4 else "center")
            tick.set_verticalalignment("top")
        axes.set(ylabel="|change of loss| (nats)", xlim=(-0.6, max(len(groups), 1) - 0.4))
        axes.grid(False, axis="x")
        drawing.legend(axes, _pair("total effect", direct_name), columns=2)

    return Figure(name, caption, _columns(rows, ("group", "selected", "effect", "n")), paint, (COLUMN, 2.6))


def head_ablation(
    neurons: Sequence[str],
    conditions: Sequence[str],
    mean: np.ndarray,
    se: np.ndarray,
    controls_mean: np.ndarray,
    controls_spread: np.ndarray,
    name: str = "head_ablation",
    text: str = "mean activation",
) -> Figure:
    """Figure 5c, 12, 13: activations of neurons when induction heads are ablated, beside as many baseline heads.

    Args:
        conditions: c names of what is ablated ("none", "L5H1", "L5H1+L5H5" ...). mean, se: [k, c] activation and its
            standard error. controls_mean, controls_spread: [k, c] mean and standard deviation over sets of baseline
            heads of the same size; NaN where there are none.
    """
    k, c = len(neurons), len(conditions)
    arrays = [np.asarray(x, dtype=float) for x in (mean, se, controls_mean, controls_spread)]
    if any(array.shape != (k, c) for array in arrays):
        raise ValueError(f"figure {name}: arrays of {[array.shape for array in arrays]}, expected {(k, c)}")
    mean, se, controls_mean, controls_spread = arrays
    drawn = min(k, MAX_PANELS)
    columns = min(drawn, 3) or 1
    lines = math.ceil(drawn / columns) or 1
    caption = (
        "Do induction heads drive these neurons? Activations when the heads are ablated; bars: one standard error. "
        "Squares: baseline heads, as many at a time; bars: one standard deviation over the sets."
    )
    ends = [
        (np.fmin(mean[i] - se[i], controls_mean[i] - controls_spread[i]),
         np.fmax(mean[i] + se[i], controls_mean[i] + controls_spread[i]))
        for i in range(drawn)
    ]  # fmt: skip
    spans = [drawing.span_without_outlier(*both) for both in ends]
    if any(spans):
        caption += " Bars that would set the scale alone run off it."
    if k > MAX_PANELS:
        caption += f" The first {MAX_PANELS} of {counted(k, 'neuron')} are drawn."

    def paint(canvas: Canvas) -> None:
        panels = canvas.subplots(lines, columns, sharey=True, squeeze=False).ravel()
        places = np.arange(c)[::-1]
        for row, axes in enumerate(panels):
            if row >= drawn:
                axes.set_axis_off()
                continue
            axes.errorbar(
                controls_mean[row], places - 0.17, xerr=controls_spread[row], fmt="s", color=drawing.CONTROLS,
                markersize=3, elinewidth=0.9, label="baseline heads",
            )  # fmt: skip
            axes.errorbar(
                mean[row], places + 0.17, xerr=se[row], fmt="D", color=drawing.SELECTED, markeredgecolor="black",
                markeredgewidth=0.5, markersize=3.8, elinewidth=0.9, label="induction heads",
            )  # fmt: skip
            axes.set_title(neurons[row])
            axes.margins(x=0.12)
            if spans[row] is not None:
                axes.set_xlim(spans[row])
            axes.set_yticks(places, conditions)
            axes.set_ylim(-0.6, c - 0.4)
            axes.locator_params(axis="x", nbins=4)
        canvas.supxlabel(text, fontsize="medium")
        handles = panels[0].get_legend_handles_labels()[0]
        if handles:
            canvas.legend(handles=handles[::-1], loc="outside upper left", ncols=2)

    data: dict[str, Any] = {
        "neuron": np.repeat(np.array(neurons, dtype=str), c),
        "ablated": list(conditions) * k,
        "mean": mean.ravel(),
        "se": se.ravel(),
        "controls_mean": controls_mean.ravel(),
        "controls_sd": controls_spread.ravel(),
    }
    width = COLUMN if columns == 1 else PAGE
    return Figure(name, caption, data, paint, (width, 0.55 + lines * (0.5 + 0.2 * max(c, 2))))


def dfa_bars(
    components: Sequence[str],
    induction: np.ndarray,
    induction_ci: np.ndarray,
    corrupted: np.ndarray,
    corrupted_ci: np.ndarray,
    neuron: str,
    n: int,
    top: int = 20,
    difference_ci: np.ndarray | None = None,
) -> Figure:
    """Figure 14: which heads and MLPs drive a neuron, on induction and on corrupted text.

    The ``top`` components with the largest difference are drawn, from the most positive to the most negative one: at
    the left what they contribute to both, at the right the difference. The data hold all, the largest first.

    Args:
        components: c names ("L5H1", "MLP 8"). induction, corrupted: [c] mean attributions to the neuron's
            pre-activation. induction_ci, corrupted_ci: [c, 2] 95% intervals. n: sequences.
            difference_ci: [c, 2] of the differences, which are paired.
    """
    c, name = len(components), file_name("dfa", neuron)
    means = np.array([induction, corrupted], dtype=float)
    intervals = np.array([induction_ci, corrupted_ci], dtype=float)
    if means.shape != (2, c) or intervals.shape != (2, c, 2):
        raise ValueError(f"figure {name}: means {means.shape}, intervals {intervals.shape}, {counted(c, 'component')}")
    difference = means[0] - means[1]
    between = np.full((c, 2), np.nan) if difference_ci is None else np.asarray(difference_ci, dtype=float)
    order = np.argsort(-np.abs(np.nan_to_num(difference)), kind="stable")
    chosen = order[:top]
    chosen = chosen[np.argsort(-np.nan_to_num(difference[chosen]), kind="stable")]
    which = (
        f"the {len(chosen)} of {counted(c, 'component')} with the largest difference"
        if c > top
        else f"all {counted(c, 'component')}"
    )
    caption = (
        f"Which components drive {neuron} more where a text repeats itself? Direct attributions to the "
        "pre-activation on "
        f"{counted(n, 'induction sequence', ',')} and on corrupted ones, and their difference: {which}, in its order; "
        "bars: 95% intervals."
    )

    def paint(canvas: Canvas) -> None:
        axes, right = canvas.subplots(1, 2, sharey=True)
        places = np.arange(len(chosen))[::-1]
        rows = (
            ("induction", 0.2, drawing.SELECTED, drawing.SELECTED),
            ("corrupted", -0.2, "white", drawing.BASELINE),
        )
        for row, (text, shift, face, edge) in enumerate(rows):
            values, bounds = means[row][chosen], intervals[row][chosen]
            bars = np.abs(bounds - values[:, None]).T
            axes.barh(places + shift, values, 0.38, color=face, edgecolor=edge, linewidth=0.7, label=text)
            axes.errorbar(values, places + shift, xerr=bars, fmt="none", ecolor="black", elinewidth=0.7)
        apart = np.abs(between[chosen] - difference[chosen][:, None]).T
        right.errorbar(
            difference[chosen], places, xerr=apart, fmt="D", color=drawing.SELECTED, markeredgecolor="black",
            markeredgewidth=0.5, markersize=3.8, elinewidth=0.9,
        )  # fmt: skip
        right.set_xlabel("difference, induction less corrupted")
        right.grid(False, axis="y")
        right.locator_params(axis="x", nbins=5)
        drawing.zero_line(right, vertical=True)
        drawing.zero_line(axes, vertical=True)
        axes.set_yticks(places, [components[i] for i in chosen])
        axes.set_ylim(-0.6, max(len(chosen), 1) - 0.4)
        axes.grid(False, axis="y")
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(f"attribution to the pre-activation of {neuron}")
        drawing.legend(axes)

    data: dict[str, Any] = {
        "component": [components[i] for i in order],
        "drawn": [i < top for i in range(c)],
        "difference": difference[order],
        "difference_ci_low": between[order, 0],
        "difference_ci_high": between[order, 1],
    }
    for row, text in enumerate(("induction", "corrupted")):
        data[text] = means[row][order]
        data |= {f"{text}_ci_{end}": intervals[row][order, i] for i, end in enumerate(("low", "high"))}
    return Figure(name, caption, data, paint, (PAGE, 0.7 + 0.16 * max(len(chosen), 4)))


def _pair(first: str, second: str) -> list[Any]:
    """Handles for a filled and an open box."""
    from matplotlib.patches import Patch

    style: dict[str, Any] = {"edgecolor": drawing.BASELINE, "linewidth": 0.8}
    return [
        Patch(facecolor=drawing.BASELINE, label=first, **style),
        Patch(facecolor="white", label=second, **style),
    ]


def _columns(rows: Sequence[dict[str, Any]], first: Sequence[str]) -> dict[str, list[Any]]:
    keys = [*first, "whisker_low", "q25", "median", "q75", "whisker_high"]
    return {key: [row[key] for row in rows] for key in keys}
