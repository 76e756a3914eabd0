"""Histograms of control distributions as SVG, drawn into the page itself: they need no script and print well."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup, escape

from harness.files import harmless
from harness.files.wording import counted
from harness.plotting.shapes import bin_edges, largest

WIDTH, HEIGHT = 360, 168
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 22, 42
THIN = 1.5
"""Least width of a bar, where the treated value lies so far off that bars would vanish."""

LETTERS = 56
"""Of the axis's text, which has one line."""


def histogram(
    title: str, treated: float | None, controls: Sequence[float | None], null: float | None, unit: str
) -> Markup:
    """The controls' values as bars, the treated value as a dashed line with a diamond, no effect as a dotted line.

    Args:
        title: what is measured. treated: None where it has no value. controls: [m]; None where a control has none.
        null: the value that means no effect, where there is one. unit: "%", "nats", "" ...
    """
    known = np.array([value for value in controls if value is not None], float)
    if not len(known):
        return Markup()
    edges = bin_edges(known, largest(unit))
    counts, _ = np.histogram(known, edges)
    inside = [edges[0], edges[-1], *([treated] if treated is not None else [])]
    reach = max(inside) - min(inside)
    if null is not None and min(inside) - reach / 2 <= null <= max(inside) + reach / 2:
        inside.append(null)
    low, high = min(inside), max(inside)
    pad = 0.03 * (high - low)
    low, high = (low if low == 0 else low - pad), high + pad

    def x(value: float) -> float:
        found: float = LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        return found

    axis = f"{title}{f' ({unit})' if unit else ''}"
    parts = [_bars(edges, counts, x), _axis(low, high, x, axis), _counts(int(counts.max()))]
    if null is not None and low <= null <= high:
        parts.append(
            Markup('<line class="null" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(
                x(null), TOP, HEIGHT - BOTTOM
            )
        )
    sides = f"{counted(len(known), 'random control')} from {known.min():.4g} to {known.max():.4g}{_with(unit)}"
    if treated is not None:
        parts.append(_treated(x(treated), f"{treated:.4g}{_with(unit)}"))
        below, equal = int((known < treated).sum()), int((known == treated).sum())
        sides += (
            f"; the selected ones at {treated:.4g}{_with(unit)}, {counted(below, 'control')} below, {equal} equal, "
            f"{len(known) - below - equal} above"
        )
    said = escape(harmless.plain(f"{title}: {sides}."))
    return Markup(
        '<svg class="histogram" viewBox="0 0 {} {}" role="img" aria-label="{}" data-unit="{}" font-family="sans-serif" '
        'font-size="10">{}</svg>'
    ).format(WIDTH, HEIGHT, said, _with(unit), Markup("").join(parts))


def _with(unit: str) -> str:
    return unit if unit in ("", "%") else f" {unit}"


def _bars(edges: np.ndarray, counts: np.ndarray, place: Callable[[float], float]) -> Markup:
    base, tall = HEIGHT - BOTTOM, HEIGHT - BOTTOM - TOP
    bars = []
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count:
            height = tall * count / counts.max()
            width = max(place(right) - place(left) - 0.6, THIN)
            bars.append(
                Markup(
                    '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" data-low="{:.4g}" data-high="{:.4g}" '
                    'data-count="{}"><title>{:.4g} to {:.4g}: {}</title></rect>'
                ).format(
                    place(left) + 0.3,
                    base - height,
                    width,
                    height,
                    left,
                    right,
                    count,
                    left,
                    right,
                    counted(count, "control"),
                )
            )
    return Markup('<g class="bars" fill="#7c93ad">{}</g>').format(Markup("").join(bars))


def _axis(low: float, high: float, place: Callable[[float], float], text: str) -> Markup:
    """The line at the bottom with its ticks, and what it measures in which unit."""
    from matplotlib.ticker import MaxNLocator

    base = HEIGHT - BOTTOM
    ticks = [float(tick) for tick in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]
    step = min(np.diff(ticks)) if len(ticks) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    marks = [
        Markup('<line x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/><text x="{0:.1f}" y="{3}">{4}</text>').format(
            place(tick), base, base + 4, base + 15, f"{tick:.{digits}f}" if digits <= 5 else f"{tick:.2g}"
        )
        for tick in ticks
    ]
    shown = text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"
    return Markup(
        '<g class="axis" stroke-width="1"><line x1="{}" x2="{}" y1="{}" y2="{}"/>{}<text class="title" x="{}" y="{}">{}'
        "</text></g>"
    ).format(
        LEFT, WIDTH - RIGHT, base, base, Markup("").join(marks), (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8,
        harmless.plain(shown),
    )  # fmt: skip


def _counts(most: int) -> Markup:
    """The line at the left: from no control to as many as the highest bar has."""
    base = HEIGHT - BOTTOM
    return Markup(
        '<g class="counts"><line x1="{0}" x2="{0}" y1="{1}" y2="{2}"/><text x="{3}" y="{4}">{5}</text>'
        '<text x="{3}" y="{2}">0</text><text class="title" transform="translate(11 {6}) rotate(-90)">'
        "controls</text></g>"
    ).format(LEFT, TOP, base, LEFT - 5, TOP + 6, most, (TOP + base) / 2)


def _treated(at: float, text: str) -> Markup:
    side = "start" if at < LEFT + WIDTH * 0.25 else "end" if at > WIDTH * 0.7 else "middle"
    nudge = {"start": -4, "end": 4, "middle": 0}[side]
    return Markup(
        '<g class="treated" fill="#c44e00" stroke="none"><line stroke="#c44e00" x1="{0:.1f}" x2="{0:.1f}" '
        'y1="{1}" y2="{2}"/>'
        '<path d="M{0:.1f} {3}l4 5l-4 5l-4 -5z"/>'
        '<text x="{4:.1f}" y="9" text-anchor="{5}">selected: {6}</text></g>'
    ).format(at, TOP - 6, HEIGHT - BOTTOM, TOP - 10, at + nudge, side, text)
