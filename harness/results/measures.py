"""A measure in the record: values, controls, intervals, tests, and what is said of it."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from harness.results.on_disk import Number, OnDisk, Real, Whole


class Effects(OnDisk):
    """How far the treated value lies from the controls."""

    difference: Number
    ratio_to_median: Number = None
    standardised: Number
    robust: Number = None
    cliffs_delta: Number = None


class Spread(OnDisk):
    """The values under the controls: mean, quantiles, and how many there are; ``n_nan`` have no value."""

    mean: Number
    sd: Number
    standard_error: Number
    min: Number
    q05: Number
    q25: Number = None
    q50: Number
    q75: Number = None
    q95: Number
    max: Number
    n: Whole | None = None
    n_nan: Whole | None = None


DETECTABLE = frozenset(f"detectable{what}" for what in ("", "_above", "_below", "_limit", "_controls"))
JUDGED = frozenset({"p_adjusted", "p_holm", "margin", *DETECTABLE})
"""What a primary measure has, whether or not it is null."""


class Measure(OnDisk):
    """A measure beside its controls.

    ``count`` prompts of ``denominator`` count, where it counts. Intervals: of the treated value (``ci``), and of
    treated minus controls at 95% (``difference``) and at 90% (``equivalence``). What follows ``quantile`` is there of
    primary measures only.
    """

    metric: str
    name: str
    title: str
    unit: str
    description: str
    higher_is_better: bool | None
    primary: bool
    null: Number = Field(description="the value of no effect; some functions of sums have none")
    baseline: Number
    value: Number
    count: Number
    denominator: Number
    n_clusters: Whole | None = Field(description="independent items that count")
    design_effect: Number
    n_changed: Number
    n_changed_controls: Number = None
    controls: Spread | None
    effects: Effects
    alike: bool | None = None
    ci_low: Number
    ci_high: Number
    ci_level: Number = None
    ci_method: str | None
    ci_undefined: Number
    difference_low: Number
    difference_high: Number
    difference_level: Number = None
    difference_method: str | None = None
    difference_undefined: Number
    equivalence_low: Number = None
    equivalence_high: Number = None
    equivalence_level: Number = None
    equivalence_method: str | None = None
    equivalence_undefined: Number = None
    p_magnitude: Number
    magnitude_quantile: Number = None
    noise_sd: Number = None
    b_greater: Whole | None = None
    b_less: Whole | None = None
    m: Whole | None = None
    n_nan: Whole | None = None
    p_greater: Number
    p_less: Number
    p_two_sided: Number
    quantile: Number
    p_adjusted: Number = None
    p_holm: Number = None
    p_bh: Number = None
    verdict: str | None = None
    verdict_sentence: str | None = None
    margin: Number = None
    detectable: Number = None
    detectable_above: Number = None
    detectable_below: Number = None
    detectable_limit: Number = None
    detectable_controls: Number = None

    @property
    def key(self) -> tuple[str, str]:
        """Metric and name: two metrics may have a measure of the same name."""
        return self.metric, self.name

    @model_validator(mode="after")
    def _judged(self) -> Self:
        """A primary measure has a verdict and its corrected p."""
        missing = JUDGED - self.model_fields_set
        if self.primary and (missing or None in (self.verdict, self.verdict_sentence)):
            raise ValueError(f"expected verdict, verdict_sentence and {', '.join(sorted(JUDGED))} of a primary measure")
        return self


class Family(OnDisk):
    """What p is adjusted over: ``size`` primary measures at level ``alpha``, by ``rows`` sets with the treated one.

    ``smallest``: the smallest adjusted p that there can be.
    """

    adjusted: str | None = None
    size: Whole
    alpha: Real
    rows: Whole
    smallest: Real
