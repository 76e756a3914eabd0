"""Figures and tables of a run as files: in one style, readable in a paper's column, the same bytes again."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.files import harmless
from harness.files.store import write_bytes
from harness.files.wording import counted, plural
from harness.plotting.shapes import COLUMN, bin_edges, largest
from harness.plugin.records import NAME, Figure, Frame
from harness.report.places import with_places

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from matplotlib.text import Text

DPI = 200

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that text has the same shape and extent everywhere
    "font.size": 7.0,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 4.0,
    "axes.labelpad": 2.5,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "mathtext.fontset": "dejavusans",
    "mathtext.default": "regular",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#333333",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#EBEBEB",
    "grid.linewidth": 0.5,
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.use_mathtext": True,
    "axes.formatter.useoffset": False,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.2,
    "legend.labelspacing": 0.3,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "svg.fonttype": "path",  # a viewer without the font would move and cut off text
    "svg.hashsalt": "harness",
}
"""matplotlib's settings while a figure is drawn; all others are matplotlib's own defaults."""


def write_shown(folder: Path, shown: Sequence[Frame | Figure], progress: Callable[[int], None] | None = None) -> None:
    """Write ``tables/NAME.csv`` for every table, and ``figures/NAME.{png,svg,csv}`` for every figure.

    Args:
        progress: called with 1 after each of ``shown``.

    Raises:
        HarnessError: the files cannot be written.
        ValueError: a name is not fit for a file or is given twice, or columns differ in length; nothing is written.
    """
    _check(shown)
    for item in shown:
        if isinstance(item, Frame):
            write_bytes(folder / "tables" / f"{item.name}.csv", csv_bytes(item.columns))
        else:
            for path, data in figure_files(item).items():
                write_bytes(folder / path, data)
        if progress is not None:
            progress(1)


def figure_files(figure: Figure) -> dict[str, bytes]:
    """The files of a figure, ``figures/NAME.{csv,svg,png}``."""
    png, svg = render(figure)
    stem = f"figures/{figure.name}"
    return {f"{stem}.csv": csv_bytes(figure.data), f"{stem}.svg": svg, f"{stem}.png": png}


def _check(shown: Sequence[Frame | Figure]) -> None:
    seen: set[tuple[type, str]] = set()
    for item in shown:
        what = "table" if isinstance(item, Frame) else "figure"
        if not NAME.fullmatch(item.name):
            raise ValueError(f"{what} {item.name!r}: a name has only letters, digits, - and _")
        key = (type(item), item.name.lower())  # some file systems do not tell A.png from a.png
        if key in seen:
            raise ValueError(f"two {plural(what)} are called {item.name!r}")
        seen.add(key)
        columns = item.columns if isinstance(item, Frame) else item.data
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{what} {item.name!r}: columns differ in length: {lengths}")


@contextlib.contextmanager
def style() -> Iterator[None]:
    """matplotlib's defaults with :data:`STYLE` on top, whatever the user has set; theirs are back afterwards."""
    import matplotlib
    from matplotlib import style as styles

    with matplotlib.rc_context():
        styles.use(["default", STYLE])
        yield


