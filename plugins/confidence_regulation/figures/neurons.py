"""Scatter plots with one point a neuron."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.plotting import shapes as drawing
from harness.plotting.shapes import COLUMN
from harness.plugin import Figure, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure as Canvas


@dataclass(frozen=True)
class Axis:
    """Values [n] along one direction, with the axis's text and scale."""

    values: np.ndarray
    text: str
    log: bool = False


@dataclass(frozen=True)
class Colour:
    """Values [n] as colours: the text and scale of the bar; ``faint`` [n]: those drawn in grey instead."""

    values: np.ndarray
    text: str
    norm: Callable[[], Normalize]
    faint: np.ndarray
    extend: str = "neither"


def norm_logit_var(
    neurons: Sequence[str],
    norm: np.ndarray,
    logit_var: np.ndarray,
    rho: np.ndarray,
    selected: np.ndarray,
    name: str = "norm_logit_var",
) -> Figure:
    """Figure 2a: entropy neurons have a large norm and a low LogitVar.

    Args:
        norm: [n] ||w_out||. logit_var: [n]. rho: [n] share of the norm in the null space, for the data only.
    """
    return _scatter(
        name,
        "Are the selected neurons large and yet without effect on single logits? Norm of the output weights and their "
        "LogitVar, the variance of their effect over the vocabulary",
        neurons,
        Axis(norm, "norm of the output weights"),
        Axis(logit_var, "LogitVar", log=True),
        selected,
        {"norm": norm, "logit_var": logit_var, "rho": rho},
        margins=True,
    )


def mediated_rho(
    neurons: Sequence[str],
    rho: np.ndarray,
    mediated: np.ndarray,
    entropy_change: np.ndarray,
    selected: np.ndarray,
    name: str = "mediated_rho",
) -> Figure:
    """Figure 2e, 2f, 7: what writes into the null space acts through the final norm.

    Args:
        mediated: [n] 1 - DE/TE. entropy_change: [n] in nats; its absolute value is the colour, grey below 1% of the
            largest (where the fraction divides by next to nothing).
    """
    size = np.abs(entropy_change)
    return _scatter(
        name,
        "Do neurons that write into the null space act through the final norm? Share of the output weights' norm in "
        "the "
        "null space of the unembedding and share of the total effect that the final norm mediates",
        neurons,
        Axis(rho, r"share of the norm in the null space, $\rho$"),
        Axis(mediated, "mediated by the final norm, 1 − DE/TE"),
        selected,
        {"rho": rho, "mediated": mediated, "entropy_change": entropy_change},
        _decades(size, "|change of entropy| (nats)"),
    )


def entropy_argmax(
    neurons: Sequence[str],
    entropy_change: np.ndarray,
    argmax_changed: np.ndarray,
    mediated: np.ndarray,
    selected: np.ndarray,
    name: str = "entropy_argmax",
) -> Figure:
    """Figure 1: entropy neurons change the confidence, hardly the prediction.

    Args:
        entropy_change: [n] in nats. argmax_changed: [n] share of the tokens, 0 to 1, whose predicted token changes.
        mediated: [n] 1 - DE/TE, the colour; values outside [0, 1] have the colour of the nearer end.
    """
    from functools import partial

    return _scatter(
        name,
        "Does ablating a neuron change how sure the model is, or what it predicts? Change of entropy and share of "
        "changed "
        "predictions",
        neurons,
        Axis(np.abs(entropy_change), "|change of entropy| (nats)", log=True),
        Axis(100 * np.asarray(argmax_changed, dtype=float), "changed predictions (% of tokens)"),
        selected,
        {"entropy_change": entropy_change, "argmax_changed": argmax_changed, "mediated": mediated},
        Colour(mediated, "mediated, 1 − DE/TE", partial(_linear, 0.0, 1.0), ~np.isfinite(mediated), "both"),
    )


