"""Labelled texts: true and false statements, prompts that are refused and prompts that are answered (JSONL)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError

from harness.components import InputFile, explain
from harness.errors import HarnessError
from harness.rows import read_rows

LabelledPath = Annotated[str, InputFile(), Field(min_length=1)]
"""Type of a parameter that is a file of labelled texts."""


class LabelledText(BaseModel):
    """One row: ``{"text": "The capital of France is Paris.", "label": true, "group": "capital", "split": "train"}``.

    Texts of one group (one relation, one topic) are not independent of each other; a group lies in one split.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: StrictStr = Field(min_length=1)
    label: StrictBool
    group: StrictStr
    split: Literal["train", "test"]


def load_labelled(path: str | Path) -> list[LabelledText]:
    """The rows of a JSONL file, in order.

    Raises:
        HarnessError: the file cannot be read, a row is wrong (names its line), a text stands twice, a group lies in
            both splits, or a split lacks one of the labels.
    """
    found: list[LabelledText] = []
    texts: dict[str, int] = {}
    splits: dict[str, tuple[str, int]] = {}
    for number, columns in read_rows(str(path), None, "train", None):
        where = f"{path}, line {number}"
        try:
            row = LabelledText.model_validate(columns)
        except ValidationError as error:
            raise HarnessError(f"{where}: {explain(error, LabelledText, 'a labelled text')}") from error
        if row.text in texts:
            raise HarnessError(f"{where}: the text stands already in line {texts[row.text]}; keep one of the two.")
        texts[row.text] = number
        split, first = splits.setdefault(row.group, (row.split, number))
        if split != row.split:
            raise HarnessError(
                f'{where}: the group "{row.group}" is in the split {row.split} here and in {split} in line {first}; '
                "what a direction is tested on must be other groups than it is computed from."
            )
        found.append(row)
    for wanted in ("train", "test"):
        labels = {row.label for row in found if row.split == wanted}
        if len(labels) < 2:
            missing = "texts" if not labels else f"text with the label {str(True not in labels).lower()}"
            raise HarnessError(f"{path}: there are no {missing} in the split {wanted}; both labels are needed there.")
    return found
