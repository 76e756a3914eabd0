"""A measure in one record: values, intervals over prompts, test against the controls, what could have been found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.statistics.bootstrap import Draws, Interval, draw
from harness.statistics.intervals import bearings, difference_interval, interval
from harness.statistics.measure import CONTROLS, TREATED, AnyMeasure, Measure, finite, known_values
from harness.statistics.permutation import PermutationTest, alike, control_summary, effect_sizes, permutation_test
from harness.statistics.power import Spread, ranks


@dataclass(frozen=True)
class MeasureSummary:
    """Everything that is known of a measure by itself; None where undefined.

    ``count``: events under treatment, where the measure counts; ``denominator``: what they are counted among.
    ``n_clusters``: clusters that count under treatment; ``design_effect``: of a share that counts, how many times its
    variance is that of independent prompts. ``n_changed``: prompts that the treatment changed; ``n_changed_controls``:
    the same, mean over the controls. ``interval``: of the treated value, over other prompts; ``difference_interval``
    and ``equivalence_interval``: of treated minus the mean of the controls, 95% and 90%. ``magnitude``: the rank of the
    distance from no effect, which shows where something does less though it is on no side. ``alike``: treated and
    controls all have one value. ``specific``: it is what a change of temperature leaves of a change. ``spread``: how
    the controls vary; ``critical``: for some ranks, how far the controls of this rank lie above and below the mean at
    most, in 80% of resamples.
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
    n_clusters: int
    design_effect: float | None
    n_changed: int
    n_changed_controls: float | None
    interval: Interval | None
    controls: dict[str, float | int | None] | None
    test: PermutationTest
    magnitude: PermutationTest
    effects: dict[str, float | None]
    difference_interval: Interval | None
    equivalence_interval: Interval | None
    alike: bool
    specific: bool
    spread: Spread | None
    critical: Mapping[int, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """JSON values; intervals and test are flattened: ``ci_low``, ``difference_high``, ``p_two_sided``, ``m`` ..."""
        row = asdict(self)
        for key, prefix in (
            ("interval", "ci"), ("difference_interval", "difference"), ("equivalence_interval", "equivalence")
        ):  # fmt: skip
            found = row.pop(key) or {}
            row |= {f"{prefix}_{name}": found.get(name) for name in ("low", "high", "level", "method", "undefined")}
        magnitude, spread = row.pop("magnitude"), row.pop("spread") or {}
        del row["critical"], row["specific"]
        row |= {"p_magnitude": magnitude["p_two_sided"], "magnitude_quantile": magnitude["quantile"]}
        row |= {"noise_sd": spread.get("noise")}
        row |= row.pop("test")
        return row


def summarise(
    measure: AnyMeasure, clusters: np.ndarray, seed: int, resamples: int = 2000, level: float = 0.95
) -> MeasureSummary:
    """Values, intervals over prompts, controls, test and effect sizes of one measure.

    Args:
        clusters: cluster number of every prompt [n_prompts]; prompts of one cluster are drawn together.
        seed: of the bootstrap.
    """
    treated, controls, changed = measure.treated, measure.controls, measure.changed
    draws = draw(measure, clusters, seed, resamples, ranks(len(known_values(controls))))
    found = bearings(measure, clusters, draws)
    events = trials = None
    if isinstance(measure, Measure):
        events, trials = (float(x.sum()) for x in measure.row(TREATED))
    null = float(measure.null)
    return MeasureSummary(
        name=measure.name,
        title=measure.title,
        unit=measure.unit,
        description=measure.description,
        higher_is_better=measure.higher_is_better,
        primary=measure.primary,
        null=measure.null,
        baseline=finite(measure.baseline),
        value=finite(treated),
        count=int(events) if measure.is_count and events is not None else None,
        denominator=trials,
        n_clusters=found.counting,
        design_effect=found.deff,
        n_changed=int(changed[TREATED]),
        n_changed_controls=float(changed[CONTROLS].mean()) if len(controls) else None,
        interval=interval(found, level),
        controls=control_summary(controls) if len(controls) else None,
        test=permutation_test(treated, controls, null),
        magnitude=permutation_test(abs(treated - null), np.abs(controls - null)),
        effects=effect_sizes(treated, controls),
        difference_interval=difference_interval(found, level),
        equivalence_interval=difference_interval(found, 1 - 2 * (1 - level)),
        alike=len(set(alike(known_values(np.append(treated, controls)), null).tolist())) < 2,
        specific=measure.specific,
        spread=_spread(controls, draws, found.counting),
        critical=draws.critical,
    )


def _spread(controls: np.ndarray, draws: Draws, clusters: int) -> Spread | None:
    known = known_values(controls)
    if len(known) < 2 or not np.isfinite(draws.noise) or not np.isfinite(known).all():
        return None
    return Spread(float(known.std(ddof=1)), draws.noise, clusters)
