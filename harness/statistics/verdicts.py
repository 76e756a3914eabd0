"""A measure in one record, and what it says in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.statistics.bootstrap import Interval, binomial_interval, both_intervals
from harness.statistics.measure import AnyMeasure, Measure, finite
from harness.statistics.permutation import PermutationTest, control_summary, effect_sizes, permutation_test
from harness.statistics.tables import MIN_CHANGED
from harness.wording import counted, only


@dataclass(frozen=True)
class MeasureSummary:
    """Everything that is reported of a measure; None where undefined.

    ``count``: events under treatment, where the measure counts; ``denominator``: what they are counted among.
    ``n_changed``: prompts that the treatment changed; ``n_changed_controls``: the same, mean over the controls.
    ``interval``: of the treated value; ``difference_interval``: of treated minus the mean of the controls.
    """

    name: str
    title: str
    unit: str
    description: str
    higher_is_better: bool | None
    primary: bool
    null: float
    baseline: float | None
    value: float | None
    count: int | None
    denominator: float | None
    n_changed: int
    n_changed_controls: float | None
    interval: Interval | None
    controls: dict[str, float | int | None] | None
    test: PermutationTest
    effects: dict[str, float | None]
    difference_interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """JSON values; intervals and test are flattened: ``ci_low``, ``difference_high``, ``p_two_sided``, ``m`` ..."""
        row = asdict(self)
        for key, prefix in (("interval", "ci"), ("difference_interval", "difference")):
            found = row.pop(key) or {}
            row |= {f"{prefix}_{name}": found.get(name) for name in ("low", "high", "level", "method", "undefined")}
        return row | row.pop("test")


def summarise(
    measure: AnyMeasure, clusters: np.ndarray, seed: int, resamples: int = 2000, level: float = 0.95
) -> MeasureSummary:
    """Values, interval over prompts, controls, test and effect sizes of one measure.

    Of a count without a single event (or with nothing else) every resample is alike; its interval is Clopper-Pearson's
    with clusters as trials, which for 0 of n is close to the rule of three.
    """
    values, changed = measure.values, measure.changed
    treated, controls = float(values[1]), values[2:]
    interval, difference_interval = both_intervals(measure, clusters, seed, resamples, level)
    counting = len(np.unique(clusters[measure.counting]))
    if counting < 2:
        interval = None  # a single cluster has no spread to resample
    events = trials = None
    if isinstance(measure, Measure):
        events, trials = float(measure.numerator[1].sum()), float(measure.denominator[1].sum())
    if isinstance(measure, Measure) and measure.is_count and trials and events in (0, trials):
        low, high = binomial_interval(counting if events else 0, counting, "clopper-pearson", level) or (0.0, 1.0)
        interval = Interval(measure.scale * low, measure.scale * high, level, "Clopper-Pearson, clusters as trials")
    return MeasureSummary(
        name=measure.name,
        title=measure.title,
        unit=measure.unit,
        description=measure.description,
        higher_is_better=measure.higher_is_better,
        primary=measure.primary,
        null=measure.null,
        baseline=finite(values[0]),
        value=finite(treated),
        count=int(events) if measure.is_count and events is not None else None,
        denominator=trials,
        n_changed=int(changed[1]),
        n_changed_controls=float(changed[2:].mean()) if len(controls) else None,
        interval=interval,
        controls=control_summary(controls) if len(controls) else None,
        test=permutation_test(treated, controls),
        effects=effect_sizes(treated, controls),
        difference_interval=difference_interval,
    )


@dataclass(frozen=True)
class Verdict:
    word: str
    """"supported", "less than random neurons", "not distinguishable from random neurons", "underpowered" or "model
    broken"."""
    sentence: str


def verdict(
    summary: MeasureSummary,
    p_adjusted: float | None,
    alpha: float = 0.05,
    n_changed: int | None = None,
    broken: str | None = None,
    selected: str = "the selected neurons",
) -> Verdict:
    """What a measure says, decided by rule; the first that applies:

    1. "model broken": ``broken`` says why.
    2. "underpowered": no value; fewer than 10 prompts changed, both under treatment and under the average control; or
       too few controls: 2 / (m + 1) >= alpha, or the value lies beyond all of them and the adjusted p is >= alpha yet.
    3. "supported": adjusted p < alpha, and the interval of treated minus controls lies on the tested side of 0;
       "less than random neurons" when the treated value is then nearer to no effect than the controls' mean.
    4. "not distinguishable from random neurons".

    ``n_changed`` replaces the number of changed prompts that the summary counted; ``selected``: what was treated, in
    words.
    """
    test, interval, floor = summary.test, summary.difference_interval, 2 / (summary.test.m + 1)
    changed = round(max(summary.n_changed, summary.n_changed_controls or 0)) if n_changed is None else n_changed

    def say(word: str, why: str) -> Verdict:
        return Verdict(word, f"{why[0].upper()}{why[1:]}.")

    if broken is not None:
        return say("model broken", f"not interpreted, because the model is broken: {broken.rstrip('.')}")
    if summary.value is None:
        return say("underpowered", "no value, because no prompt counts towards it")
    if changed < MIN_CHANGED:
        return say(
            "underpowered",
            f"{only(changed, 'prompt')} changed, fewer than the {MIN_CHANGED} that a verdict needs",
        )
    if floor >= alpha or test.p_two_sided is None or p_adjusted is None or summary.controls is None:
        return say(
            "underpowered",
            f"{counted(test.m, 'random set')} cannot give p < {alpha:g}; it takes {int(2 / alpha)} or more",
        )
    unit = {"%": "%", "share": "", "": ""}.get(summary.unit, f" {summary.unit}")
    mean = summary.controls["mean"]
    assert mean is not None
    numbers = (
        f"{summary.value:.3g}{unit} with {selected}, {mean:.3g}{unit} on average over "
        f"{counted(test.m, 'random set')} "
        f"(adjusted p = {p_adjusted:.2g}"
    )
    apart = False
    if interval is not None:
        numbers += f"; difference {interval.low:.3g} to {interval.high:.3g}, {interval.level:.0%} interval"
        apart = interval.low > 0 if test.b_greater < test.b_less else interval.high < 0
    numbers += ")"
    if apart and p_adjusted < alpha:
        if abs(summary.value - summary.null) < abs(mean - summary.null):
            return say("less than random neurons", numbers)
        return say("supported", numbers)
    if apart and min(test.b_greater, test.b_less) == 0:
        return say("underpowered", f"{numbers}: beyond every random set, but too few sets for the number of measures")
    return say("not distinguishable from random neurons", numbers)
