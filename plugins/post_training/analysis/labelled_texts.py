"""Labelled texts: true and false statements, prompts that are refused and prompts that are answered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError

from harness.data.token_sequences import half
from harness.files.rows import read_rows
from harness.plugin import HarnessError, InputFile, Source
from harness.plugin.specs import explain

LabelledPath = Annotated[Source, InputFile()]
"""Type of a parameter that is a file of labelled texts."""

COLUMNS = "labelled texts (.jsonl, .csv, .tsv, .json): text, label (true or false), group, split (train or test)"
"""Description of such a parameter."""

LABELS = {"true": True, "1": True, "false": False, "0": False}
"""Labels as tables without types have them, in any case."""


def data_set_name(path: str | Path) -> str:
    """What a data set is called: as its file, with "-" for what the names of tables and figures cannot hold."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(path).stem).strip("-")


class LabelledText(BaseModel):
    """One row: ``{"text": "The capital of France is Paris.", "label": true, "group": "capital", "split": "train"}``.

    Texts of one group (one relation, one topic) are not independent of each other; a group lies in one split. Published
    tables call the text ``statement``. Where a file has no column ``group``, every text is a group of its own; where it
    has no column ``split``, a hash of the group decides, for about half of the groups each.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: StrictStr = Field(min_length=1)
    label: StrictBool
    group: StrictStr
    split: Literal["train", "test"]


def load_labelled(path: str | Path) -> list[LabelledText]:
    """The rows of a JSONL, JSON, CSV or TSV file, in order.

    Raises:
        HarnessError: the file cannot be read, a row is wrong (names its line), a text stands twice, a group lies in
            both splits, or a split lacks one of the labels.
    """
    found: list[LabelledText] = []
    texts: dict[str, int] = {}
    splits: dict[str, tuple[str, int]] = {}
    rows = list(read_rows(str(path), None, "train", None))
    has = {name for _, columns in rows for name in columns}
    for number, columns in rows:
        where = f"{path}, line {number}"
        try:
            row = LabelledText.model_validate(_filled(columns, has))
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


def read_statements(path: str | Path) -> list[tuple[str, bool]]:
    """Statements (or texts) with their labels, in order; what else a table has of them is not looked at.

    Raises:
        HarnessError: the file cannot be read, or a row lacks one of the two (names its line).
    """
    found = []
    for line, row in read_rows(str(path), None, "train", None):
        column = "statement" if "statement" in row else "text"
        text, label = row.get(column), LABELS.get(str(row.get("label")).strip().lower())
        if not isinstance(text, str) or not text.strip():
            raise HarnessError(f'{path}, line {line}: expected a statement in the column "{column}".')
        if label is None:
            raise HarnessError(f'{path}, line {line}: expected "label" to be true or false (1 or 0).')
        found.append((text.strip(), label))
    return found


def _filled(columns: Mapping[str, Any], has: set[str]) -> dict[str, Any]:
    """A row with what its file has no column for; ``has``: the names of all columns of the file."""
    found = dict(columns)
    if "text" not in has and "statement" in found:
        found["text"] = found["statement"]
    if isinstance(label := found.get("label"), str):
        found["label"] = LABELS.get(label.strip().lower(), label)
    if "group" not in has and isinstance(found.get("text"), str):
        found["group"] = found["text"]
    if "split" not in has and isinstance(found.get("group"), str):
        found["split"] = "train" if half(found["group"]) == "select" else "test"
    return found
