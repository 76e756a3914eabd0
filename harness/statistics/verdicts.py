"""What a primary measure says in words, decided by rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from harness.files.wording import agree, apart, counted
from harness.statistics.bootstrap import Interval
from harness.statistics.permutation import ROUNDING
from harness.statistics.power import SETS, Needed, detectable, needed
from harness.statistics.stepdown import ALPHA, critical_rank, step_down_min_p
from harness.statistics.summary import MeasureSummary

Word = Literal[
    "more than random",
    "less than random",
    "opposite direction",
    "no more than d apart",
    "inconclusive",
    "cannot tell",
    "model broken",
]
VERDICTS: tuple[Word, ...] = get_args(Word)

MARGIN = 2.0
"""The margin d of a measure for which the user names none, in standard deviations of the control sets."""


@dataclass(frozen=True)
class Family:
    """The primary measures of a run, judged by the control sets that they share.

    Attributes:
        p: adjusted p of each measure (:func:`harness.statistics.stepdown.step_down_min_p`); None where it has none.
        rows: M, the control sets and the treated one. smallest: 1 / M, the smallest p there can be.
        moving: measures that are not the same in every control set. rank: what a value must lie beyond to be found.
    """

    p: tuple[float | None, ...]
    rows: int
    moving: int
    rank: int
    alpha: float = ALPHA

    @property
    def smallest(self) -> float:
        return 1 / self.rows


def family_of(treated: Sequence[float], controls: np.ndarray, null: Sequence[float], alpha: float = ALPHA) -> Family:
    """Judge k measures together; treated and null: [k], controls: [k, m] (NaN where a set has no value)."""
    values, around = np.asarray(treated, np.float64), np.asarray(null, np.float64)
    spread = [len(set(row[~np.isnan(row)].tolist())) > 1 for row in controls]
    adjusted = step_down_min_p(values, controls, around)
    rank = critical_rank(controls, alpha, around)
    return Family(tuple(adjusted), controls.shape[1] + 1, sum(spread), rank, alpha)


@dataclass(frozen=True)
class Verdict:
    """What a measure says.

    Attributes:
        margin: d, in the measure's unit; None where the controls have no spread and the user named none.
        detectable: distances above and below the controls' mean that about 75% of such runs find.
        half: clusters and control sets with which half of that would be found, if any would do.
    """

    word: Word
    sentence: str
    margin: float | None = None
    detectable: tuple[float, float] | None = None
    half: Needed | None = None


@dataclass(frozen=True)
class Circumstances:
    """What a verdict depends on beside the numbers of its measure.

    Attributes:
        broken: why nothing is interpreted. blocked: why the controls are none for these neurons.
        selected: what was treated, in words. margin: the user's d.
        items_per_cluster: of the task's data, for each cluster that is evaluated. limited: ``--limit`` left some out.
    """

    broken: str | None = None
    blocked: str | None = None
    selected: str = "the selected neurons"
    margin: float | None = None
    items_per_cluster: float = 1.0
    limited: bool = True


def verdict(summary: MeasureSummary, family: Family, place: int, around: Circumstances = Circumstances()) -> Verdict:
    """The first that applies:

    1. "model broken": the task says that the treated model no longer does it.
    2. "cannot tell": no value; no controls; all sets alike, the treated one too; 1 / (m + 1) > alpha, so that no value
       could be found; or one cluster alone counts, which says nothing of others.
    3. Adjusted p <= alpha: "more than random"; "less than random" where the value lies between no effect and the mean
       of the controls; "opposite direction" where it lies on the other side of no effect than they do. Where matched
       controls do not match, none of these is said but "cannot tell".
    4. "no more than d apart": the 90% interval of treated minus the mean of the controls lies within +-d: two one-sided
       tests at 5% (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15, 657-680).
    5. "inconclusive", with what would have been found.

    Args:
        place: of the measure in the family.
    """
    adjusted, alpha = family.p[place], family.alpha
    margin = around.margin if around.margin is not None else _margin(summary)
    if around.broken is not None:
        return _say("model broken", f"not interpreted, because the model is broken: {around.broken.rstrip('.')}")
    why = _nothing(summary, family)
    if why is not None:
        return _say("cannot tell", why)
    assert adjusted is not None and summary.value is not None and summary.controls is not None
    found = would_be_found(summary, family)
    half = _half(summary, family, found)
    rest = Verdict("inconclusive", "", margin, found, half)
    numbers = _numbers(summary, family, adjusted, around.selected, summary.difference_interval)
    if adjusted <= alpha:
        if around.blocked:
            why = around.blocked[:1].lower() + around.blocked[1:].rstrip(".")
            return _say("cannot tell", f"{numbers}; but {why}", rest)
        return _say(_direction(summary), numbers, rest)
    tail = _smaller(summary, alpha)
    within = summary.equivalence_interval
    if within is not None and margin is not None and -margin <= within.low and within.high <= margin:
        own = "" if around.margin is not None else f", {MARGIN:g} sd of the random sets"
        numbers = _numbers(summary, family, adjusted, around.selected, within)
        return _say("no more than d apart", f"{numbers}, within d = {margin:.3g}{apart(summary.unit)}{own}{tail}", rest)
    return _say("inconclusive", numbers + tail + _would(summary, found, half, around), rest)


def _say(word: Word, why: str, rest: Verdict | None = None) -> Verdict:
    return replace(rest or Verdict(word, ""), word=word, sentence=f"{why[0].upper()}{why[1:]}.")


def _nothing(summary: MeasureSummary, family: Family) -> str | None:
    """Why nothing can be told, whatever the value is."""
    sets = counted(family.rows - 1, "random set")
    if summary.value is None:
        return "no value, because " + ("it is undefined here" if summary.n_clusters else "no prompt counts towards it")
    if summary.test.m == 0 or summary.controls is None or summary.controls["mean"] is None:
        return "there are no controls to compare with"
    if 1 / (summary.test.m + 1) > family.alpha:
        least = math.ceil(1 / family.alpha - 1e-9) - 1
        with_value = f"{sets}, of which {summary.test.m} {agree(summary.test.m, 'has', 'have')} a value,"
        return (
            f"{with_value if summary.test.n_nan else sets} cannot give p <= {family.alpha:g}; it takes {least} or more"
        )
    if summary.n_clusters < 2:
        return f"{summary.value:.3g}{_unit(summary)}, but one independent item alone counts: it says nothing of others"
    if summary.alike:
        return f"{summary.value:.3g}{_unit(summary)}, and the same in all of the {sets}"
    return None


def _direction(summary: MeasureSummary) -> Word:
    """Which side of the controls, seen from no effect."""
    assert summary.value is not None and summary.controls is not None
    mean, low, high = (summary.controls[name] for name in ("mean", "q05", "q95"))
    assert mean is not None and low is not None and high is not None
    null = summary.null
    if not np.isfinite(null):  # no value means no effect: higher is more
        return "more than random" if summary.value > mean else "less than random"
    value, controls = summary.value - null, mean - null
    if abs(value) <= ROUNDING * max(1.0, abs(null)):
        return "less than random"
    if value * controls < 0:
        # Controls that scatter around no effect have no direction that one could be opposite to.
        one_sided = (low - null) * (high - null) > 0
        return "opposite direction" if one_sided or abs(value) < abs(controls) else "more than random"
    return "less than random" if abs(value) < abs(controls) else "more than random"


def _margin(summary: MeasureSummary) -> float | None:
    sd = summary.controls["sd"] if summary.controls else None
    return MARGIN * sd if sd else None


def would_be_found(summary: MeasureSummary, family: Family) -> tuple[float, float] | None:
    """How far above, and below, the controls' mean a value must lie that about 75% of such runs find.

    The 80% quantile, over resamples, of the critical controls' distances from the mean; else the normal formula. Where
    all controls have to be outdone it is the larger of the two: beyond them the distance decides.
    """
    near = min(summary.critical, key=lambda rank: (abs(rank - family.rank), rank), default=None)
    sides = None if near is None or not np.isfinite(summary.critical[near]).all() else summary.critical[near]
    if summary.spread is None or (sides is not None and family.rank > 1):
        return sides
    found = detectable(summary.spread, summary.n_clusters, family.rows - 1, family.moving, family.alpha)
    if not math.isfinite(found):
        return None
    return (found, found) if sides is None else (max(sides[0], found), max(sides[1], found))


def reach(summary: MeasureSummary, family: Family) -> tuple[float, float] | None:
    """How many times as far as normal control sets of this spread these reach: what would be found above, and below,
    over what :func:`harness.statistics.power.detectable` says; None where either is not known."""
    sides = would_be_found(summary, family)
    if sides is None or summary.spread is None:
        return None
    normal = detectable(summary.spread, summary.n_clusters, family.rows - 1, family.moving, family.alpha)
    return (sides[0] / normal, sides[1] / normal) if math.isfinite(normal) and normal > 0 else None


def reachable(found: tuple[float, float], mean: float, unit: str, share: bool) -> tuple[float | None, float | None]:
    """The distances above and below ``mean`` that there can be: a share lies between 0 and its whole."""
    if not share:
        return found
    above, below = found
    room = (100.0 if unit == "%" else 1.0) - mean
    return above if above <= room + ROUNDING else None, below if below <= mean + ROUNDING else None


def _half(summary: MeasureSummary, family: Family, sides: tuple[float, float] | None) -> Needed | None:
    """What would find half of what this run would have found, on either side."""
    times = reach(summary, family)
    if sides is None or times is None or summary.spread is None or (found := max(sides)) <= 0:
        return None
    controls = family.rows - 1
    sets = sorted({controls, *(n for n in SETS if n >= controls)})
    return needed(summary.spread, found / 2, family.moving, family.alpha, sets, max(times))


def _would(
    summary: MeasureSummary, found: tuple[float, float] | None, half: Needed | None, around: Circumstances
) -> str:
    """What an inconclusive run would have found, and what a larger one would."""
    if found is None:
        return ""
    assert summary.controls is not None and summary.controls["mean"] is not None
    sides = reachable(found, summary.controls["mean"], summary.unit, summary.design_effect is not None)
    above, below = (f"{side:.3g}{apart(summary.unit)}" for side in found)
    where = {
        (True, True): f"{above} above or {below} below the mean of random sets",
        (True, False): f"{above} above the mean of random sets (no share lies far enough below it)",
        (False, True): f"{below} below the mean of random sets (no share lies far enough above it)",
        (False, False): f"{above} above or {below} below the mean of random sets (no share does)",
    }
    said = f"; about 75% of such runs find what lies {where[sides[0] is not None, sides[1] is not None]}"
    if half is None:
        return f"{said}, and no number of prompts finds half of that, because random sets themselves differ so much"
    items = math.ceil(half.clusters * around.items_per_cluster)
    data = f"--limit {items}" if around.limited else f"{counted(items, 'item')} of data"
    return f"{said}; half of that would take {data} and --controls {half.controls}"


def _smaller(summary: MeasureSummary, alpha: float) -> str:
    """Told of a value that is on no side: its distance from no effect may be small all the same."""
    p, quantile = summary.magnitude.p_less, summary.magnitude.quantile
    if p is None or quantile is None or 2 * p > alpha:
        return ""
    return f"; it lies nearer to no effect than {100 - quantile:.0f}% of the random sets (p = {2 * p:.2g}, uncorrected)"


def _numbers(summary: MeasureSummary, family: Family, adjusted: float, selected: str, interval: Interval | None) -> str:
    """Value, controls, adjusted p, and the difference with one of its intervals."""
    assert summary.controls is not None
    mean, unit = summary.controls["mean"], _unit(summary)
    told = (
        f"{summary.value:.3g}{unit} with {selected}, {mean:.3g}{unit} on average over "
        f"{counted(family.rows - 1, 'random set')} (adjusted p = {adjusted:.2g}"
    )
    if interval is not None:
        told += f"; difference {interval.low:.3g} to {interval.high:.3g}{apart(summary.unit)}"
        told += f", {interval.level:.0%} interval over prompts"
    return told + ")"


def _unit(summary: MeasureSummary) -> str:
    return {"%": "%", "share": "", "": ""}.get(summary.unit, f" {summary.unit}")
