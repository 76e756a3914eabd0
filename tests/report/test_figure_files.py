"""Figures and tables as files: complete data, the same bytes again, readable, and safe for whatever plots besides."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from golden import golden
from matplotlib.image import imread

from harness.plotting.shapes import bin_edges, largest
from harness.plugin.records import Figure, Frame
from harness.report.figure_files import STYLE, control_histogram, csv_bytes, draw, render, style, write_shown
from harness.report.page_charts import histogram
from harness.report.sweeps import curve, flat, still, sweeps
from harness.results.record import RunRecord


def line(name: str = "line") -> Figure:
    def paint(canvas: object) -> None:
        axes = canvas.subplots()  # type: ignore[attr-defined]
        axes.plot([0, 1], [0, 1])
        axes.set(xlabel="x (nats)", ylabel="y")

    return Figure(name, "A line.", {"x": [0, 1], "y": np.array([0.1, np.nan])}, paint)


def test_a_figure_is_three_files_and_a_table_is_one(tmp_path: Path) -> None:
    done: list[int] = []
    write_shown(tmp_path, [line(), Frame("rows", "Rows.", {"a": ["x", "y"], "b": [1, 2]})], done.append)
    assert sorted(str(x.relative_to(tmp_path)) for x in tmp_path.rglob("*.*")) == [
        "figures/line.csv", "figures/line.png", "figures/line.svg", "tables/rows.csv",
    ]  # fmt: skip
    assert done == [1, 1]
    rows = list(csv.reader((tmp_path / "figures" / "line.csv").read_text().splitlines()))
    assert rows == [["x", "y"], ["0", "0.1"], ["1", ""]]
    picture = imread(tmp_path / "figures" / "line.png")
    assert picture.shape[1] == 670 and picture[..., :3].std() > 0.01  # 3.35 inches at 200 dpi, and not blank
    assert "<dc:date>" not in (tmp_path / "figures" / "line.svg").read_text()


def test_the_same_figure_is_the_same_bytes_and_no_setting_leaks() -> None:
    before = dict(matplotlib.rcParams)
    first = render(line())
    matplotlib.rcParams["lines.linewidth"] = 17
    assert render(line()) == first
    matplotlib.rcParams["lines.linewidth"] = before["lines.linewidth"]
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("shown", "says"),
    [
        ([line("a/b")], "only letters"),
        ([line(), line("LINE")], "two figures are called"),
        ([Frame("t", "", {"a": [1], "b": [1, 2]})], "differ in length"),
    ],
)
def test_what_cannot_be_a_file_is_refused_before_anything_is_written(
    shown: list[Figure | Frame], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says):
        write_shown(tmp_path, [line("good"), *shown])
    assert not list(tmp_path.iterdir())


def test_floats_are_written_in_full() -> None:
    values = np.random.default_rng(0).normal(size=50)
    text = csv_bytes({"x": values}).decode().splitlines()
    assert text[0] == "x" and [float(x) for x in text[1:]] == values.tolist()


def test_text_is_large_enough_to_read_at_column_width() -> None:
    assert min(value for key, value in STYLE.items() if key.endswith(("labelsize", "fontsize", "font.size"))) >= 6


def test_the_control_histogram_holds_every_control_and_the_treated_value() -> None:
    controls = np.random.default_rng(1).normal(size=99)
    figure = control_histogram("gts", 4.2, controls, "global transition score", "%")
    with style():
        canvas = draw(figure)
        heights = [patch.get_height() for axes in canvas.axes for patch in axes.patches]
    assert figure.name == "gts" and len({len(x) for x in figure.data.values()}) == 1
    assert sum(heights) == 99 or any("count" in key or "controls" in key for key in figure.data)
    assert control_histogram("x", 1.0, np.array([1.0, 1.0]), "x", "nats").title  # all alike
    assert (np.diff(bin_edges(np.array([0.0, 1.0, 2.0, 7.0]))) > 0).all()


@pytest.mark.parametrize("step", [0.25, 0.1234])
def test_no_bar_lies_where_no_value_can(step: float) -> None:
    shares = step * np.arange(8).repeat(4)
    assert bin_edges(shares)[0] == 0 and bin_edges(100 - shares, largest("%"))[-1] == 100
    assert bin_edges(np.zeros(9))[0] == 0 and bin_edges(shares - 1)[0] < -1
    counts, _ = np.histogram(shares, bin_edges(shares))
    assert counts.sum() == len(shares)


def test_a_control_distribution_has_axes_with_unit_and_true_ticks() -> None:
    values = [0.4, 0.9, 1.4, 2.2, 3.6, 3.9]
    drawn = str(histogram("entropy", 0.0, values, None, "nats"))
    assert "entropy (nats)" in drawn and ">controls<" in drawn
    axis = drawn.partition('class="axis"')[2].partition('class="counts"')[0]
    ticks = [(float(x), float(text)) for x, text in re.findall(r'<text x="([\d.]+)" y="\d+">([-\d.]+)</text>', axis)]
    apart = np.diff([x for x, _ in ticks]) / np.diff([value for _, value in ticks])
    assert len(ticks) > 2 and np.ptp(apart) < 0.01 * apart.mean()  # a tick that says 2 stands at 2


def record(name: str, factor: float, value: float, seed: int = 0) -> RunRecord:
    """The golden record with one measure, under an intervention with a factor."""
    found = golden("record.json") | {"name": name}
    component = {"name": "x", "version": "1", "params": {}, "distribution": "d", "distribution_version": "1"}
    found["identity"] |= {
        "seed": seed,
        "components": {
            "model": component,
            "task": component,
            "selector": {**component, "params": {"top": 6, "rule": "stolfo2024"}},
            "intervention": {**component, "params": {"factor": factor}},
            "metrics": [component],
        },
    }
    measure = next(measure for measure in found["measures"] if measure["primary"])
    measure |= {"name": "effect", "value": value, "ci_low": value - 1, "ci_high": None if factor == 2 else value + 1}
    return RunRecord.read(found | {"measures": [measure]}, "record.json")


def test_runs_that_differ_in_one_number_are_a_sweep_in_its_order() -> None:
    records = [
        record("scale.b", 2, 3.0),
        record("scale.a", 0.5, 1.0),
        record("scale.c", 4, 9.0),
        record("other", 1, 1, 1),
    ]
    [found] = sweeps(records)
    assert (found.parameter, found.values, found.name) == ("intervention.factor", (0.5, 2.0, 4.0), "scale-factor")
    assert still(found) == [] and flat(found) == ""
    figure = curve(found)
    assert figure.data["value"] == [1.0, 3.0, 9.0] and figure.data["intervention.factor"] == [0.5, 2.0, 4.0]
    png, svg = render(figure)
    assert png.startswith(b"\x89PNG") and b"<svg" in svg
    assert sweeps(records[:2]) == []


def test_a_long_title_beside_a_panel_is_not_cut() -> None:
    long = "change of log(P_CK/P_PK) beyond temperature"
    records = [record(f"scale.{factor}", factor, 1.0) for factor in (1, 2, 4)]
    names = ["a", "b", "c", "d", "e"]
    told = [
        x.model_copy(
            update={
                "measures": [
                    x.measures[0].model_copy(update={"name": n, "title": long, "value": float(i)}) for n in names
                ]
            }
        )
        for i, x in enumerate(records)
    ]
    [found] = sweeps(told)
    with style():
        canvas = draw(curve(found))
        canvas.draw_without_rendering()
        box, panel = canvas.axes[0].yaxis.label.get_window_extent(), canvas.axes[0].get_window_extent()
        assert canvas.axes[0].get_ylabel().replace("\n", " ").startswith(f"{long}, ")
        assert box.height <= 1.2 * panel.height


def test_a_sweep_in_which_nothing_moves_is_a_sentence() -> None:
    [found] = sweeps([record(f"scale.{factor}", factor, 1.0) for factor in (1, 2, 4)])
    assert flat(found).startswith(
        "intervention.factor makes no difference: at 1, 2, 4, every primary measure is the same"
    )
    with pytest.raises(ValueError, match="makes no difference"):
        curve(found)
