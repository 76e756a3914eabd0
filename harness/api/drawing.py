"""A run's figures for matplotlib, drawn again from what the run has observed."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, not_there
from harness.files.owned import path_name
from harness.plugin import border
from harness.plugin.catalogue import catalogue
from harness.plugin.components import Metric, Selector
from harness.plugin.records import Figure, Frame
from harness.plugin.specs import ComponentSpec
from harness.report.figure_files import DPI, csv_bytes, style
from harness.report.figure_files import draw as drawn
from harness.results import record as records
from harness.results.folder import RunFolder
from harness.results.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


def draw(folder: Path, record: RunRecord, name: str) -> Canvas:
    """The figure of this name: drawn again where that gives the data of its CSV file, else its picture.

    Raises:
        HarnessError: it cannot be drawn, and the picture is missing.
    """
    stem = folder / "figures" / path_name(name, str(folder))
    data = stem.with_suffix(".csv")
    written = data.read_bytes() if data.is_file() else b""
    figure = next((x for x in _figures(folder, record) if x.name == name and csv_bytes(x.data) == written), None)
    if figure is None:
        canvas = _picture(stem.with_suffix(".png"))
    else:
        with style():
            canvas = drawn(figure)
    canvas.__dict__["_repr_png_"] = lambda: _png(canvas)  # notebooks show it without pyplot
    return canvas


def _figures(folder: Path, record: RunRecord) -> Iterator[Figure]:
    """The figures of the run's selector and metrics, as far as they are installed as they were."""
    outcomes = RunFolder(folder).load_outcomes()
    components = record.identity.components

    def of_selector(part: records.Component) -> list[Figure | Frame]:
        selector = catalogue().build(Selector, _spec(part), folder.name)
        chosen = outcomes.selection
        drawn = () if chosen is None else border.figures(selector, lambda: selector.figures(chosen))
        return border.shown(selector, "figures", drawn, {})

    def of_metric(part: records.Component) -> list[Figure | Frame]:
        metric = catalogue().build(Metric, _spec(part), folder.name)
        return border.shown(metric, "figures", border.measure(metric, outcomes).figures, {})

    parts = [(of_selector, components.selector), *((of_metric, metric) for metric in components.metrics)]
    for figures_of, part in parts:
        with contextlib.suppress(HarnessError):
            yield from (item for item in figures_of(part) if isinstance(item, Figure))


def _spec(part: records.Component) -> ComponentSpec:
    """A component of a record as it was asked for."""
    return ComponentSpec(part.name, _written(part.params))


def _written(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as they are given: in a record, components among them have a version and parameters of their own."""
    given = dict(params)
    for key, value in given.items():
        if isinstance(value, Mapping) and set(value) == {"name", "version", "params"}:
            given[key] = {"name": value["name"], **_written(value["params"])}
    return given


def _picture(path: Path) -> Canvas:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from matplotlib.image import imread

    if not path.is_file():
        raise HarnessError(f"{path}: {not_there(path)}.")
    pixels = imread(path)
    canvas = Canvas(figsize=(pixels.shape[1] / DPI, pixels.shape[0] / DPI), dpi=DPI)
    FigureCanvasAgg(canvas)
    axes = canvas.add_axes((0, 0, 1, 1))
    axes.imshow(pixels)
    axes.set_axis_off()
    return canvas


def _png(canvas: Canvas) -> bytes:
    file = io.BytesIO()
    canvas.savefig(file, format="png")
    return file.getvalue()
