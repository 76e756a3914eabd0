"""What figures are drawn with: colours, markers and the few shapes that they share.

The selected components are vermillion diamonds and carry their names; everything else is grey circles; controls are
grey-blue. Identity never rests on colour alone. Axes are matplotlib's; nothing here touches ``pyplot``. Call
:func:`label` last, and :func:`legend` after what it explains.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.files import harmless

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.colors import Colormap, Normalize

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
)  # fmt: skip
"""The palette of Okabe and Ito, which people with any common colour vision can tell apart."""

COLUMN, PAGE = 3.35, 6.9
"""Widths in inches: a column of a two-column paper, and its page."""

OTHERS = "#8C8C8C"
SELECTED = VERMILLION
CONTROLS = "#7C93AD"
BASELINE = "#4D4D4D"
GUIDE = "#B5B5B5"
"""Zero lines, diagonals, dividers."""

LINES: tuple[tuple[str, Any, str], ...] = (
    (BLUE, "-", "o"),
    (VERMILLION, (0, (5, 1.5)), "D"),
    (GREEN, (0, (1.2, 1.2)), "s"),
    (PURPLE, (0, (5, 1.2, 1.2, 1.2)), "^"),
    (ORANGE, "-", "v"),
    (BLACK, (0, (2.5, 1.5)), "P"),
    (SKY, (0, (7, 1.5)), "X"),
    (OTHERS, "-", "*"),
)
"""Colour, dash pattern and marker of the first, second ... of several lines."""

RASTERISE = 1500
"""So many points or more become a picture inside an SVG, which would be slow to show otherwise."""

MAX_LABELS = 12
"""So many points carry their names; the first ones when there are more."""


def colours() -> Colormap:
    """The colour map of continuous quantities: light to dark with growing values, without near-white ends."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    return ListedColormap(matplotlib.colormaps["viridis_r"](np.linspace(0.08, 1.0, 256)), "harness")


def line_style(row: int) -> dict[str, Any]:
    """Colour and dashes of line ``row``; lines beyond :data:`LINES` are grey."""
    colour, dashes, _ = LINES[min(row, len(LINES) - 1)]
    return {"color": colour, "linestyle": dashes}


def drawable(values: np.ndarray, log: bool = False) -> np.ndarray:
    """Which values [n] an axis can show: finite ones, on a log axis positive ones."""
    found: np.ndarray = np.isfinite(values) & (values > 0) if log else np.isfinite(values)
    return found


ROUNDING = 1e-8
"""Share of the median below which positive values are what rounding leaves of sums that are 0."""

TOUCHING = 6.0
"""Points (1/72 inch) between marks that lie on each other: they share one name."""

FEWEST = 5
"""Rows below which none of them is an outlier."""

FAR = 2.0
"""How many times shorter a scale gets without one row, where that row is let run off it."""


def log_floor(values: np.ndarray) -> float | None:
    """Where a log axis of ``values`` [n] ends, so that rounding has no decades of its own; None where none is so small.

    What is below is drawn at that edge; the caption says how many.
    """
    positive = values[drawable(values, log=True)]
    floor = ROUNDING * float(np.median(positive)) if len(positive) else 0.0
    return floor if len(positive) and positive.min() < floor else None


def span_without_outlier(low: np.ndarray, high: np.ndarray) -> tuple[float, float] | None:
    """Limits of an axis that one row's interval would stretch to more than :data:`FAR` times what the others need.

    Args:
        low, high: [k] ends of each row's interval; NaN where there is none.

    Returns:
        the limits that leave its far end off, or None where every row fits.
    """
    known = np.isfinite(low) & np.isfinite(high)
    if known.sum() < FEWEST:
        return None
    low, high = low[known], high[known]
    whole = high.max() - low.min()
    spans = []
    for row in range(len(low)):
        rest = np.arange(len(low)) != row
        spans.append((low[rest].min(), high[rest].max()))
    left, right = min(spans, key=lambda span: span[1] - span[0])
    if whole <= FAR * (right - left) or right <= left:
        return None
    margin = 0.08 * (right - left)
    return float(left - margin), float(right + margin)


