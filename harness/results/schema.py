"""What the files of a run hold, as far as it is read again: nothing else of the harness has to ask whether it is there.

A file may hold more than is named here. What is read stays what it is; it is only looked at.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from harness.conditions.conditions import UNITS
from harness.errors import HarnessError
from harness.plugin.standing import PERCENTILE

Read = TypeVar("Read")
Whole = Annotated[int, Field(gt=-(2**63), lt=2**63)]
Number = Annotated[float, Field(allow_inf_nan=False)] | None
_NUMBER: TypeAdapter[float | None] = TypeAdapter(Number)
Names = dict[str, Any]


class _Part(BaseModel):
    """Part of a file; types as JSON has them, numbers finite."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


# -- the record, result.json -------------------------------------------------------------------------------------------


class Model(_Part):
    id: str
    revision: str | None
    commit: str | None
    weights_sha256: str
    tokenizer_sha256: str
    architecture: str
    dtype: str
    device: str
    n_layers: Whole
    d_model: Whole
    d_mlp: Whole
    n_heads: Whole
    n_vocab: Whole
    parameters: Whole


class Component(_Part):
    name: str
    version: str
    params: Names
    distribution: str
    distribution_version: str


class Components(_Part):
    model: Component
    task: Component
    selector: Component
    intervention: Component
    metrics: list[Component]


class Identity(_Part):
    harness_version: str
    model: Model
    components: Components
    data_sha256: str
    inputs_sha256: dict[str, str] = Field(default_factory=dict)
    seed: Whole
    limit: Whole | None
    hold_out: Number = None
    margins: dict[str, Number] = Field(default_factory=dict)
    batch_size: Whole
    resamples: Whole


class Step(_Part):
    name: str
    kept: Whole
    dropped: Whole
    why: str


class Task(_Part):
    name: str
    title: str
    summary: str
    n_prompts: Whole
    n_clusters: Whole
    steps: list[Step]
    details: Names


class Chosen(_Part):
    neuron: str
    ordinary_in: list[str] = Field(default_factory=list)


class Selection(_Part):
    selector: str
    unit: Literal["neuron", "head", "direction"]
    intervention: str
    intervention_title: str | None = None
    intervention_summary: str
    pool: list[str] | None
    positions: str
    rule: str
    neurons: list[Chosen] = Field(min_length=1)
    layer_medians: dict[str, Number]
    special: dict[str, str] = Field(default_factory=dict)
    warning: str | None = None
    details: Names
    activation_positions: Whole | None

    @model_validator(mode="after")
    def _scores(self) -> Selection:
        """Scores and statistics of the chosen ones are numbers; they are named by the selector."""
        names = {name.removeprefix("median_") for name in self.layer_medians if name.startswith("median_")}
        if len(names) != len(self.layer_medians):
            raise ValueError("expected medians that are called median_SCORE in layer_medians")
        for chosen in self.neurons:
            if not UNITS[self.unit].written.fullmatch(chosen.neuron):
                raise ValueError(f"expected the name of a {self.unit} in neurons, got {chosen.neuron!r:.40}")
            for name, value in (chosen.model_extra or {}).items():
                if name.removesuffix(PERCENTILE) in names or name == "set_to" or name.startswith("activation_"):
                    _NUMBER.validate_python(value, strict=True)
        return self


class ControlDetails(_Part):
    warning: str | None = None
    blocks: str | None = None
    smd: Number = None
    smd_random: Number = None
    treated_in_pool: bool = False
    candidates: Whole | None = None


class Controls(_Part):
    n: Whole
    match: str
    layers: list[Whole]
    details: ControlDetails
    sets: list[list[str]]


class Effects(_Part):
    difference: Number
    standardised: Number


class Spread(_Part):
    mean: Number
    sd: Number
    standard_error: Number
    min: Number
    q05: Number
    q50: Number
    q95: Number
    max: Number


DETECTABLE = frozenset(f"detectable{what}" for what in ("", "_above", "_below", "_limit", "_controls"))
JUDGED = frozenset({"p_adjusted", "p_holm", "margin", *DETECTABLE})
"""What a primary measure has, whether or not it is null."""


class Measure(_Part):
    metric: str
    name: str
    title: str
    unit: str
    description: str
    higher_is_better: bool | None
    primary: bool
    null: Number  # the value of no effect; some functions of sums have none
    baseline: Number
    value: Number
    count: Number
    denominator: Number
    n_changed: Number
    controls: Spread | None
    effects: Effects
    ci_low: Number
    ci_high: Number
    ci_method: str | None
    ci_undefined: Number
    difference_low: Number
    difference_high: Number
    difference_undefined: Number
    n_clusters: Whole
    design_effect: Number
    p_greater: Number
    p_less: Number
    p_two_sided: Number
    quantile: Number
    p_magnitude: Number
    p_adjusted: Number = None
    p_holm: Number = None
    verdict: str | None = None
    verdict_sentence: str | None = None
    margin: Number = None
    detectable: Number = None
    detectable_above: Number = None
    detectable_below: Number = None
    detectable_limit: Number = None
    detectable_controls: Number = None

    @model_validator(mode="after")
    def _judged(self) -> Self:
        """A primary measure has a verdict and its corrected p."""
        missing = JUDGED - self.model_fields_set
        if self.primary and (missing or None in (self.verdict, self.verdict_sentence)):
            raise ValueError(f"expected verdict, verdict_sentence and {', '.join(sorted(JUDGED))} of a primary measure")
        return self


