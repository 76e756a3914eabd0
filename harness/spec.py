"""What one run is asked to do."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from harness.components import ComponentSpec, parse_spec

COMPONENT_FIELDS = ("model", "task", "selector", "intervention")


class RunSpec(BaseModel):
    """One evaluation run: which components, how many controls, which seed."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=+-]*$", description="name of the run and of its folder")
    description: str = ""
    model: ComponentSpec = ComponentSpec("demo", {})
    task: ComponentSpec
    selector: ComponentSpec
    intervention: ComponentSpec | None = Field(None, description="left out where the task only looks at neurons")
    metrics: tuple[ComponentSpec, ...] = Field((), description="default: the task's own")
    controls: int | None = Field(
        None,
        ge=0,
        le=100_000,
        description="random control sets; default: 999 where the closed form makes them cheap, else 100",
    )
    match: Literal["none", "norm", "activation"] = Field(
        "none", description="controls resemble the selected neurons in their output weights' norm, or their activations"
    )
    seed: int = Field(0, ge=0)
    engine: Literal["auto", "hooks"] = Field(
        "auto", description="auto: the fastest one that is exact; hooks: one hooked pass for each condition"
    )
    batch_size: int = Field(64, ge=1, description="prompts in one forward pass")
    limit: int | None = Field(None, ge=1, description="use only the first so many items of the task's data")
    resamples: int = Field(2000, ge=100, le=1_000_000, description="bootstrap resamples over prompts")

    @field_validator(*COMPONENT_FIELDS, mode="before")
    @classmethod
    def _component(cls, value: Any) -> Any:
        return None if value is None else parse_spec(value, "it")

    @field_validator("metrics", mode="before")
    @classmethod
    def _components(cls, value: Any) -> Any:
        items = [value] if isinstance(value, str | dict | ComponentSpec) else value
        return tuple(parse_spec(item, "it") for item in items or ())