def limits(values: np.ndarray, important: np.ndarray) -> tuple[float, float] | None:
    """Limits of a linear axis that a few extreme values would stretch; None where the plain range serves.

    Where the range is more than three times that between the 0.5% and 99.5% quantiles, the axis shows the latter, and
    all ``important`` values (bool [n]) in any case.
    """
    finite = values[np.isfinite(values)]
    if len(finite) < 20:
        return None
    low, high = np.quantile(finite, [0.005, 0.995])
    if finite.max() - finite.min() <= 3 * (high - low) or high <= low:
        return None
    kept = values[important & np.isfinite(values)]
    low, high = min([low, *kept]), max([high, *kept])
    margin = 0.06 * (high - low)
    return float(low - margin), float(high + margin)


def apply_limits(
    axes: Axes, x: tuple[float, float] | None, y: tuple[float, float] | None, rows: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Set limits where there are any, and return the points moved to the edge that they lie beyond."""
    xs, ys = rows
    if x is not None:
        axes.set_xlim(x)
        xs = np.clip(xs, *x)
    if y is not None:
        axes.set_ylim(y)
        ys = np.clip(ys, *y)
    return xs, ys


def beyond(values: np.ndarray, edges: tuple[float, float] | None) -> np.ndarray:
    """Which finite values lie outside ``edges``: drawn at the edge, as triangles."""
    if edges is None:
        return np.zeros(len(values), dtype=bool)
    found: np.ndarray = np.isfinite(values) & ((values < edges[0]) | (values > edges[1]))
    return found


def points(
    axes: Axes, x: np.ndarray, y: np.ndarray, *, colour: Any = OTHERS, outside: np.ndarray | None = None, **more: Any
) -> PathCollection:
    """A cloud of small circles; ``outside`` [n]: those that lie beyond an axis, drawn as triangles at its edge.

    ``colour``: one colour, or values [n] for the ``cmap`` and ``norm`` in ``more``.
    """
    n = len(x)
    alpha = 0.75 if n <= 300 else 0.55 if n <= RASTERISE else 0.4
    outside = np.zeros(n, dtype=bool) if outside is None else outside
    drawn = None
    for rows, marker, size in ((~outside, "o", 7 if n <= RASTERISE else 4), (outside, "^", 9)):
        values = colour[rows] if isinstance(colour, np.ndarray) else colour
        found = axes.scatter(
            x[rows], y[rows], c=values, s=size, marker=marker, alpha=alpha, linewidths=0,
            rasterized=n > RASTERISE, clip_on=marker == "o", zorder=2, **more,
        )  # fmt: skip
        drawn = drawn or found
    assert drawn is not None
    return drawn


def highlights(axes: Axes, x: np.ndarray, y: np.ndarray, *, colour: Any = SELECTED, **more: Any) -> PathCollection:
    """The selected points: diamonds with a dark edge, above everything; ``colour`` as of :func:`points`."""
    return axes.scatter(
        x, y, c=colour, s=26, marker="D", edgecolors=BLACK, linewidths=0.7, clip_on=False, zorder=4, **more
    )


def swatches(axes: Axes, *entries: tuple[str, str, bool]) -> None:
    """Legend above the axes for clouds of points: (text, colour, whether selected)."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], linestyle="none", color=colour, marker="D" if selected else "o", label=text,
            markersize=4.5 if selected else 3.5, markeredgecolor=BLACK if selected else colour,
            markeredgewidth=0.7 if selected else 0,
        )
        for text, colour, selected in entries
    ]  # fmt: skip
    legend(axes, handles)


