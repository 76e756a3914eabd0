"""Is the confidence right? Before and after, for tasks whose predictions are right or wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.files.wording import counted, plural
from harness.plugin.components import Metric
from harness.plugin.records import Figure, Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from harness.plugin.records import Outcomes, Rows
    from harness.statistics import AnyMeasure, Each, Functional

BINS = 15
"""Equal bins of confidence, as in Guo et al. (2017)."""


class Calibration(Metric):
    """Is the confidence right? Expected calibration error, Brier score and AUROC of the predicted token's probability.

    Calibration error: over 15 equal bins of confidence (Guo et al. 2017). AUROC: how often a right prediction is more
    confident than a wrong one, confidence in 50 bins. Brier: mean squared difference of confidence and being right.

    A task says of each prompt how many of its predictions count (``tokens``), and sums over these: ``confidence`` and
    ``right``. Where there are several, also ``brier``, ``reliability`` and ``confidences``, as the functions of
    :mod:`harness.statistics.functionals` give them; where there is one at most, its details say what is predicted:
    ``{"calibrated": {"word": "answer", "note": "what confidence and right are, in a sentence"}}``. Of these there is no
    AUROC, and the calibration error is beside the family of tests.
    """

    name = "calibration"
    needs = frozenset({"tokens", "confidence", "right"})

    def measure(self, outcomes: Outcomes) -> Measurement:
        about = outcomes.details.get("calibrated", {})
        brier = outcomes.each(lambda seen: squared_errors(outcomes, seen))
        measures = (
            *(_of_sums(outcomes) if "reliability" in outcomes.values else [_of_one(outcomes)]),
            _mean(outcomes, "brier", brier, "Brier score of the predicted token", False),
            _mean(outcomes, "confidence", outcomes["confidence"], "confidence"),
            _mean(outcomes, "right", outcomes["right"], "accuracy", True),
        )
        sums, word = _reliability(outcomes), about.get("word", "token")
        remarks = [f"calibration: {about['note']}"] if "note" in about else []
        if same := _same(sums, word):
            remarks.append(same)
        figures = () if same else (_drawn(sums, word),)
        return Measurement(measures, figures=figures, remarks=tuple(remarks))


def squared_errors(outcomes: Outcomes, seen: Rows, tempered: bool = False) -> np.ndarray:
    """Sums over predictions of the squared difference of confidence and being right, under some conditions [C, N].

    Args:
        tempered: of the untouched model, which is right where it is, at the conditions' temperatures.
    """
    prefix = "tempered_" if tempered else ""
    if f"{prefix}brier" in outcomes.values:
        return seen[f"{prefix}brier"]
    right = outcomes.baseline["right"] if tempered else seen["right"]
    found: np.ndarray = (seen[f"{prefix}confidence"] - right) ** 2
    return found


def _of_sums(outcomes: Outcomes) -> tuple[AnyMeasure, ...]:
    """Calibration error and AUROC of prompts with many predictions."""
    from harness.statistics.functionals import auroc, expected_calibration_error

    return (
        _error(outcomes, outcomes["reliability"], expected_calibration_error, primary=True),
        _functional(outcomes, "auroc", "AUROC of confidence", outcomes["confidences"], auroc, higher_is_better=True),
    )


def _of_one(outcomes: Outcomes) -> AnyMeasure:
    """Calibration error of prompts with one prediction at most."""
    from harness.statistics.functionals import error_of_gaps, gaps

    terms = outcomes.each(lambda seen: gaps(seen["confidence"], seen["right"], seen["tokens"], BINS))
    return _error(outcomes, terms, error_of_gaps, few=True)


def _error(outcomes: Outcomes, terms: np.ndarray | Each, function: Any, **rest: Any) -> Functional:
    return _functional(
        outcomes,
        "ece",
        "expected calibration error",
        terms,
        function,
        higher_is_better=False,
        description=f"mean |accuracy - confidence| over {BINS} bins of confidence",
        **rest,
    )


def _functional(
    outcomes: Outcomes, name: str, title: str, terms: np.ndarray | Each, function: Any, **rest: Any
) -> Functional:
    """A measure of sums; no effect is what the untouched model has."""
    from harness.statistics import Functional

    [row] = outcomes.rows("baseline")
    before = float(function(terms[row].sum(axis=0, dtype=np.float64)))
    return Functional(name, title, "share", terms, function, null=before if np.isfinite(before) else 0.0, **rest)


def _mean(
    outcomes: Outcomes, name: str, values: np.ndarray | Each, title: str, better: bool | None = None
) -> AnyMeasure:
    """A mean over predictions; no effect is what the untouched model has."""
    from harness.statistics import Measure

    [row] = outcomes.rows("baseline")
    n = outcomes["tokens"]
    before = float(values[row].sum() / n[row].sum()) if n[row].any() else 0.0
    return Measure(name, title, "share", values, n, higher_is_better=better, null=before)


def _reliability(outcomes: Outcomes) -> np.ndarray:
    """Sums in the bins before and after [2, 3 * BINS]."""
    from harness.statistics.functionals import reliability

    rows = outcomes.of("baseline", "treated")
    if "reliability" in outcomes.values:
        found: np.ndarray = rows["reliability"].sum(axis=1, dtype=np.float64)
        return found
    there = rows["tokens"][0] > 0
    confidence, right = (rows[name][:, there] for name in ("confidence", "right"))
    group = np.zeros(int(there.sum()), int)
    return reliability(confidence, right, group, 1, BINS)[:, 0].astype(np.float64)


ALIKE = 0.005
"""Two curves that are nowhere further apart are one line."""


def _same(sums: np.ndarray, word: str) -> str:
    """Why the figure of calibration is not drawn, where before and after would lie on each other; else nothing.

    Args:
        sums: [2, 3 * BINS], as :func:`_reliability` gives them.
    """
    n, *means = np.split(sums, 3, axis=1)
    told = n.min(axis=0) > 0.005 * n.sum(axis=1).max()
    moved = np.abs(n[1] - n[0]).max() / max(n.sum(axis=1).max(), 1)
    if not told.any() or moved > ALIKE:
        return ""
    apart = max(float(np.abs(np.diff(x[:, told] / n[:, told], axis=0)).max()) for x in means)
    if apart > ALIKE:
        return ""
    return (
        f"calibration is not drawn: confidence and accuracy are the same before and after, to {ALIKE:g} in every bin "
        "with "
        f"more than 0.5% of the {plural(word)}"
    )


def _drawn(sums: np.ndarray, word: str) -> Figure:
    n, confidence, right = np.split(sums, 3, axis=1)
    filled = np.where(n > 0, n, np.nan)
    return diagram(np.linspace(0, 1, n.shape[1] + 1), confidence / filled, right / filled, n, word)


def diagram(
    edges: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray, counts: np.ndarray, word: str = "token"
) -> Figure:
    """Calibration before and after: accuracy by confidence, and how many predictions have which confidence.

    ECE = sum over bins of (predictions in it / all predictions) |accuracy - mean confidence|.

    Args:
        edges: [b + 1] of the bins of confidence, the largest predicted probability. confidence, accuracy, counts:
            [2, b], before and after, their means and the number of predictions in each bin (NaN and 0 in empty ones).
        word: what is predicted.
    """
    confidence, accuracy, counts = (np.asarray(x, dtype=float) for x in (confidence, accuracy, counts))
    b = len(edges) - 1
    if not confidence.shape == accuracy.shape == counts.shape == (2, b):
        given = [x.shape for x in (confidence, accuracy, counts)]
        raise ValueError(f"figure reliability: arrays of {given}, expected {(2, b)} for {b} bins")
    filled = counts > 0
    gaps = np.where(filled, counts * np.abs(accuracy - confidence), 0)
    ece = gaps.sum(axis=1) / np.maximum(counts.sum(axis=1), 1)
    caption = (
        "Is the model as sure as it should be, before and after? Accuracy less confidence by confidence "
        f"({counted(int(counts[0].sum()), word, ',')}, {b} bins; above 0 it is too unsure); "
        f"expected calibration error {ece[0]:.4f} before, {ece[1]:.4f} after."
    )

    def paint(canvas: Canvas) -> None:
        from matplotlib.ticker import LogLocator, NullFormatter

        from harness.plotting import shapes

        rows = (("before", shapes.BASELINE, "-", "o"), ("after", shapes.SELECTED, (0, (5, 1.5)), "D"))
        top, lower = canvas.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        shapes.zero_line(top)
        for row, (text, colour, dashes, marker) in enumerate(rows):
            kept = filled[row]
            style: dict[str, Any] = {"color": colour, "linestyle": dashes}
            text = f"{text} (ECE {ece[row]:.3f})"
            gap = accuracy[row][kept] - confidence[row][kept]
            top.plot(confidence[row][kept], gap, marker=marker, label=text, **style)
            lower.stairs(counts[row], edges, linewidth=1.2, **style)
        top.set(ylabel="accuracy less confidence")
        lower.set(xlabel="confidence (largest probability)", ylabel=plural(word), xlim=(edges[0], edges[-1]))
        if counts.max() > 0:
            lower.set_yscale("log")
            low, high = lower.set_ylim(max(0.8, 0.6 * counts[filled].min()), 2.5 * counts.max())
            if high < 100 * low:  # in so low a panel, powers of ten with factors lie on each other
                lower.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
                lower.yaxis.set_major_formatter("{x:g}")
                lower.yaxis.set_minor_formatter(NullFormatter())
        shapes.legend(top)

    data: dict[str, Any] = {
        "condition": np.repeat(["before", "after"], b),
        "bin_low": np.tile(edges[:-1], 2),
        "bin_high": np.tile(edges[1:], 2),
        "confidence": np.where(filled, confidence, np.nan).ravel(),
        "accuracy": np.where(filled, accuracy, np.nan).ravel(),
        plural(word): counts.ravel().astype(int),
    }
    return Figure("reliability", caption, data, paint, (3.35, 3.2))
