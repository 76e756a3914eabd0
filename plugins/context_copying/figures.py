"""Figures of the paper: what the treated model does, always beside what it does under the random controls."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.files import harmless
from harness.plotting import shapes as drawing
from harness.plotting.shapes import COLUMN, PAGE, bin_edges
from harness.plugin import Figure, counted
from harness.report.figure_files import control_histogram

from .metrics.transition_cells import columns_of
from .task.answer_sources import SOURCES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from harness.plugin import Measure

GRID = 200
"""Points at which a density is drawn."""


def conversion_bars(measures: Sequence[Measure]) -> Figure:
    """Conversion ratios of the selected neurons, and beneath each the mean and the 5% to 95% range of the controls."""
    rows: list[dict[str, Any]] = []
    for measure in measures:
        controls = measure.controls[np.isfinite(measure.controls)]
        low, mean, high = (
            (*np.quantile(controls, [0.05]), controls.mean(), *np.quantile(controls, [0.95]))
            if len(controls)
            else (math.nan,) * 3
        )
        rows.append(
            {
                "ratio": measure.title,
                "treated": measure.treated,
                "count": int(measure.tally.events[1]),
                "of": int(measure.tally.trials[1]),
                "control_mean": float(mean),
                "control_q05": float(low),
                "control_q95": float(high),
            }
        )
    m = measures[0].controls.size

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        places = np.arange(len(rows), dtype=float)
        treated, mean = (np.array([row[name] for row in rows]) for name in ("treated", "control_mean"))
        axes.barh(places - 0.2, treated, 0.36, color=drawing.SELECTED, label="selected neurons")
        if m:
            axes.barh(places + 0.2, mean, 0.36, color=drawing.CONTROLS, label=f"random controls (m = {m})")
            _whiskers(axes, places + 0.2, mean, rows, "control_q05", "control_q95")
        for place, row in zip(places, rows, strict=True):
            text = (
                f"{row['treated']:.3g}%  ({row['count']:,} of {row['of']:,})"
                if row["of"]
                else "no prompt could convert"
            )
            axes.text(max(row["treated"], 0) if row["of"] else 0, place - 0.2, f" {text}", va="center", ha="left")
        axes.set_yticks(places, [row["ratio"] for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        ends = [row[name] for row in rows for name in ("treated", "control_q95") if math.isfinite(row[name])]
        top = max([*ends, 1e-9])
        # Room for the counts at the right of the longest treated bar.
        room = max([row["treated"] for row in rows if math.isfinite(row["treated"])], default=0.0) + 0.62 * top
        axes.set(xlabel="prompts that convert (%)", xlim=(0, max(1.05 * top, room)))
        axes.grid(False, axis="y")
        drawing.legend(axes, columns=1)

    title = (
        "How many answers turn to a source? Of the prompts not answered from it before, those that are after; selected "
        "neurons "
        f"and, beneath, the mean of {counted(m, 'random control')} with their 5% to 95% range."
    )
    return Figure("conversion_ratios", title, columns_of(rows), paint, (COLUMN, 2.3))


def _whiskers(
    axes: Axes, places: np.ndarray, mean: np.ndarray, rows: Sequence[Mapping[str, Any]], low: str, high: str
) -> None:
    """Ranges from column ``low`` to column ``high`` across horizontal bars."""
    reach = np.array([[value - row[low], row[high] - value] for value, row in zip(mean, rows, strict=True)]).T
    axes.errorbar(
        mean, places, xerr=np.maximum(reach, 0), fmt="none", ecolor=drawing.BASELINE, elinewidth=0.8, capsize=2,
        capthick=0.8,
    )  # fmt: skip


def transition_scores(score: Measure) -> Figure:
    """Histogram of the controls' global transition scores, with the selected neurons' score and its quantile."""
    from harness.statistics import permutation_test

    found = control_histogram("global_transition_score", score.treated, score.controls, score.title, score.unit)
    quantile = permutation_test(score.treated, score.controls).quantile
    if quantile is None:
        return found
    return replace(found, title=f"{found.title[:-1]}; quantile {quantile:.1f}.")


def source_counts(treated: np.ndarray, under_controls: np.ndarray) -> Figure:
    """How many prompts are answered from each source, before and after, and after under the controls.

    Args:
        treated: counts [3, 3], sources before and after. under_controls: [m, 3, 3].
    """
    before, after, controls = treated.sum(axis=1), treated.sum(axis=0), under_controls.sum(axis=1)
    rows: list[dict[str, Any]] = [
        {
            "source": name,
            "before": int(before[i]),
            "after": int(after[i]),
            "control_mean": float(controls[:, i].mean()) if len(controls) else math.nan,
            "control_q05": float(np.quantile(controls[:, i], 0.05)) if len(controls) else math.nan,
            "control_q95": float(np.quantile(controls[:, i], 0.95)) if len(controls) else math.nan,
        }
        for i, name in enumerate(SOURCES)
    ]
    bars = [("after", "selected neurons", drawing.SELECTED)]
    if len(controls):
        bars.append(("control_mean", f"random controls (m = {len(controls)})", drawing.CONTROLS))

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        places = np.arange(len(rows), dtype=float)
        width = 0.8 / len(bars)
        moved = [
            {key: row[key] - row["before"] for key in ("after", "control_mean", "control_q05", "control_q95")}
            for row in rows
        ]
        drawing.zero_line(axes, vertical=True)
        for i, (name, text, colour) in enumerate(bars):
            at, change = places + (i - (len(bars) - 1) / 2) * width, np.array([row[name] for row in moved])
            axes.barh(at, change, 0.9 * width, color=colour, label=text)
            if name == "control_mean":
                _whiskers(axes, at, change, moved, "control_q05", "control_q95")
            for place, number, row in zip(at, change, moved, strict=True):
                ends = [row["control_q05"], row["control_q95"]] if name == "control_mean" else [number, number]
                left = number < 0
                said = f" {number:+,.0f} " if name == "after" else f" {number:+,.1f} "
                axes.text(ends[0] if left else ends[1], place, said, va="center", ha="right" if left else "left")
        named = zip(("CK: context", "PK: memory", "ND: neither"), rows, strict=True)
        axes.set_yticks(places, [f"{name}\n({row['before']:,} before)" for name, row in named])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.2)
        axes.set(xlabel="change of the number of prompts")
        axes.grid(False, axis="y")
        drawing.legend(axes, columns=1)

    title = (
        f"Do answers move to another source? How many more or fewer of {counted(int(before.sum()), 'answer', ',')} "
        "come "
        "from each, with the selected neurons treated and with random controls (mean, 5% to 95%)."
    )
    return Figure("knowledge_sources", title, columns_of(rows), paint, (COLUMN, 2.5))


def log_odds(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> Figure:
    """Densities of the log-odds between sources before and after (upper row), and of their shifts (lower row).

    Args:
        before, after: log-odds [n] in nats by their name, of the same prompts in the same order.
    """
    rows: list[dict[str, Any]] = []
    for name, odds in before.items():
        for what, values in (("log-odds", (odds, after[name])), ("shift", (after[name] - odds,))):
            grid = _grid(np.concatenate(values), trim=0.0 if what == "log-odds" else 0.005)
            first, second = (_density(x, grid) for x in (values[0], values[-1]))
            rows += [
                {"pair": name, "what": what, "x": x, "before": a if what == "log-odds" else math.nan, "after": b}
                for x, a, b in zip(grid.tolist(), first.tolist(), second.tolist(), strict=True)
            ]
    n = len(next(iter(before.values())))
    shown = ("shift",) if all(_coincide(odds, after[name]) for name, odds in before.items()) else ("log-odds", "shift")

    def paint(canvas: Canvas) -> None:
        panels = canvas.subplots(len(shown), len(before), squeeze=False)
        for column, name in enumerate(before):
            for line, what in enumerate(shown):
                axes: Axes = panels[line, column]
                same = [row for row in rows if row["pair"] == name and row["what"] == what]
                x = [row["x"] for row in same]
                drawing.zero_line(axes, vertical=True)
                if what == "log-odds":
                    axes.plot(x, [row["before"] for row in same], color=drawing.BASELINE, label="untouched")
                style = {"color": drawing.SELECTED, "linestyle": (0, (4, 1.5))}
                text = "selected neurons treated"
                axes.plot(
                    x,
                    [row["after"] for row in same],
                    **(style if what == "log-odds" else {"color": drawing.SELECTED}),
                    label=text,
                )
                axes.set(
                    xlabel=_subscripts(f"{name} (nats)" if what == "log-odds" else f"shift of {name} (nats)"),
                    ylim=(0, None),
                )
                if what == "shift":
                    shift = after[name] - before[name]
                    mean = float(shift.mean()) if n else math.nan
                    axes.axvline(mean, color=drawing.BASELINE, linestyle=(0, (3, 2)), linewidth=0.7)
                    axes.set_title(f"mean {mean:+.3g} nats")
                if not any(math.isfinite(row["after"]) for row in same):
                    axes.text(0.5, 0.5, "all values alike", transform=axes.transAxes, ha="center", va="center")
                if column == 0:
                    axes.set_ylabel("density")
                if what == "log-odds" and column == 0:
                    drawing.legend(axes, columns=2)

    title = (
        "Do the odds between the sources shift? Log-odds between their first tokens over "
        f"{counted(n, 'prompt', ',')}, in "
        "nats: densities before and after (above), and of their shifts (below; the outermost 1% not drawn; dashed: "
        "mean)."
    )
    if shown == ("shift",):
        title = (
            f"Do the odds between the sources shift? Densities of the shifts over {counted(n, 'prompt', ',')}, in "
            "nats (the "
            "outermost 1% not drawn; dashed: mean); the log-odds themselves lie on each other before and after and "
            "are not "
            "drawn."
        )
    return Figure("log_odds", title, columns_of(rows), paint, (PAGE, 3.4 if len(shown) > 1 else 1.8))


def _coincide(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether two densities would be one line: the values spread over more than ten times what they shift."""
    return len(before) > 1 and float(np.abs(after - before).mean()) < 0.1 * float(before.std())


