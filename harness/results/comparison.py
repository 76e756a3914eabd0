"""What a comparison of finished runs holds: what ``harness compare --json`` prints and its pages show."""

from __future__ import annotations

from typing import Any

from harness.results.on_disk import Number, OnDisk, Real, Whole


class ComparedRun(OnDisk):
    """A run and the letter that it is called by."""

    label: str
    name: str
    run_id: str
    folder: str
    model: str
    command: str | None


class DifferingField(OnDisk):
    """A field of the identities (``selector.top``), with its value in every run; None where a run has no such field."""

    field: str
    values: list[Any]


class Overlap(OnDisk):
    """How many units two selections share, beside random ones (:func:`harness.statistics.chance_overlap`)."""

    shared: Whole
    iou: Real
    expected_shared: Real
    expected_iou: Real
    p: Real


class SelectionPair(OnDisk):
    """The selections of two runs. Where they are not ``comparable``, ``why`` says so and nothing else is known."""

    first: str
    second: str
    comparable: bool
    why: str
    unit: str | None = None
    shared: list[str]
    n_first: Whole
    n_second: Whole
    n_layer: Whole | None = None
    overlap: Overlap | None


class PromptPair(OnDisk):
    """How the prompts of a run belong to those of the first (:class:`harness.results.pairing.Pairing`)."""

    first: str
    second: str
    paired: str | None
    why: str
    n_items: Whole
    n_first: Whole
    n_second: Whole
    n_same: Whole


class RunValue(OnDisk):
    """What a run says of a measure by itself."""

    value: Number
    ci_low: Number
    ci_high: Number
    count: Number
    denominator: Number
    p_two_sided: Number
    control_mean: Number
    beyond_controls: Number
    p_adjusted: Number = None
    verdict: str | None


class Discordant(OnDisk):
    """McNemar's test of the prompts that count in one of two runs only."""

    first_only: Whole
    second_only: Whole
    n: Whole
    p: Real


class Difference(OnDisk):
    """Second minus first: of the values, and of the values beyond the controls.

    Paired, both are over the shared items, with intervals and a test; otherwise ``why`` says why not, and only the
    differences of the recorded values are known. ``p_holm`` is there of primary measures.
    """

    paired: bool
    why: str
    first: Number
    second: Number
    difference: Number
    low: Number = None
    high: Number = None
    p: Number = None
    p_holm: Number = None
    n_items: Whole | None = None
    n_differing: Whole | None = None
    mcnemar: Discordant | None = None
    beyond_controls: Number
    beyond_low: Number = None
    beyond_high: Number = None


class ComparedMeasure(OnDisk):
    """A measure that the first run and another one have: an entry a run, and one for each run but the first."""

    metric: str
    name: str
    title: str
    unit: str
    higher_is_better: bool | None
    primary: bool
    runs: list[RunValue | None]
    differences: list[Difference | None]


class Comparison(OnDisk):
    """Finished runs beside the first one.

    ``family``: how many p-values Holm's correction is over.
    """

    runs: list[ComparedRun]
    differing: list[DifferingField]
    selections: list[SelectionPair]
    pairs: list[PromptPair]
    measures: list[ComparedMeasure]
    family: Whole
    resamples: Whole
