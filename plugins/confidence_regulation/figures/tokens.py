"""Figures with one point a token: entropy, divergence from the unigram distribution, loss."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from harness.plotting import shapes as drawing
from harness.plotting.shapes import COLUMN
from harness.plugin import Figure, counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

MOST = 4000
"""So many tokens are drawn; a random choice of them when there are more."""


def file_name(*parts: str) -> str:
    """``("loss_change", "11.2378")`` as the name of a file."""
    return "-".join(re.sub(r"[^A-Za-z0-9_-]+", "_", part) for part in parts if part)


def entropy_kl(entropy: np.ndarray, kl: np.ndarray, r: float, name: str = "entropy_kl") -> Figure:
    """Figure 3a: where the model is unsure, it predicts what is frequent.

    Args:
        entropy: [n] of the predicted distribution, in nats. kl: [n] KL(P_freq || P_model) in nats. r: correlation.
    """
    shown = np.isfinite(entropy) & np.isfinite(kl)
    x, y = np.asarray(entropy)[shown], np.asarray(kl)[shown]
    n_bins = int(np.clip(np.sqrt(len(x)) / 1.5, 10, 44))
    ranges = [_span(x), _span(y)]
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=n_bins, range=ranges)
    i, j = np.nonzero(counts)
    caption = [
        "Does the model predict what is frequent where it is unsure? Entropy of the predicted distribution and its "
        f"divergence from the unigram distribution, {_tokens(len(x))}; "
        f"r = {r:.3f}."
    ]
    caption += _left_out(len(shown) - len(x))

    def paint(canvas: Canvas) -> None:
        from matplotlib.colors import LogNorm

        axes = canvas.subplots()
        cells = np.ma.masked_equal(counts.T, 0)
        scale = LogNorm(1, max(counts.max(), 10))
        drawn = axes.pcolormesh(x_edges, y_edges, cells, cmap=drawing.colours(), norm=scale, linewidth=0, zorder=2)
        drawn.set_rasterized(True)
        axes.set(xlabel="entropy (nats)", ylabel="KL(P$_{freq}$ ‖ P$_{model}$) (nats)")
        drawing.colour_bar(axes, drawn, "tokens")
        axes.set_title(f"r = {r:.3f},  n = {counted(len(x), 'token', ',')}")

    data = {
        "entropy_low": x_edges[i], "entropy_high": x_edges[i + 1], "kl_low": y_edges[j], "kl_high": y_edges[j + 1],
        "tokens": counts[i, j].astype(int),
    }  # fmt: skip
    return Figure(name, " ".join(caption), data, paint, (COLUMN, 2.5))


def loss_change(loss: np.ndarray, change: np.ndarray, reciprocal_rank: np.ndarray, name: str) -> Figure:
    """Figure 4a, 9c, 10c: on which tokens ablating a neuron helps or hurts.

    Args:
        loss: [n] before the ablation, in nats. change: [n] after minus before. reciprocal_rank: [n] of the right token
            before the ablation, the colour. name: of what is ablated ("11.2378").
    """
    return _tokens_scatter(
        file_name("loss_change", name),
        f"On which tokens does ablating {name} help or hurt? Change of the loss by the loss before and the "
        "reciprocal rank "
        "of the right token",
        {"loss": loss, "change": change, "reciprocal_rank": reciprocal_rank},
        ("initial loss (nats)", drawing.in_lines(f"change of loss, {name} ablated (nats)", 30)),
        "reciprocal rank of the token",
    )


def kl_entropy_changes(kl_change: np.ndarray, entropy_change: np.ndarray, name: str = "") -> Figure:
    """Figure 4c: ablating a token-frequency neuron moves the entropy and the divergence from the unigram distribution.

    Args:
        kl_change, entropy_change: [n] after the ablation minus before, in nats. name: of what is ablated.
    """
    return _tokens_scatter(
        file_name("kl_entropy_changes", name),
        f"Do entropy and distance from the token frequencies move against each other? Their changes on each token when "
        f"{name or 'the selection'} is ablated",
        {"kl_change": kl_change, "entropy_change": entropy_change},
        ("change of KL(P$_{freq}$ ‖ P$_{model}$) (nats)", "change of entropy (nats)"),
        None,
    )


def _tokens_scatter(
    name: str, title: str, data: dict[str, np.ndarray], texts: tuple[str, str], colour_text: str | None
) -> Figure:
    """The first two columns of ``data`` against each other, the third as colour between 0 and 1."""
    columns = {key: np.asarray(values, dtype=float) for key, values in data.items()}
    keys = list(columns)
    if len({len(values) for values in columns.values()}) > 1:
        raise ValueError(f"figure {name}: arrays of {[len(values) for values in columns.values()]} tokens")
    shown = np.isfinite(np.column_stack(list(columns.values()))).all(axis=1)
    rows = np.flatnonzero(shown)
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST, replace=False))
    x, y = columns[keys[0]][rows], columns[keys[1]][rows]
    nothing = np.zeros(len(rows), dtype=bool)
    edges = drawing.limits(x, nothing), drawing.limits(y, nothing)
    outside = drawing.beyond(x, edges[0]) | drawing.beyond(y, edges[1])
    caption = [f"{title} ({_tokens(int(shown.sum()))}{f', {MOST:,} of them drawn' if shown.sum() > MOST else ''})."]
    caption += _left_out(int((~shown).sum()))
    if outside.any():
        caption.append(f"{_tokens(int(outside.sum()))} beyond the axes drawn as triangles at their edge.")

    def paint(canvas: Canvas) -> None:
        from matplotlib.colors import Normalize

        axes = canvas.subplots()
        axes.set(xlabel=texts[0], ylabel=texts[1])
        drawing.zero_line(axes)
        if colour_text is None:
            drawing.zero_line(axes, vertical=True)
        xs, ys = drawing.apply_limits(axes, *edges, (x, y))
        if colour_text is None:
            drawing.points(axes, xs, ys, colour=drawing.BLUE, outside=outside)
        else:
            values = columns[keys[2]][rows]
            style = {"cmap": drawing.colours(), "norm": Normalize(0, 1)}
            drawn = drawing.points(axes, xs, ys, colour=values, outside=outside, **style)
            drawing.colour_bar(axes, drawn, colour_text)

    return Figure(name, " ".join(caption), {key: values[rows] for key, values in columns.items()}, paint, (COLUMN, 2.5))


def _span(values: np.ndarray) -> tuple[float, float]:
    """Least and largest value, apart from each other."""
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _tokens(n: int) -> str:
    return counted(n, "token", ",")


def _left_out(n: int) -> list[str]:
    return [f"{_tokens(n)} without finite values left out."] if n else []