class Family(_Part):
    size: Whole
    alpha: float
    rows: Whole
    smallest: float


class MarginShift(_Part):
    gained: int
    t: Number
    p: Number
    p_adjusted: Number


class MarginTest(_Part):
    statistic: float
    df: Whole
    p: Number
    clusters: Whole
    moved: Whole
    smallest: Number
    exact: bool
    shifts: list[MarginShift]


class ChiSquare(_Part):
    statistic: float
    df: Whole
    p: Number


class McNemar(_Part):
    into: Whole
    out: Whole
    p: float
    p_holm: Number


class TableTests(_Part):
    n: Whole
    n_changed: Whole
    margins: MarginTest | None = None  # of runs from before there was this test
    stuart_maxwell: ChiSquare
    bowker: ChiSquare
    mcnemar: list[McNemar]
    note: str | None


class Table(_Part):
    metric: str
    name: str
    title: str
    categories: list[str]
    treated: list[list[float]]
    control_mean: list[list[Number]] | None
    tests: TableTests | None


class Frame(_Part):
    name: str
    title: str
    n: Whole
    rows: list[Names] | None


class Figure(_Part):
    name: str
    title: str


class Text(_Part):
    corpus: str
    read_by: list[str]


class Record(_Part):
    """``result.json``."""

    schema_version: Whole
    run_id: str
    name: str
    description: str
    identity: Identity
    engine: str
    task: Task
    texts: list[Text] = Field(default_factory=list)
    selection: Selection
    controls: Controls
    exploratory: str | None = None
    measures: list[Measure]
    family: Family
    tables: list[Table]
    frames: list[Frame]
    figures: list[Figure]
    remarks: list[str]
    broken: str | None


# -- beside the record -------------------------------------------------------------------------------------------------


class Git(_Part):
    commit: str | None
    dirty: bool


class Provenance(_Part):
    """``provenance.json``."""

    run_id: str
    command: str
    started: str
    finished: str
    wall_seconds: float
    peak_memory_mib: Whole
    python: str
    platform: str
    processor: str
    threads: Whole
    accelerator: str | None
    cuda: str | None = None
    packages: dict[str, str]
    git: Git | None


class Prompt(_Part):
    id: str
    text: str
    tokens: list[Whole]
    cluster: str
    fields: Names


class Prepared(_Part):
    """``unfinished/prepared.json``."""

    prompts: list[Prompt]
    steps: list[Step]
    details: Names
    held_out: list[Prompt]


class Part(_Part):
    """``unfinished/part-N.json``: what the arrays beside it do not hold."""

    answers: list[list[str]]
    categories: dict[str, list[str]]
    series: dict[str, list[str]]
    found: list[str]
    details: Names


class Labels(_Part):
    """What ``outcomes.safetensors`` says of its arrays."""

    conditions: list[str] = Field(min_length=2)
    answers: bool
    categories: dict[str, list[str]]
    details: Names = Field(default_factory=dict)
    series: dict[str, list[str]]
    alone: list[str]


class Sample(_Part):
    """A row of ``samples.jsonl``."""

    prompt_id: str
    condition: str
    prompt: str
    input_ids: list[Whole]
    cluster: str

    @model_validator(mode="after")
    def _columns(self) -> Self:
        """Whatever the other columns are, numbers among them are such as arrays hold."""
        for name, value in (self.model_extra or {}).items():
            if isinstance(value, int) and not -(2**63) < value < 2**63:
                raise ValueError(f"expected a number of at most 64 bits in {name}")
        return self


class Answered(Sample):
    """The same where answers were made."""

    answer: str


class Score(_Part):
    """A row of ``neurons.jsonl``: beside these the scores by name."""

    __pydantic_extra__: dict[str, Number] = Field(init=False)

    neuron: str
    selected: bool

    @field_validator("neuron")
    @classmethod
    def _is_named(cls, neuron: str) -> str:
        if not any(unit.written.fullmatch(neuron) for unit in UNITS.values()):
            raise ValueError("expected the name of a neuron, head or direction")
        return neuron


class Control(_Part):
    """A row of ``controls.jsonl``: beside these the measures by name."""

    __pydantic_extra__: dict[str, Number] = Field(init=False)

    control: Whole
    units: list[str]


class Row(_Part):
    """A row of ``leaderboard.jsonl``; columns of another type count as missing
    (:func:`harness.results.leaderboard.typed`)."""

    row_id: str


def checked(cls: type[BaseModel], data: Read, where: str) -> Read:
    """``data``, if it is what ``cls`` describes.

    Raises:
        HarnessError: one sentence that begins with ``where`` and names the first place that is not.
    """
    try:
        cls.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        got = repr(first["input"])
        missing = first["type"] == "missing"
        why = "it is missing" if missing else f"{first['msg'][:1].lower()}{first['msg'][1:]}, got {got[:60]}"
        raise HarnessError(f"{where}: {place or 'the file'}: {why}; the file is damaged.") from error
    return data
