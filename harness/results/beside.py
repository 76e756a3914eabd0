"""What lies beside the record: rows of prompts, candidates and control sets, what arrays mean, and unfinished parts."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from harness.plugin.unit_kinds import Stranger, score_names
from harness.results.on_disk import Number, OnDisk, Values, Whole
from harness.results.record import Step

# -- a finished run ----------------------------------------------------------------------------------------------------


class Row(OnDisk):
    """A row of a table whose other columns the run's components name."""

    @property
    def columns(self) -> dict[str, Any]:
        """The other columns by name."""
        return self.__pydantic_extra__ or {}


class Sample(Row):
    """A row of ``samples.jsonl``: a prompt under a condition.

    The other columns: the task's own of the prompt, the ``answer`` where there is one, and what was observed.
    """

    prompt_id: str
    condition: str
    prompt: str
    input_ids: list[Whole]
    cluster: str

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Whatever the other columns are, numbers among them are such as arrays hold."""
        for name, value in self.columns.items():
            if isinstance(value, int) and not -(2**63) < value < 2**63:
                raise ValueError(f"expected a number of at most 64 bits in {name}")
        return self


class Answered(Sample):
    """The same where answers were made."""

    answer: str


class Candidate(Row):
    """A row of ``neurons.jsonl``: a unit that could be selected. The other columns: where it is, and its scores."""

    __pydantic_extra__: dict[str, Number] = Field(init=False)

    neuron: str
    selected: bool

    @property
    def score_names(self) -> list[str]:
        """Which of the columns are scores."""
        return score_names(self.to_dict())

    @field_validator("neuron")
    @classmethod
    def _is_named(cls, neuron: str) -> str:
        if not Stranger.written.fullmatch(neuron):
            raise ValueError("expected the name of a unit, such as 11.2378 of a neuron")
        return neuron


class ControlSet(Row):
    """A row of ``controls.jsonl``: the units of a control set. The other columns: its measures, ``metric.measure``."""

    __pydantic_extra__: dict[str, Number] = Field(init=False)

    control: Whole
    units: list[str]


class Labels(OnDisk):
    """What ``outcomes.safetensors`` says of its arrays.

    Conditions are their rows; ``answers``: whether samples have them; names of the codes of ``categories``, and of the
    places of ``series``; units that were treated ``alone``.
    """

    conditions: list[str] = Field(min_length=2)
    answers: bool
    categories: dict[str, list[str]]
    details: Values = Field(default_factory=dict)
    series: dict[str, list[str]]
    alone: list[str]


# -- a run under way ---------------------------------------------------------------------------------------------------


class Prompt(OnDisk):
    """A prepared prompt."""

    id: str
    text: str
    tokens: list[Whole]
    cluster: str
    fields: Values


class Prepared(OnDisk):
    """``unfinished/prepared.json``."""

    prompts: list[Prompt]
    steps: list[Step]
    details: Values
    held_out: list[Prompt]


class Part(OnDisk):
    """``unfinished/part-N.json``: what the arrays beside it do not hold."""

    answers: list[list[str]]
    categories: dict[str, list[str]]
    series: dict[str, list[str]]
    found: list[str]
    details: Values