def frequency_kl(
    neurons: Sequence[str],
    frequency_mediated: np.ndarray,
    kl_change: np.ndarray,
    selected: np.ndarray,
    name: str = "frequency_kl",
) -> Figure:
    """Figure 3b, 8: token-frequency neurons act along the unigram direction.

    Args:
        frequency_mediated: [n] 1 - DE_freq/TE. kl_change: [n] change of KL(P_freq || P_model) in nats.
    """
    return _scatter(
        name,
        "Which neurons act through the frequencies of tokens? Share of the total effect that the token-frequency "
        "direction mediates and change of KL(P_freq || P_model)",
        neurons,
        Axis(frequency_mediated, "mediated by token frequency, 1 − DE$_{freq}$/TE"),
        Axis(np.abs(kl_change), "|change of KL(P$_{freq}$ ‖ P$_{model}$)| (nats)", log=True),
        selected,
        {"frequency_mediated": frequency_mediated, "kl_change": kl_change},
    )


def activation_changes(
    neurons: Sequence[str],
    change: np.ndarray,
    norm: np.ndarray,
    selected: np.ndarray,
    name: str = "activation_changes",
) -> Figure:
    """Figure 11: which neurons' activation changes most under induction.

    Args:
        change: [n] mean activation on the repeated part minus that on the first. norm: [n] ||w_out||.
    """
    return _scatter(
        name,
        "Whose activation changes where a text repeats itself? Change of the mean activation under induction and "
        "norm of "
        "the output weights",
        neurons,
        Axis(change, "change of activation under induction"),
        Axis(norm, "norm of the output weights"),
        selected,
        {"change": change, "norm": norm},
    )


def _linear(low: float, high: float) -> Normalize:
    from matplotlib.colors import Normalize

    return Normalize(low, high, clip=True)


def _decades(values: np.ndarray, text: str) -> Colour:
    """Colours over the two decades below the largest value; what is smaller is faint."""
    from functools import partial

    finite = values[np.isfinite(values)]
    top = finite.max() if len(finite) else 0.0
    return Colour(values, text, partial(drawing.log_norm, values), ~(values > top / 100))


def _scatter(
    name: str,
    title: str,
    neurons: Sequence[str],
    x: Axis,
    y: Axis,
    selected: np.ndarray,
    data: dict[str, np.ndarray],
    colour: Colour | None = None,
    margins: bool = False,
) -> Figure:
    """One point a neuron; ``title`` becomes the caption, with the counts. ``margins``: beside each axis, how many
    neurons there are along it, and where the selected ones stand.

    Raises:
        ValueError: arrays of different length.
    """
    n = len(neurons)
    selected = np.asarray(selected, dtype=bool)
    arrays = [x.values, y.values, selected, *data.values()]
    if any(array.shape != (n,) for array in map(np.asarray, arrays)):
        raise ValueError(f"figure {name}: {counted(n, 'neuron')}, arrays of {[np.shape(array) for array in arrays]}")
    shown = drawing.drawable(x.values, x.log) & drawing.drawable(y.values, y.log)
    floors = [drawing.log_floor(axis.values) if axis.log else None for axis in (x, y)]
    low = [axis.values < (floor or -np.inf) for axis, floor in zip((x, y), floors, strict=True)]
    edges = [None if axis.log else drawing.limits(axis.values[shown], selected[shown]) for axis in (x, y)]
    outside = drawing.beyond(x.values, edges[0]) | drawing.beyond(y.values, edges[1]) | low[0] | low[1]
    k = int(selected.sum())
    caption = [f"{title} ({counted(n, 'neuron', ',')}, {k} selected)."]
    if left := n - int(shown.sum()):
        caption.append(f"{counted(left, 'neuron', ',')} without a finite{_positive(x, y)} value left out.")
    if far := int((outside & shown).sum()):
        caption.append(f"{counted(far, 'neuron', ',')} beyond the axes drawn at their edge.")
    for axis, floor, below in zip((x, y), floors, low, strict=True):
        if floor is not None:
            caption.append(f"{axis.text} below {floor:.1g} ({int((below & shown).sum())}) is rounding.")
    if k > drawing.MAX_LABELS:
        caption.append(f"The first {drawing.MAX_LABELS} of the selected are named.")

    def paint(canvas: Canvas) -> None:
        axes, (above, right) = _with_margins(canvas) if margins else (canvas.subplots(), (None, None))
        axes.set(xlabel=x.text, ylabel=y.text)
        if x.log:
            axes.set_xscale("log")
        if y.log:
            axes.set_yscale("log")
        raised = (np.maximum(axis.values, floor or -np.inf) for axis, floor in zip((x, y), floors, strict=True))
        xs, ys = drawing.apply_limits(axes, edges[0], edges[1], tuple(raised))
        _clouds(axes, xs, ys, shown & ~selected, shown & selected, outside, colour)
        faint = f"other neurons (n = {n - k:,})" + (", grey: tiny effects" if colour and colour.faint.any() else "")
        entries = [(faint, drawing.OTHERS, False)] if n > k else []
        if k:
            entries.append((f"selected (n = {k})", "white" if colour else drawing.SELECTED, True))
        drawing.swatches(axes if above is None else above, *entries)
        for margin, axis, values, across in ((above, x, xs, False), (right, y, ys, True)):
            if margin is not None:
                _margin(margin, values[shown], selected[shown], axis.log, across)
        chosen = np.flatnonzero(shown & selected).tolist()
        rest = shown & ~selected
        cloud = np.column_stack([xs[rest], ys[rest]])
        drawing.label(axes, xs[chosen], ys[chosen], [neurons[i] for i in chosen], cloud)

    return Figure(
        name, " ".join(caption), {"neuron": list(neurons), "selected": selected, **data}, paint, (COLUMN, 2.7)
    )