def _subscripts(text: str) -> str:
    """``P_CK`` as it is printed."""
    return re.sub(r"P_([A-Z]+)", r"P$_{\1}$", text)


def _grid(values: np.ndarray, trim: float) -> np.ndarray:
    """Where a density is evaluated: the range of the values, without a share ``trim`` at each end."""
    if not len(values):
        return np.zeros(GRID)
    low, high = np.quantile(values, [trim, 1 - trim])
    margin = 0.05 * (high - low) or 1.0
    return np.linspace(low - margin, high + margin, GRID)


def _density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Gaussian kernel density (Scott's bandwidth); NaN where the values have no spread."""
    from scipy.stats import gaussian_kde

    values = values.astype(np.float64)
    if len(values) < 2 or np.ptp(values) < 1e-9:
        return np.full(len(grid), np.nan)
    return np.asarray(gaussian_kde(values)(grid))


def group_bars(columns: Mapping[str, Any], by: str) -> Figure:
    """The measures of each group of relations with their intervals, beside the mean and range of the controls.

    Args:
        columns: of the table ``relation_groups``. by: what a row is, "group" or "relation".
    """
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    titles = list(dict.fromkeys(row["measure"] for row in rows))
    groups = list(dict.fromkeys(row["group"] for row in rows))
    nan = {"value", "ci_low", "ci_high", "control_mean", "control_q05", "control_q95"}
    rows = [{k: math.nan if k in nan and v is None else v for k, v in row.items()} for row in rows]

    def column(title: str, name: str) -> np.ndarray:
        return np.array([row[name] for row in rows if row["measure"] == title], dtype=float)

    spans = {
        title: drawing.span_without_outlier(
            np.fmin(column(title, "ci_low"), column(title, "control_q05")),
            np.fmax(column(title, "ci_high"), column(title, "control_q95")),
        )
        for title in titles
    }

    def paint(canvas: Canvas) -> None:
        panels = canvas.subplots(1, len(titles), squeeze=False, sharey=True)[0]
        places = np.arange(len(groups), dtype=float)
        for axes, title in zip(panels, titles, strict=True):
            same = [row for row in rows if row["measure"] == title]
            mean, value = (np.array([row[name] for row in same], dtype=float) for name in ("control_mean", "value"))
            drawing.zero_line(axes, vertical=True)
            axes.barh(places, mean, 0.6, color=drawing.CONTROLS, alpha=0.75, label="random controls: mean, 5% to 95%")
            _whiskers(axes, places, mean, same, "control_q05", "control_q95")
            ends = np.array([[row["value"] - row["ci_low"], row["ci_high"] - row["value"]] for row in same]).T
            axes.errorbar(
                value, places, xerr=np.maximum(ends, 0), fmt="D", color=drawing.SELECTED, markeredgecolor=drawing.BLACK,
                markeredgewidth=0.6, markersize=4, elinewidth=1.2, capsize=0, zorder=4,
                clip_on=spans[title] is not None, label="selected neurons: 95% interval",
            )  # fmt: skip
            axes.set(xlabel=f"{title} ({same[0]['unit']})")
            axes.locator_params(axis="x", nbins=4)
            if (span := spans[title]) is not None:
                axes.set_xlim(min(span[0], 0.0), max(span[1], 0.0))
            axes.grid(False, axis="y")
        counts = {row["group"]: row["facts"] for row in rows}
        panels[0].set_yticks(places, [harmless.figure(f"{group} ({counts[group]})") for group in groups])
        panels[0].set_ylim(len(groups) - 0.5, -0.5)
        drawing.legend(panels[0], columns=1)

    title = (
        f"Is it the same in every {by}? By {by} of the relations (number of facts in brackets): selected neurons "
        "with 95% "
        "intervals over facts, and the random controls."
    )
    if any(spans.values()):
        title += " An interval that would set the scale alone runs off it."
    height = 1.2 + 0.2 * len(groups)
    return Figure(f"by_{by}", title, dict(columns), paint, (PAGE, min(height, 8.0)))


def logit_var_rho(names: Sequence[str], logit_var: np.ndarray, rho: np.ndarray, selected: np.ndarray) -> Figure:
    """The null-space share rho of all neurons against their LogitVar, [n] each; the selected ones are named."""
    shown = drawing.drawable(logit_var, log=True) & drawing.drawable(rho)
    k = int(selected.sum())
    floor = drawing.log_floor(logit_var)
    values = logit_var if floor is None else np.maximum(logit_var, floor)

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        axes.set(xlabel=r"share of the norm in the null space, $\rho$", ylabel="LogitVar", yscale="log")
        rest, chosen = shown & ~selected, np.flatnonzero(shown & selected).tolist()
        drawing.points(axes, rho[rest], values[rest])
        drawing.highlights(axes, rho[chosen], values[chosen])
        share = f"(k = {k}, {100 * k / len(names):.2g}% of N = {len(names):,})"
        drawing.swatches(axes, ("other neurons", drawing.OTHERS, False), (f"selected {share}", drawing.SELECTED, True))
        cloud = np.column_stack([rho[rest], values[rest]])
        drawing.label(axes, rho[chosen], values[chosen], [names[i] for i in chosen], cloud)

    title = (
        "Are the selected neurons entropy neurons? Null-space share and LogitVar of "
        f"{counted(len(names), 'neuron', ',')}, "
        f"{k} selected: entropy neurons lie at the lower right."
    )
    if floor is not None:
        below = int((logit_var[shown] < floor).sum())
        title += f" LogitVar below {floor:.1g} ({below}) is rounding and drawn at the edge."
    data: dict[str, Any] = {"neuron": list(names), "selected": selected, "rho": rho, "logit_var": logit_var}
    return Figure("logit_var_rho", title, data, paint, (COLUMN, 2.7))


def norm_distribution(norm: np.ndarray, selected: np.ndarray) -> Figure:
    """Histogram of the norms of all neurons' output weights [n], with the selected ones marked."""
    known = norm[np.isfinite(norm)]
    edges = bin_edges(known)
    counts, _ = np.histogram(known, edges)

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        axes.bar(
            edges[:-1], counts, np.diff(edges), align="edge", color=drawing.OTHERS, edgecolor="white", linewidth=0.3,
            log=True,
        )  # fmt: skip
        chosen = norm[selected & np.isfinite(norm)]
        down = axes.get_xaxis_transform()
        axes.vlines(chosen, 0, 0.96, transform=down, color=drawing.SELECTED, linewidth=0.7)
        axes.scatter(
            chosen, np.full(len(chosen), 0.96), transform=down, c=drawing.SELECTED, s=22, marker="D",
            edgecolors=drawing.BLACK, linewidths=0.6, clip_on=False, zorder=4,
        )  # fmt: skip
        axes.grid(False, axis="x")
        axes.set(xlabel="norm of the output weights", ylabel="neurons (log scale)")
        drawing.swatches(
            axes,
            (f"all neurons (N = {len(norm):,})", drawing.OTHERS, False),
            (f"selected (k = {int(selected.sum())})", drawing.SELECTED, True),
        )

    k = int(selected.sum())
    title = (
        f"Are the selected neurons larger than others? Norms of the output weights of "
        f"{counted(len(norm), 'neuron', ',')}, the {k} selected marked."
    )
    data = {"norm": norm, "selected": selected}
    return Figure("weight_norms", title, data, paint, (COLUMN, 2.2))
