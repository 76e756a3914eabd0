"""Curves by position: entropy, loss and activations where a text repeats itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plotting import shapes as drawing
from harness.plotting.shapes import COLUMN, PAGE
from harness.plugin import Figure, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

MAX_LINES = len(drawing.LINES)
ROWS: tuple[dict[str, Any], ...] = (
    {"color": drawing.BASELINE, "linestyle": "-"},
    {"color": drawing.SELECTED, "linestyle": (0, (5, 1.5))},
    {"color": drawing.BLUE, "linestyle": (0, (1.2, 1.2))},
    {"color": drawing.CONTROLS, "linestyle": "-"},
)
"""The baseline, the treated condition, and others."""
FLAT = 0.25
"""Share of an axis that is left to all other positions, below which the first one is left out of it."""
ROW_STYLES = {"baseline": ROWS[0], "treated": ROWS[1], "controls": {**ROWS[3], "zorder": 1.6}}


def induction_curves(
    position: np.ndarray,
    curves: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    split: int | None,
    n: int,
    name: str = "induction_curves",
    changes: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> Figure:
    """Figure 5a: entropy and loss by position, with and without the neurons; in sequences that repeat, or any.

    Args:
        position: [t]. curves: by quantity ("entropy", "loss": one panel each, in nats), by condition ("baseline",
            "treated"), mean [t] and standard error [t] over the sequences. split: the position where the second copy
            begins, None where there is none. n: sequences. changes: by quantity, mean and standard error of the paired
            change, which has a panel of its own beside: the curves themselves mostly lie on each other.
    """
    changes = changes or {}
    data: dict[str, list[Any]] = {"quantity": [], "condition": [], "position": [], "mean": [], "se": []}
    for quantity, rows in curves.items():
        for row, (mean, se) in rows.items():
            _extend(data, quantity=quantity, condition=row, position=position, mean=mean, se=se)
    for quantity, (mean, se) in changes.items():
        _extend(data, quantity=quantity, condition="change", position=position, mean=mean, se=se)
    caption = (
        "Where in a sequence does the treatment act? "
        f"{' and '.join(curves).capitalize()} by position{', and their change,' if changes else ''} in "
        f"{counted(n, 'sequence', ',')}"
        f"{'' if split is None else f' whose second copy begins at position {split} (dashed line)'}; "
        "bands: one standard error."
    )

    def paint(canvas: Canvas) -> None:
        wide = 2 if changes else 1
        grid = canvas.subplots(len(curves), wide, sharex=True, squeeze=False)
        panels = grid[:, 0]
        for axes, quantity in zip(grid[:, wide - 1], changes, strict=False):
            mean, se = changes[quantity]
            drawing.band(axes, position, mean, se, None, color=drawing.SELECTED)
            drawing.zero_line(axes)
            if split is not None:
                drawing.divider(axes, split)
            axes.set(ylabel=f"change of {quantity} (nats)")
        grid[-1, -1].set_xlabel("position")
        for axes, (quantity, rows) in zip(panels, curves.items(), strict=True):
            for row, (text, (mean, se)) in enumerate(rows.items()):
                drawing.band(axes, position, mean, se, text, **ROWS[min(row, len(ROWS) - 1)])
            if split is not None:
                drawing.divider(axes, split)
            axes.set(ylabel=f"{quantity} (nats)")
        panels[-1].set_xlabel("position")
        drawing.legend(panels[0])

    return Figure(name, caption, data, paint, (PAGE if changes else COLUMN, 0.8 + 1.3 * len(curves)))


def all_curves(
    position: np.ndarray,
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    starts: Sequence[int],
    n: int,
    n_controls: int,
    name: str = "all_curves",
) -> Figure:
    """Figure 5a, and what the authors' code shows beside it: every quantity by position, beneath each other.

    Args:
        position: [t]. panels: by the text of the axis, by row ("baseline", "treated", "controls": the mean over the
            control sets; else a neuron), mean [t] and standard error [t] over the sequences. starts: where copies
            begin. n: sequences. n_controls: control sets.
    """
    data: dict[str, list[Any]] = {"quantity": [], "row": [], "position": [], "mean": [], "se": []}
    for text, rows in panels.items():
        for row, (mean, se) in rows.items():
            _extend(data, quantity=text, row=row, position=position, mean=mean, se=se)
    begin = "copy begins" if len(starts) == 1 else "copies begin"
    controls = f", the mean of {counted(n_controls, 'control set', ',')}" if n_controls else ""
    beyond = {text: view for text, rows in panels.items() if (view := _without_first(rows)) is not None}
    off = "; ".join(f"{text} up to {largest:.3g}" for text, (_, largest) in beyond.items())
    caption = (
        f"What changes where a text repeats itself? By position in {counted(n, 'sequence', ',')} whose {begin} at "
        f"{', '.join(map(str, starts))} (dashed): the "
        f"untouched and the treated model{controls}, and the neurons' untouched activations; bands: one standard error "
        f"over the sequences.{_first(max((len(rows) for rows in panels.values()), default=0))}"
        f"{f' Off the axis at position {position[0]}: {off}.' if off else ''}"
    )

    def paint(canvas: Canvas) -> None:
        stacked = canvas.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (text, rows) in zip(stacked, panels.items(), strict=True):
            for i, (row, (mean, se)) in enumerate(list(rows.items())[:MAX_LINES]):
                drawing.band(axes, position, mean, se, row, **ROW_STYLES.get(row, drawing.line_style(i)))
            for start in starts:
                drawing.divider(axes, start)
            axes.set(ylabel=text)
            if text in beyond:
                axes.set_ylim(*beyond[text][0])
            if axes is stacked[0] or "baseline" not in rows:
                drawing.legend(axes)
        stacked[-1].set_xlabel("position")

    return Figure(name, caption, data, paint, (COLUMN, 0.8 + 1.25 * len(panels)))


def _without_first(
    rows: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> tuple[tuple[float, float], float] | None:
    """Limits of an axis that leave the first position out, and the value there that is the furthest from the others;
    None where this position does not flatten the curves. Heads attend to it where they attend to nothing, so that its
    residual stream may be larger than any other by an order of magnitude.

    Args:
        rows: mean [t] and standard error [t] of each curve.
    """
    values, errors = (np.array([row[i] for row in rows.values()], dtype=float) for i in (0, 1))
    low, high = values - errors, values + errors
    if values.shape[-1] < 3 or not all(np.isfinite(x).any(1).all() for x in (low[:, :1], high[:, 1:])):
        return None
    least, most = float(np.nanmin(low[:, 1:])), float(np.nanmax(high[:, 1:]))
    if most - least >= FLAT * (max(most, np.nanmax(high)) - min(least, np.nanmin(low))):
        return None
    margin, first = 0.05 * (most - least), values[:, 0]
    furthest = float(first[np.nanargmax(np.abs(first - (least + most) / 2))])
    return (least - margin, most + margin), furthest


def activation_curves(
    position: np.ndarray,
    neurons: Sequence[str],
    mean: np.ndarray,
    se: np.ndarray,
    split: int,
    n: int,
    name: str = "activation_curves",
) -> Figure:
    """Figure 5a, top: activations of neurons by position in sequences that repeat themselves.

    Args:
        position: [t]. mean, se: [k, t] over the n sequences. split: where the second copy begins.
    """
    title = (
        f"When are the neurons active, and when not? Activations by position in {counted(n, 'sequence', ',')} whose "
        f"second copy begins at position {split}"
    )
    return _by_position(name, title, "activation", position, neurons, mean, se, split)


def entropy_by_position(
    position: np.ndarray,
    neurons: Sequence[str],
    change: np.ndarray,
    se: np.ndarray,
    split: int,
    n: int,
    name: str = "entropy_by_position",
) -> Figure:
    """Figure 5b, 9b, 10b: change of entropy by position when each neuron is clipped.

    Args:
        position: [t]. change, se: [k, t] in nats, over the n sequences. split: where the second copy begins.
    """
    title = (
        "Where does each neuron hold the entropy down? Its change by position when the neuron is ablated, in "
        f"{counted(n, 'sequence', ',')} whose second "
        f"copy begins at position {split}"
    )
    return _by_position(name, title, "change of entropy (nats)", position, neurons, change, se, split)


def natural_curves(
    places: Sequence[str],
    neurons: Sequence[str],
    mean: np.ndarray,
    se: np.ndarray,
    text: str,
    n: int,
    name: str = "natural_curves",
) -> Figure:
    """Figure 9a, 9b: a quantity at the places of an n-gram that occurs twice in natural text.

    Args:
        places: [2 m] A0 ... A5, B of the first occurrence, then A0 ... A5, X of the second. mean, se: [k, 2 m] over the
            n sequences. text: of the axis, with its unit.

    Raises:
        ValueError: an odd number of places, or arrays of another shape.
    """
    k, half = len(neurons), len(places) // 2
    if len(places) != 2 * half or np.shape(mean) != (k, 2 * half) or np.shape(se) != np.shape(mean):
        raise ValueError(f"figure {name}: {counted(len(places), 'place')}, mean {np.shape(mean)}, se {np.shape(se)}")
    x = np.concatenate([np.arange(half), np.arange(half) + half + 0.8])
    data: dict[str, list[Any]] = {"neuron": [], "occurrence": [], "place": [], "mean": [], "se": []}
    for neuron, row, error in zip(neurons, mean, se, strict=True):
        _extend(data, neuron=neuron, occurrence=[1] * half + [2] * half, place=list(places), mean=row, se=error)
    caption = (
        f"Does an n-gram's second occurrence differ from its first? {text[:1].upper() + text[1:]} at its places "
        f"({counted(n, 'sequence', ',')}); bars: one standard error." + _first(k)
    )

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        for row in range(min(k, MAX_LINES)):
            style = {**drawing.line_style(row), "marker": drawing.LINES[row][2], "markersize": 3.5, "linewidth": 1.0}
            for part, label in ((slice(half), neurons[row]), (slice(half, None), None)):
                axes.errorbar(x[part], mean[row][part], se[row][part], label=label, elinewidth=0.8, **style)
        if np.nanmin(mean, initial=0) < 0:
            drawing.zero_line(axes)
        drawing.divider(axes, half - 0.1)
        axes.set_xticks(x, [f"${place[0]}_{{{place[1:]}}}$" if place[1:].isdigit() else place for place in places])
        axes.grid(False, axis="x")
        axes.set(xlabel="first occurrence | second occurrence", ylabel=text)
        drawing.legend(axes, _without_bars(axes))

    return Figure(name, caption, data, paint, (COLUMN, 2.6))


def _by_position(
    name: str,
    title: str,
    text: str,
    position: np.ndarray,
    neurons: Sequence[str],
    mean: np.ndarray,
    se: np.ndarray,
    split: int,
) -> Figure:
    k = len(neurons)
    if np.shape(mean) != (k, len(position)) or np.shape(se) != np.shape(mean):
        raise ValueError(
            f"figure {name}: {counted(k, 'neuron')}, {counted(len(position), 'position')}, mean {np.shape(mean)}"
        )
    data: dict[str, list[Any]] = {"neuron": [], "position": [], "mean": [], "se": []}
    for neuron, row, error in zip(neurons, mean, se, strict=True):
        _extend(data, neuron=neuron, position=position, mean=row, se=error)
    caption = f"{title} (dashed line); bands: one standard error." + _first(k)

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        for row in range(min(k, MAX_LINES)):
            drawing.band(axes, position, mean[row], se[row], neurons[row], **drawing.line_style(row))
        if np.nanmin(mean, initial=0) < 0:
            drawing.zero_line(axes)
        drawing.divider(axes, split)
        axes.set(xlabel="position", ylabel=text)
        drawing.legend(axes)

    return Figure(name, caption, data, paint, (COLUMN, 2.5))


def _extend(data: dict[str, list[Any]], **columns: Any) -> None:
    """Append rows to a table in long form; a single value is repeated."""
    n = max(len(values) for values in columns.values() if not isinstance(values, str))
    for key, values in columns.items():
        rows = [values] * n if isinstance(values, str) else np.asarray(values).tolist()
        if len(rows) != n:
            raise ValueError(f"column {key} has {counted(len(rows), 'value')}, expected {n}")
        data[key] += rows


def _first(k: int) -> str:
    return f" The first {MAX_LINES} of {counted(k, 'neuron')} are drawn." if k > MAX_LINES else ""


def _without_bars(axes: Axes) -> list[Any]:
    """Handles of lines with error bars, as plain lines."""
    from matplotlib.container import ErrorbarContainer

    handles = axes.get_legend_handles_labels()[0]
    lines = [handle[0] for handle in handles if isinstance(handle, ErrorbarContainer)]
    for line, handle in zip(lines, handles, strict=True):
        line.set_label(handle.get_label())
    return lines
