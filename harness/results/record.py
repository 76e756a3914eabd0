"""The record of a run, ``result.json``: what was asked, chosen and measured. Everything that reports show is in it.

The order of the fields is that of the file. A field with a default may be missing: records that were written before
there was such a field do not have it, and of measures only the primary ones are judged.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from harness.plugin.standing import PERCENTILE
from harness.plugin.unit_kinds import kind_named
from harness.results.measures import Family, Measure
from harness.results.on_disk import Number, OnDisk, Real, Values, Whole

SCHEMA_VERSION = 3
"""Raised when fields change so that older records need :mod:`harness.results.migrations` to be read."""

# -- what the results depend on ----------------------------------------------------------------------------------------


class Gguf(OnDisk):
    """A GGUF file whose weights were dequantised; ``types``: how many tensors are of each GGML type."""

    file: str
    sha256: str
    types: dict[str, Whole]
    transformers: str


class Experts(OnDisk):
    """Routed experts; ``layers`` have them, ``implementation`` is how ``transformers`` computed them."""

    n_experts: Whole
    d_expert: Whole
    top_k: Whole
    layers: list[Whole]
    implementation: str | None = None


class Adapter(OnDisk):
    """An adapter that was merged into the weights; ``of``: the model that it says it is of."""

    id: str
    commit: str | None
    kind: str | None
    of: str | None
    sha256: str


class Quantised(OnDisk):
    """Weights that transformers keeps packed: by which method, as what, in how many of the linear maps."""

    method: str
    kind: str | None
    settings: Values
    packed: Whole
    linear_maps: Whole


class Model(OnDisk):
    """The model: where it came from, digests of its weights and tokenizer, its shape."""

    id: str
    revision: str | None
    commit: str | None
    weights_sha256: str
    tokenizer_sha256: str
    architecture: str
    model_type: str | None = None
    dtype: str
    precision: dict[str, str] | None = None
    device: str
    attn_implementation: str | None = None
    n_layers: Whole
    d_model: Whole
    d_mlp: Whole
    n_heads: Whole
    n_kv_heads: Whole | None = None
    n_vocab: Whole
    experts: Experts | None = None
    parallel: bool | None = None
    norm: str | None = None
    norm_eps: Number = None
    logit_scale: Number = None
    logit_cap: Number = None
    tied_embeddings: bool | None = None
    parameters: Whole
    adds_bos: bool | None = None
    first_tokens: list[str] = Field(default_factory=list)
    first_token_policy: str | None = None
    pad_id: Whole | None = None
    generation_not_applied: Values = Field(default_factory=dict)
    unused_tensors: list[str] = Field(default_factory=list)
    end_tokens: list[Whole] = Field(default_factory=list)
    package: str | None = None
    gguf: Gguf | None = None
    quantised: Quantised | None = None
    adapter: Adapter | None = None


class Component(OnDisk):
    """A component with the parameters that were in force, and the distribution that it came from."""

    name: str
    version: str
    params: Values
    distribution: str
    distribution_version: str


class Components(OnDisk):
    """The components of a run; ``model`` is the loader."""

    model: Component
    task: Component
    selector: Component
    intervention: Component
    metrics: list[Component]

    def by_kind(self) -> dict[str, Component]:
        """Those of which a run has one."""
        return {
            "model": self.model, "task": self.task, "selector": self.selector, "intervention": self.intervention
        }  # fmt: skip


class Identity(OnDisk):
    """Everything that the results depend on; the run's id is its digest."""

    schema_version: Whole | None = None
    harness_version: str
    model: Model
    components: Components
    data_sha256: str
    inputs_sha256: dict[str, str] = Field(default_factory=dict)
    controls: Whole | None = None
    match: str | None = None
    hold_out: Number = None
    margins: dict[str, Number] = Field(default_factory=dict)
    engine: str | None = None
    seed: Whole
    limit: Whole | None
    batch_size: Whole | Annotated[str, Field(pattern=r"^auto(:\d+)?$")]
    resamples: Whole


class Text(OnDisk):
    """A corpus that was read, and the components that read it."""

    corpus: str
    read_by: list[str]


# -- prompts -----------------------------------------------------------------------------------------------------------


class Step(OnDisk):
    """A step of the task's preparation: how many items it left and dropped, and why."""

    name: str
    kept: Whole
    dropped: Whole
    why: str


class FirstTokens(OnDisk):
    """What prompts begin with: the first tokens of the first one; what the model puts first, and before how many."""

    first: list[str]
    prefix: list[str]
    with_prefix: Whole


class NearTies(OnDisk):
    """Prompts after which the two most likely tokens lie closer than the rounding of half precision."""

    n: Whole
    prompts: list[str]


class Task(OnDisk):
    """What was asked of the model; ``details`` are the task's own."""

    name: str
    title: str
    summary: str
    n_prompts: Whole
    n_clusters: Whole
    tokens: FirstTokens | None = None
    near_ties: NearTies | None = None
    steps: list[Step]
    details: Values


# -- what was selected -------------------------------------------------------------------------------------------------


