"""A text as it stands, each token coloured by a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.files import harmless
from harness.plotting.shapes import PAGE
from harness.plugin import Figure, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

FONT, SIZE = "DejaVu Sans Mono", 6.5
"""Of one width for all letters, so that where a line ends does not depend on what draws it; of matplotlib's own."""
LETTERS = 106
"""Letters in a line of a page's width."""
LINE = 0.145
"""Inches from one line to the next."""
LEAST_LINES = 4
"""A colour bar needs so much room."""


def token_view(
    tokens: Sequence[str], values: Mapping[str, np.ndarray], chosen: str, name: str = "token_view"
) -> Figure:
    """Figure 4b: the tokens of a text, coloured by each of several quantities, one beneath the other.

    Args:
        tokens: t texts, in their order. values: by what they are, with its unit, [t]; NaN has no colour. chosen: how
            this text was chosen, for the caption.

    Raises:
        ValueError: arrays of another length.
    """
    if any(np.shape(array) != (len(tokens),) for array in values.values()):
        raise ValueError(f"figure {name}: {counted(len(tokens), 'token')}, values {[*map(np.shape, values.values())]}")
    texts = [shown(token) for token in tokens]
    places = list(lay_out([len(text) for text in texts]))
    lines = max(LEAST_LINES, 1 + max((row for row, _ in places), default=0))
    caption = (
        f"On which words does it act? {counted(len(tokens), 'token')} of a text ({chosen}), each coloured by what "
        "its prediction has of "
        f"{', '.join(values)}. Strongest: the largest magnitude in this text; orange: above 0, purple: below."
    )

    def paint(canvas: Canvas) -> None:
        panels = canvas.subplots(len(values), 1, squeeze=False)[:, 0]
        for axes, (text, array) in zip(panels, values.items(), strict=True):
            _block(axes, texts, places, lines, np.asarray(array, dtype=float), text)

    data: dict[str, Any] = {"place": np.arange(len(tokens)), "token": list(tokens), **values}
    return Figure(name, caption, data, paint, (PAGE, len(values) * (0.4 + LINE * lines)))


def shown(token: str) -> str:
    """A token as it is drawn: what breaks a line is written out, and nothing is no letter wide."""
    written = token.replace("\n", "\\n").replace("\t", "\\t")
    return harmless.figure(written).replace(r"\$", "$") or " "


def lay_out(widths: Sequence[int], room: int = LETTERS) -> Iterator[tuple[int, int]]:
    """Line and first column of texts of these widths, in letters; one that is longer than a line has one of its own."""
    row = column = 0
    for width in widths:
        if column and column + width > room:
            row, column = row + 1, 0
        yield row, column
        column += width


def _block(
    axes: Axes, texts: Sequence[str], places: Sequence[tuple[int, int]], lines: int, values: np.ndarray, text: str
) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.font_manager import findfont, get_font
    from matplotlib.patches import Rectangle

    known = get_font(findfont(FONT)).get_charmap()
    limit = float(np.abs(values[np.isfinite(values)]).max(initial=0.0)) or 1.0
    scale, palette = Normalize(-limit, limit), colormaps["PuOr_r"]
    axes.set(xlim=(0, LETTERS), ylim=(lines, 0), title=text)
    axes.set_axis_off()
    for word, (row, column), value in zip(texts, places, values.tolist(), strict=True):
        colour = palette(scale(value)) if np.isfinite(value) else (1.0, 1.0, 1.0, 1.0)
        axes.add_patch(Rectangle((column, row), len(word), 0.94, facecolor=colour, edgecolor="white", linewidth=0.4))
        drawn = "".join(letter if ord(letter) in known else harmless.UNKNOWN for letter in word)
        dark = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] < 0.5
        axes.text(
            column, row + 0.5, drawn, family=FONT, fontsize=SIZE, va="center_baseline", parse_math=False, clip_on=True,
            color="white" if dark else "black",
        ).set_in_layout(False)  # fmt: skip
    figure = axes.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(ScalarMappable(scale, palette), ax=axes, pad=0.01, aspect=max(4, 2 * lines), fraction=0.04)
    bar.outline.set_linewidth(0.5)