def draw(figure: Figure) -> Canvas:
    """The figure on an Agg canvas, without ``pyplot``; to be called and used within :func:`style`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from matplotlib.text import Text

    canvas = Canvas(figsize=figure.size, dpi=DPI, layout="constrained")
    canvas.get_layout_engine().set(w_pad=0.03, h_pad=0.03)  # type: ignore[union-attr, call-arg]
    FigureCanvasAgg(canvas)
    try:
        figure.draw(canvas)
    except Exception as error:
        error.add_note(f"while drawing the figure {figure.name!r}")
        raise
    for text in canvas.findobj(Text):
        _make_harmless(text)
    return canvas


def _make_harmless(text: Text) -> None:
    """Whatever was written without care: no character that the font has no form for, no formula that is none."""
    from matplotlib.textpath import text_to_path

    written = text.get_text()
    if written != (shown := harmless.figure(written).replace(r"\$", "$")):
        text.set_text(shown)
    if written.count("$") > written.count(r"\$"):
        try:
            # As the SVG will ask for it: a formula is parsed once.
            text_to_path.get_text_width_height_descent(shown, text.get_fontproperties(), ismath=True)
        except ValueError:
            text.set_parse_math(False)


def render(figure: Figure) -> tuple[bytes, bytes]:
    """The figure as PNG and as SVG: the same bytes whenever the same figure is drawn with the same matplotlib.

    Not by ``savefig``, which draws everything once more in vain, and places it anew for the second format.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with style():
        canvas = draw(figure)
        png, svg = io.BytesIO(), io.BytesIO()
        canvas.canvas.print_png(png, metadata={"Software": None})  # type: ignore[attr-defined]
        canvas.set_layout_engine("none")
        FigureCanvasSVG(canvas).print_svg(svg, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return png.getvalue(), svg.getvalue()


def csv_bytes(columns: Mapping[str, Sequence[Any] | np.ndarray]) -> bytes:
    """Columns of equal length as CSV (UTF-8, one header line): floats to full precision, nothing for NaN and None.

    Columns with names of units are followed by their layers and indices (:mod:`harness.report.places`).
    """
    columns = with_places(columns)
    plain = [column.tolist() if isinstance(column, np.ndarray) else column for column in columns.values()]
    rows = ([_cell(value) for value in row] for row in zip(*plain, strict=True))
    return harmless.csv_text(columns, rows).encode()


def _cell(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else value


def control_histogram(name: str, treated: float, controls: np.ndarray, title: str, unit: str) -> Figure:
    """The value of the selected components as a line beside the histogram of their random controls.

    Values that are few distinct multiples of one step (counts, shares of a few prompts) get one bar each.

    Args:
        treated: the value; NaN is left out. controls: [m] theirs. title: what is measured, for the axis and the
            caption; unit: in words or as a sign ("%", "nats"), may be empty.
    """
    controls = np.asarray(controls, dtype=float)
    known = controls[np.isfinite(controls)]
    edges = bin_edges(known, largest(unit))
    counts, _ = np.histogram(known, edges)
    sides = f"{(known < treated).sum()} below it, {(known == treated).sum()} equal, {(known > treated).sum()} above"
    asks = f"Do the selected components stand out among random ones? {title[:1].upper() + title[1:]}"
    caption = f"{asks} beside {counted(len(known), 'random control')} ({sides})."
    if not math.isfinite(treated):
        caption = f"{asks} of {counted(len(known), 'random control')}; the selected components have no value."
    if len(known) < len(controls):
        caption += f" Left out: {counted(len(controls) - len(known), 'control')} without a value."
    place = np.clip(np.searchsorted(edges, controls, side="right") - 1, 0, len(edges) - 2)
    has_bin = np.isfinite(controls)

    def paint(canvas: Canvas) -> None:
        from harness.plotting import shapes as drawing

        axes = canvas.subplots()
        axes.bar(
            edges[:-1], counts, np.diff(edges), align="edge", color=drawing.CONTROLS, edgecolor="white",
            linewidth=0.4, label=f"random controls (m = {len(known)})",
        )  # fmt: skip
        if len(known) and math.isfinite(treated) and edges[-1] - edges[0] < 0.02 * abs(treated - np.median(known)):
            # So far from the treated value, the bars would be thinner than a line.
            axes.plot(known, np.zeros(len(known)), "|", color=drawing.CONTROLS, markersize=7, clip_on=False)
            axes.vlines((edges[:-1] + edges[1:]) / 2, 0, counts, color=drawing.CONTROLS, linewidth=1.5)
        if math.isfinite(treated):
            text = f"selected: {treated:.4g}{'' if unit == '%' else ' '}{unit}".rstrip()
            axes.axvline(
                treated, color=drawing.SELECTED, linestyle=(0, (4, 1.5)), linewidth=1.4, label=harmless.figure(text)
            )
            axes.plot(
                [treated], [1], transform=axes.get_xaxis_transform(), marker="D", markersize=4, clip_on=False,
                color=drawing.SELECTED, markeredgecolor="black", markeredgewidth=0.7,
            )  # fmt: skip
        axes.grid(False, axis="x")
        axes.yaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
        axes.set(xlabel=harmless.figure(f"{title} ({unit})" if unit else title), ylabel="controls", ylim=(0, None))
        drawing.legend(axes)

    data = {
        "condition": ["treated", *["control"] * len(controls)],
        "value": [treated, *controls.tolist()],
        "bin_low": [math.nan, *np.where(has_bin, edges[place], math.nan).tolist()],
        "bin_high": [math.nan, *np.where(has_bin, edges[place + 1], math.nan).tolist()],
    }
    return Figure(name, caption, data, paint, (COLUMN, 2.3))
