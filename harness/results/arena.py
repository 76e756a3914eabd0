"""The arena's rows: what a selector finds on a model and a task, under one protocol; one JSON line each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from harness.errors import HarnessError
from harness.files.json import parse_lines
from harness.files.store import digest, jsonl_bytes, read_bytes
from harness.results.on_disk import Number, OnDisk, Real, Whole

SCHEMA_VERSION = 1
"""Raised when fields change so that older rows cannot be read."""

P = Annotated[Real, Field(ge=0, le=1)] | None
"""A p-value, or a share; None where there is none."""


class Effect(OnDisk):
    """What one run says: the treated set beside its controls.

    Attributes:
        difference, low, high: treated less the controls' mean, of the whole set, with its 95% interval over prompts.
        p: two-sided, 2 (b + 1) / (m + 1), against ``m`` control sets.
    """

    seed: Whole
    run_id: str
    units: list[str] = Field(min_length=1)
    difference: Number
    low: Number
    high: Number
    p: P
    m: Whole


class Side(OnDisk):
    """Effects of all seeds: on the task, or on neutral text. Everything is a unit (neuron, head) that is edited.

    Attributes:
        per_unit, low, high: means over seeds; the interval is no narrower than that of a single seed.
        p: of all seeds together (:func:`harness.statistics.discoveries.combined_p`).
    """

    measure: str
    unit: str
    per_unit: Number
    low: Number
    high: Number
    p: P
    seeds: list[Effect] = Field(min_length=1)


class Agreement(OnDisk):
    """Mean IoU of pairs of choices, what random ones of these sizes would have, and p of that."""

    iou: Annotated[Real, Field(ge=0, le=1)]
    expected: Real
    p: P
    pairs: Whole


class Level(OnDisk):
    """Planted units of one strength, and how many of them were chosen, over all seeds."""

    strength: Real
    planted: Whole
    found: Whole


class Discoveries(OnDisk):
    """Of a planted model: chosen units, how many of these are planted, and how many would be by chance; over all seeds.

    Attributes:
        fdr: share of the chosen that are not planted. recall: share of the planted that were chosen.
    """

    chosen: Whole
    true: Whole
    planted: Whole
    expected: Real
    fdr: Annotated[Real, Field(ge=0, le=1)]
    recall: Annotated[Real, Field(ge=0, le=1)]
    p: P
    levels: list[Level]


IDENTITY = ("selector", "model", "task", "intervention", "neutral", "settings")


class ArenaRow(OnDisk):
    """A selector on a model and a task; refused where ``refused`` says why, and then there is nothing else.

    Attributes:
        row_id: digest of what was asked (:data:`IDENTITY`). command: makes this row.
        settings: seeds, limit, controls, match, top, layer. exploratory: the selector saw prompts that are evaluated.
        halves, across_seeds: how alike the choices are on two halves of the prompts that selectors see, and of several
            seeds. remarks: what this design cannot tell.
    """

    schema_version: Whole
    harness_version: str
    row_id: str
    command: str
    selector: str
    model: str
    task: str
    intervention: str
    neutral: str
    settings: dict[str, int | str | None]
    refused: str | None = None
    exploratory: bool = False
    n_units: Number = None
    effect: Side | None = None
    specificity: Side | None = None
    halves: Agreement | None = None
    across_seeds: Agreement | None = None
    discoveries: Discoveries | None = None
    remarks: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(f"expected schema_version {SCHEMA_VERSION}, got {self.schema_version}")
        if (self.refused is None) == (self.effect is None):
            raise ValueError("expected either refused, with the reason, or effect")
        asked = {name: getattr(self, name) for name in IDENTITY}
        if self.row_id != row_id(asked):
            raise ValueError("row_id does not belong to what the row says was asked")
        return self


def row_id(asked: dict[str, Any]) -> str:
    """The digest of what was asked."""
    return digest([asked[name] for name in IDENTITY])[:16]


def read(paths: Sequence[Path]) -> list[ArenaRow]:
    """The rows of JSONL files, in order; of rows that ask for the same, the last.

    Raises:
        HarnessError: a file cannot be read, or a line is no row; names the line, and what is wrong with it.
    """
    found: dict[str, ArenaRow] = {}
    for path in paths:
        text = read_bytes(path).decode("utf-8", "replace")
        for number, line in parse_lines(text, f"{path}"):
            where = f"{path}, line {number}"
            if not isinstance(line, dict):
                raise HarnessError(f"{where}: expected a row of the arena, a JSON object.")
            row = ArenaRow.read(line, where)
            found[row.row_id] = row
    if not found:
        raise HarnessError(f"{', '.join(map(str, paths))}: there are no rows in it; harness arena writes some.")
    return list(found.values())


def lines_of(rows: Sequence[ArenaRow]) -> bytes:
    """The file of some rows."""
    return jsonl_bytes([row.to_dict() for row in rows])