def legend(axes: Axes, handles: Sequence[Any] | None = None, columns: int | None = None) -> None:
    """A legend above the axes, where it covers no data, in as many columns as fit."""
    handles = axes.get_legend_handles_labels()[0] if handles is None else handles
    if not handles:
        return
    figure = axes.get_figure(root=True)
    assert figure is not None
    widest = max(len(str(handle.get_label())) for handle in handles)
    spec = axes.get_subplotspec()
    room = 0.85 * 72 * figure.get_figwidth() / (spec.get_gridspec().ncols if spec is not None else 1)
    fitting = max(1, int(room // (30 + 4.1 * widest)))
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderaxespad=0.1,
        ncols=min(columns or len(handles), fitting, len(handles)),
    )  # fmt: skip


def colour_bar(axes: Axes, drawn: Any, text: str, **more: Any) -> None:
    """A colour bar at the right of the axes."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(drawn, ax=axes, label=text, pad=0.02, aspect=28, **more)
    bar.outline.set_linewidth(0.5)
    bar.ax.tick_params(width=0.5, length=2)
    if bar.solids is not None:
        bar.solids.set_alpha(1)


def log_norm(values: np.ndarray, decades: float = 2) -> Normalize:
    """A logarithmic scale of colours that ends at the largest of ``values`` and begins ``decades`` below it."""
    from matplotlib.colors import LogNorm

    positive = values[np.isfinite(values) & (values > 0)]
    top = float(positive.max()) if len(positive) else 1.0
    return LogNorm(top / 10**decades, top, clip=True)


def band(axes: Axes, x: np.ndarray, mean: np.ndarray, half: np.ndarray, text: str | None, **style: Any) -> None:
    """A line with a band of ``half`` [n] to both sides; NaN leaves gaps."""
    axes.plot(x, mean, label=text, **style)
    axes.fill_between(x, mean - half, mean + half, color=style["color"], alpha=0.18, linewidth=0)


def in_lines(text: str, letters: int) -> str:
    """A text in lines of so many letters: what stands beside a panel and is longer than it is high is cut."""
    return textwrap.fill(text, letters, break_long_words=False)


def divider(axes: Axes, x: float) -> None:
    """A dashed vertical line."""
    axes.axvline(x, color=BASELINE, linestyle=(0, (3, 2)), linewidth=0.7, zorder=1)


def zero_line(axes: Axes, vertical: bool = False) -> None:
    (axes.axvline if vertical else axes.axhline)(0, color=GUIDE, linewidth=0.7, zorder=1)


def box_statistics(values: np.ndarray) -> dict[str, float]:
    """Quartiles and whiskers of the finite values: Tukey's, to the last value within 1.5 interquartile ranges."""
    finite = np.sort(values[np.isfinite(values)])
    if not len(finite):
        return {"n": 0} | dict.fromkeys(("whisker_low", "q25", "median", "q75", "whisker_high"), math.nan)
    q25, median, q75 = (float(x) for x in np.quantile(finite, [0.25, 0.5, 0.75]))
    reach = 1.5 * (q75 - q25)
    low = finite[np.searchsorted(finite, q25 - reach)]
    high = finite[np.searchsorted(finite, q75 + reach, side="right") - 1]
    # Interpolated quartiles can lie beyond the last value in reach of them.
    low, high = min(float(low), q25), max(float(high), q75)
    return {"n": len(finite), "whisker_low": low, "q25": q25, "median": median, "q75": q75, "whisker_high": high}


def box(axes: Axes, place: float, found: dict[str, float], *, colour: str, filled: bool, width: float = 0.34) -> None:
    """One box of :func:`box_statistics`; the one of a pair is filled, the other open."""
    stats = [
        {"whislo": found["whisker_low"], "q1": found["q25"], "med": found["median"], "q3": found["q75"],
         "whishi": found["whisker_high"]}
    ]  # fmt: skip
    line = {"color": colour, "linewidth": 0.8}
    axes.bxp(
        stats, positions=[place], widths=width, showfliers=False, showcaps=True, patch_artist=True,
        boxprops={"facecolor": colour if filled else "white", "edgecolor": colour, "linewidth": 0.8},
        medianprops={"color": "white" if filled else colour, "linewidth": 1.3}, whiskerprops=line, capprops=line,
    )  # fmt: skip


def label(axes: Axes, x: np.ndarray, y: np.ndarray, texts: Sequence[str], cloud: np.ndarray | None = None) -> None:
    """Write names beside points, where they cover neither each other nor the points; with a line where it is far.

    Args:
        x, y: [k] points in data coordinates. texts: k names; the first :data:`MAX_LABELS` are written.
        cloud: [n, 2] other points, which are covered only where there is no better place.
    """
    from matplotlib.patheffects import withStroke

    from harness.plotting.label_placement import place

    texts = texts[:MAX_LABELS]
    figure = axes.get_figure(root=True)
    if not len(texts) or figure is None:
        return
    figure.draw_without_rendering()  # the layout settles here; what is written below stays out of it
    to_points = 72 / figure.dpi
    marks = axes.transData.transform(np.column_stack([x, y])) * to_points
    others = axes.transData.transform(cloud) * to_points if cloud is not None and len(cloud) else np.empty((0, 2))
    texts, kept = _together(texts, marks)
    x, y = (np.asarray(values)[kept] for values in (x, y))
    marks = marks[kept]
    halo = [withStroke(linewidth=1.6, foreground="white")]
    written = [
        axes.annotate(
            harmless.figure(text), (x[i], y[i]), xytext=(0, 0), textcoords="offset points", ha="center", va="center",
            zorder=6, path_effects=halo, annotation_clip=False,
        )
        for i, text in enumerate(texts)
    ]  # fmt: skip
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    extents = [text.get_window_extent(renderer) for text in written]
    sizes = np.array([(extent.width, extent.height) for extent in extents]) * to_points
    frame = axes.get_window_extent(renderer).bounds
    offsets = place(marks, sizes, others, np.array(frame) * to_points)
    for text, offset, size, i in zip(written, offsets, sizes, range(len(texts)), strict=True):
        text.set_position((float(offset[0]), float(offset[1])))
        text.set_in_layout(False)
        if np.hypot(*np.maximum(np.abs(offset) - size / 2, 0)) > 6:
            line = axes.annotate(
                "", (x[i], y[i]), xytext=tuple(offset), textcoords="offset points", zorder=3, annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": BASELINE, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
            )  # fmt: skip
            line.set_in_layout(False)


def _together(texts: Sequence[str], marks: np.ndarray) -> tuple[list[str], list[int]]:
    """One name for marks [m, 2] that touch: texts, three in a line, and which of the marks are kept for placing."""
    groups: list[list[int]] = []
    for i in range(len(texts)):
        near = (group for group in groups if np.abs(marks[i] - marks[group[0]]).max() < TOUCHING)
        if (group := next(near, None)) is None:
            groups.append([i])
        else:
            group.append(i)
    rows = [[group[i : i + 3] for i in range(0, len(group), 3)] for group in groups]
    names = [",\n".join(", ".join(texts[i] for i in row) for row in group) for group in rows]
    return names, [group[0] for group in groups] + list(range(len(texts), len(marks)))


def bin_edges(values: np.ndarray, most: float | None = None) -> np.ndarray:
    """Edges of bins: one around every multiple of a step where values are such, else at most 40 of equal width.

    No bin reaches below 0 where no value does (shares, counts and sizes have no others), nor above ``most``, which is
    the largest value that there can be.
    """
    edges = _plain_edges(values)
    if len(values) and values.min() >= 0:
        edges[0] = max(edges[0], 0.0)
    if most is not None and len(values) and values.max() <= most:
        edges[-1] = min(edges[-1], most)
    return edges


def largest(unit: str) -> float | None:
    """The largest value that a unit has, where it has one: shares end at 1, and at 100%."""
    return {"%": 100.0, "share": 1.0}.get(unit)


def _plain_edges(values: np.ndarray) -> np.ndarray:
    distinct = np.unique(values)
    if len(distinct) == 0:
        return np.array([0.0, 1.0])
    if len(distinct) == 1:
        half = 0.5 if float(distinct[0]).is_integer() else max(abs(distinct[0]) * 0.01, 1e-9)
        return np.array([distinct[0] - half, distinct[0] + half])
    low, high = distinct[0], distinct[-1]
    step = 1.0 if (distinct == np.round(distinct)).all() else np.diff(distinct).min()
    steps = (distinct - low) / step
    few = steps[-1] <= 40 and len(distinct) <= max(len(values) / 2, 2)
    if few and np.abs(steps - np.round(steps)).max() < 1e-3:
        return np.asarray(low + step * (np.arange(round(steps[-1]) + 2) - 0.5))
    q25, q75 = np.quantile(values, [0.25, 0.75])
    width = 2 * (q75 - q25) / len(values) ** (1 / 3)  # Freedman and Diaconis
    n = min((high - low) / width, 40) if width > 0 else 40
    return np.linspace(low, high, max(math.ceil(n), 8) + 1)
