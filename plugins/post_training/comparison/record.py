"""The record of a comparison of two models, ``result.json`` of its folder."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from harness.results.on_disk import OnDisk, Values
from harness.results.record import Figure, Frame, Model

MOST_ROWS = 16
"""Longer tables are in the folder only."""


class Identity(OnDisk):
    """Everything that the comparison depends on."""

    version: str = Field(alias="schema")
    base: Model
    tuned: Model
    settings: Values
    corpus: Values | None
    inputs: dict[str, str]


class SectionRecord(OnDisk):
    """What one question about the models gave; beside the fields it has its numbers by name."""

    name: str
    title: str
    sentences: list[str]
    frames: list[Frame]
    figures: list[Figure]

    @property
    def short(self) -> list[tuple[Frame, list[Values]]]:
        """The tables that pages show, with their rows; longer ones are in the folder only."""
        return [(frame, frame.rows) for frame in self.frames if frame.rows and frame.n <= MOST_ROWS]

    @model_serializer(mode="wrap")
    def _in_order(self, serialized: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """In the file tables and figures come last."""
        found = serialized(self)
        last = {key: found.pop(key) for key in ("frames", "figures")}
        made: dict[str, Any] = found | last
        return made


class ModelsRecord(OnDisk):
    """The whole: its sections, in the order in which they were compared."""

    identity: Identity
    name: str
    parts: list[SectionRecord]

    @property
    def heading(self) -> str:
        """Which models are compared."""
        return f"{self.identity.base.id} (base) and {self.identity.tuned.id} (tuned)"