class Chosen(OnDisk):
    """A selected unit (neuron, head or direction).

    Beside the fields it has its scores, by the selector's names, each followed by ``NAME_percentile`` where that is
    known: how many percent of the other units of its layer score lower.
    """

    __pydantic_extra__: dict[str, Number] = Field(init=False)

    neuron: str
    ordinary_in: list[str] = Field(default_factory=list)
    activation_mean: Number = None
    activation_sd: Number = None
    activation_minimum: Number = None
    activation_maximum: Number = None
    set_to: Number = None

    @property
    def scores(self) -> dict[str, float | None]:
        """The scores by name."""
        return {name: x for name, x in self.__pydantic_extra__.items() if not name.endswith(PERCENTILE)}

    @property
    def percentiles(self) -> dict[str, float | None]:
        """How many percent of the other units of its layer score lower, by the score's name."""
        found = self.__pydantic_extra__.items()
        return {name.removesuffix(PERCENTILE): x for name, x in found if name.endswith(PERCENTILE)}

    @property
    def state(self) -> dict[str, Any]:
        """What else is known of it: its activations, and what it is set to."""
        return self.model_dump(exclude_unset=True, exclude={"neuron", *self.__pydantic_extra__})

    @model_serializer(mode="wrap")
    def _in_order(self, serialized: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """In the file the scores follow the name."""
        found = serialized(self)
        first = ("neuron", *self.__pydantic_extra__)
        made: dict[str, Any] = {key: found[key] for key in first if key in found} | found
        return made


class Selection(OnDisk):
    """The selected units, the rule that chose them, and what is done to them; ``details`` are the selector's own."""

    selector: str
    unit: str = Field(min_length=1)
    intervention: str
    intervention_title: str
    intervention_summary: str
    pool: list[str] | None
    positions: str
    rule: str
    neurons: list[Chosen] = Field(min_length=1)
    layer_medians: dict[str, Number]
    special: dict[str, Literal["high", "low"]] = Field(default_factory=dict)
    warning: str | None = None
    details: Values
    activation_positions: Whole | None

    @property
    def scores(self) -> list[str]:
        """Names of the scores."""
        return [name.removeprefix("median_") for name in self.layer_medians]

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        """Units are named as their kind is, and medians by their scores."""
        if not all(name.startswith("median_") for name in self.layer_medians):
            raise ValueError("expected medians that are called median_SCORE in layer_medians")
        for chosen in self.neurons:
            if not kind_named(self.unit).written.fullmatch(chosen.neuron):
                raise ValueError(f"expected the name of a {self.unit} in neurons, got {chosen.neuron!r:.40}")
        return self


# -- control sets ------------------------------------------------------------------------------------------------------


class ControlDetails(OnDisk):
    """What the sets are drawn from; of matched ones, how alike they are (:func:`harness.controls.matched.balance`)."""

    treated_in_pool: bool = False
    candidates: Whole | None = None
    among: str | None = None
    variable: str | None = None
    neighbours: Whole | None = None
    smd_random: Number = None
    smd: Number = None
    within_reach: dict[str, Whole] = Field(default_factory=dict)
    warning: str | None = None
    blocks: str | None = None


class Controls(OnDisk):
    """The control sets, each the names of its units."""

    n: Whole
    match: str
    layers: list[Whole]
    details: ControlDetails
    sets: list[list[str]]


# -- tables and figures ------------------------------------------------------------------------------------------------


class MarginShift(OnDisk):
    """How many prompts a category gained, and whether items gained more than they lost."""

    gained: Whole
    t: Number
    p: Number
    p_adjusted: Number


class MarginTest(OnDisk):
    """Whether the totals before and after are equal, the prompts of an item kept together."""

    statistic: Real
    df: Whole
    p: Number
    clusters: Whole
    moved: Whole
    smallest: Number
    exact: bool
    shifts: list[MarginShift]


class ChiSquare(OnDisk):
    statistic: Real
    df: Whole
    p: Number


class McNemar(OnDisk):
    """Prompts that moved into a category and out of it."""

    into: Whole
    out: Whole
    p: Real
    p_holm: Number


class TableTests(OnDisk):
    """Tests of a table of counts; ``mcnemar`` in the order of its categories."""

    n: Whole
    n_changed: Whole
    margins: MarginTest | None = None
    stuart_maxwell: ChiSquare
    bowker: ChiSquare
    mcnemar: list[McNemar]
    note: str | None


class Table(OnDisk):
    """Counts of prompts by category before (rows) and after (columns), and the mean counts under the controls."""

    metric: str
    name: str
    title: str
    categories: list[str]
    treated: list[list[Real]]
    control_mean: list[list[Number]] | None
    tests: TableTests | None


class Frame(OnDisk):
    """A table of a component's, ``tables/NAME.csv``, with its ``n`` rows where they are few."""

    name: str
    title: str
    n: Whole
    rows: list[Values] | None


class Figure(OnDisk):
    """A figure, ``figures/NAME.png``, with its caption."""

    name: str
    title: str


# -- the whole ---------------------------------------------------------------------------------------------------------


class RunRecord(OnDisk):
    """The record of a run."""

    schema_version: Whole = Field(description="raised when fields change so that older records have to be lifted")
    run_id: str = Field(description="digest of the identity")
    name: str
    description: str
    identity: Identity
    engine: str = Field(description="which one ran the conditions")
    texts: list[Text] = Field(default_factory=list)
    task: Task
    selection: Selection
    controls: Controls
    exploratory: str | None = Field(None, description="why the verdicts are exploratory, if they are")
    measures: list[Measure]
    family: Family
    tables: list[Table] = Field(description="counts before and after, with their tests")
    frames: list[Frame] = Field(description="tables of the metrics, the selector and the intervention")
    figures: list[Figure]
    remarks: list[str] = Field(description="what a reader has to know before the numbers, and what metrics say")
    broken: str | None = Field(description="why nothing is interpreted, if nothing is")

    @property
    def primary(self) -> list[Measure]:
        """The measures that have a verdict."""
        return [measure for measure in self.measures if measure.primary]