def _with_margins(canvas: Canvas) -> tuple[Axes, tuple[Axes, Axes]]:
    """Axes for the points, and narrow ones above and to the right of them that share its axes."""
    grid = canvas.add_gridspec(2, 2, width_ratios=(5, 1), height_ratios=(1, 5))
    axes = canvas.add_subplot(grid[1, 0])
    return axes, (canvas.add_subplot(grid[0, 0], sharex=axes), canvas.add_subplot(grid[1, 1], sharey=axes))


def _margin(axes: Axes, values: np.ndarray, selected: np.ndarray, log: bool, across: bool) -> None:
    """Histogram of all, the scale of counts logarithmic since most are alike; ticks for the selected."""
    if len(values):
        ends = values.min(), values.max()
        bins = np.geomspace(*ends, 31) if log and ends[0] < ends[1] else np.linspace(*ends, 31)
        way = "horizontal" if across else "vertical"
        axes.hist(values, bins, color=drawing.OTHERS, orientation=way, log=True)  # type: ignore[arg-type]
        mark, where = values[selected], np.full(int(selected.sum()), 0.92)
        place = axes.get_yaxis_transform() if across else axes.get_xaxis_transform()
        points = (where, mark) if across else (mark, where)
        axes.plot(*points, "_" if across else "|", color=drawing.SELECTED, markersize=6, transform=place)
    axes.tick_params(labelleft=not across, labelbottom=across, which="both")
    axes.grid(False)


def _positive(x: Axis, y: Axis) -> str:
    """Which values a logarithmic axis cannot show."""
    return " (on the logarithmic axis: positive)" if x.log or y.log else ""


def _clouds(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    others: np.ndarray,
    chosen: np.ndarray,
    outside: np.ndarray,
    colour: Colour | None,
) -> None:
    if colour is None:
        drawing.points(axes, x[others], y[others], outside=outside[others])
        drawing.highlights(axes, x[chosen], y[chosen])
        return
    grey, vivid = others & colour.faint, others & ~colour.faint
    drawing.points(axes, x[grey], y[grey], colour="#BBBBBB", outside=outside[grey])
    style = {"cmap": drawing.colours(), "norm": colour.norm()}
    drawn = drawing.points(axes, x[vivid], y[vivid], colour=colour.values[vivid], outside=outside[vivid], **style)
    for rows, shade in ((chosen & colour.faint, "#DDDDDD"), (chosen & ~colour.faint, None)):
        values = colour.values[rows] if shade is None else shade
        drawing.highlights(axes, x[rows], y[rows], colour=values, **(style if shade is None else {}))
    drawing.colour_bar(axes, drawn, colour.text, extend=colour.extend)
