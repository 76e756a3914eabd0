"""What one run is asked to do."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_serializer, field_validator

from harness.errors import HarnessError, suggest
from harness.plugin.specs import ComponentSpec, parse_spec
from harness.plugin.unit_kinds import kinds

MOST_PROMPTS = 1_000_000
"""In one forward pass."""

# Settings of a run, with their bounds; what they are is what `harness eval --help` says, too.
Controls = Annotated[
    int | None,
    Field(ge=0, le=100_000, description="Random control sets; default: 999 where they are cheap, else 100."),
]


def check_match(value: str) -> str:
    """One of what some kind of units can be alike in; whether the selected one can is known once it is selected."""
    known = ["none", *dict.fromkeys(name for kind in kinds().values() for name in kind.variables)]
    if value not in known:
        raise ValueError(f"expected one of {', '.join(known)}.{suggest(value, known)}")
    return value


Match = Annotated[
    str,
    AfterValidator(check_match),
    Field(description="In what controls resemble the selected units: none, norm, activation, or what their kind has."),
]
HoldOut = Annotated[
    float | None,
    Field(
        ge=0,
        lt=1,
        description="Share of the facts that only the selector sees; default: 0.3 for one that looks at prompts.",
    ),
]
Seed = Annotated[int, Field(ge=0, lt=2**63, description="Seed of everything random.")]
EngineName = Annotated[
    Literal["auto", "hooks"],
    Field(description="auto: the fastest that is exact; hooks: a hooked pass for each condition."),
]
AUTO = "auto"
"""As many prompts in a forward pass as fit (:mod:`harness.running.fitting`)."""


def check_batch_size(value: Any) -> int | str:
    """A number of prompts, ``auto`` or ``auto:N``, as lm-eval reads it."""
    text = str(value).strip()
    if re.fullmatch(r"\d{1,9}", text) and 1 <= (number := int(text)) <= MOST_PROMPTS and not isinstance(value, bool):
        return number
    if re.fullmatch(rf"{AUTO}(:[1-9]\d{{0,5}})?", text):
        return AUTO if text == f"{AUTO}:1" else text
    raise ValueError(f"expected a number of prompts from 1 to {MOST_PROMPTS}, {AUTO}, or {AUTO}:4, got {value!r:.60}")


def batch_size_of(written: int | str) -> int | str:
    """What ``--batch_size`` of a command without a specification says.

    Raises:
        HarnessError: it is none.
    """
    try:
        return check_batch_size(written)
    except ValueError as error:
        raise HarnessError(f"--batch_size: {error}.") from None


BatchSize = Annotated[
    int | str,
    BeforeValidator(check_batch_size),
    Field(description="Prompts in a forward pass; auto: as many as fit; auto:4: found four times along the run."),
]


def check_limit(value: Any) -> int | float | None:
    """A number of items, or a share of them, as lm-eval reads it: below 1, rounded up."""
    given = str(value)[:40]
    if isinstance(value, str):
        number = float(value) if re.fullmatch(r"\s*\d*\.?\d+(e-?\d+)?\s*", value) else math.nan
        value = int(value) if number >= 1 and value.strip().isdigit() else number
    if value is None or (isinstance(value, int) and 1 <= value < 2**63):
        return value
    if isinstance(value, float) and (0 < value < 1 or (value.is_integer() and 1 <= value < 2**63)):
        return value if value < 1 else int(value)
    raise ValueError(f"expected a number of items, at least 1, or a share of them below 1, got {given!r}")


Limit = Annotated[
    int | float | None,
    BeforeValidator(check_limit),
    Field(description="Use only so many items of the task's data; below 1: this share of them."),
]
Resamples = Annotated[int, Field(ge=100, le=1_000_000, description="Bootstrap resamples.")]

COMPONENT_FIELDS = ("model", "task", "selector", "intervention")


def _whole(value: float | None) -> float | None:
    if value is not None and value > 1 and value != int(value):
        raise ValueError("expected a whole number above 1")
    return value


Cpus = Annotated[
    float | None, Field(gt=0, le=100_000, description="CPU cores, and threads, of each run"), AfterValidator(_whole)
]
Gpus = Annotated[
    float | None,
    Field(ge=0, le=100_000, description="GPUs of each run; below 1: a share of one"),
    AfterValidator(_whole),
]


class Resources(BaseModel):
    """What a run takes of a node of a cluster; what is left open is 1 CPU and no GPU."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    cpus: Cpus = None
    gpus: Gpus = None


def default(setting: str) -> Any:
    """What a setting of :class:`RunSpec` is where nobody says."""
    return RunSpec.model_fields[setting].default


class RunSpec(BaseModel):
    """One evaluation run: which components, how many controls, which seed."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False)

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._=+-]*$", max_length=200, description="name of the run and of its folder"
    )
    description: str = ""
    model: ComponentSpec = ComponentSpec("demo", {})
    task: ComponentSpec
    selector: ComponentSpec
    intervention: ComponentSpec | None = Field(None, description="left out where the task only looks at neurons")
    metrics: tuple[ComponentSpec, ...] = Field((), description="default: the task's own")
    controls: Controls = None
    match: Match = "none"
    hold_out: HoldOut = None
    margins: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="the difference that matters, by measure, in its unit; default: 2 standard deviations of controls",
    )
    seed: Seed = 0
    engine: EngineName = "auto"
    batch_size: BatchSize = 64
    limit: Limit = None
    resamples: Resamples = 2000
    resources: Resources = Field(
        default=Resources(), description="of a node of a cluster; no part of the run's identity"
    )

    @field_validator(*COMPONENT_FIELDS, mode="before")
    @classmethod
    def _component(cls, value: Any) -> Any:
        return None if value is None else parse_spec(value, "it")

    @field_validator("metrics", mode="before")
    @classmethod
    def _components(cls, value: Any) -> Any:
        items = [value] if isinstance(value, str | dict | ComponentSpec) else value
        return tuple(parse_spec(item, "it") for item in items or ())

    @field_serializer(*COMPONENT_FIELDS)
    def _written(self, value: ComponentSpec | None) -> dict[str, Any] | None:
        return None if value is None else {"name": value.name, **value.params}

    @field_serializer("metrics")
    def _all_written(self, value: tuple[ComponentSpec, ...]) -> list[dict[str, Any]]:
        return [{"name": item.name, **item.params} for item in value]
