"""What the page embeds for its script: prompts before and after, and the scores of neurons, small enough to mail."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import HarnessError
from harness.files.store import clean
from harness.report.page_tables import fitted
from harness.results.beside import Candidate, Sample
from harness.results.folder import read_rows
from harness.results.record import Frame

PROMPTS_LIMIT, NEURONS_LIMIT = 1_000_000, 350_000
"""Bytes that the packed prompts and neurons may take in the page; beyond, it shows fewer and says so."""

LONGEST = 2000
"""Characters of a prompt that the page shows."""

DIGITS = 5
"""Significant digits of embedded numbers."""

MOST_GROUPS = 60
"""A field with at most so many values is one to group and filter by."""

Pair = tuple[list[Any], list[Any]]
"""A column before and after the intervention."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of a run by column, in the order of ``samples.jsonl``.

    Attributes:
        fields: what the task remembers of each prompt; text, numbers and truth values only.
        answers: generated texts, or None. categories: named classes of the outcome, as text.
        numbers: everything else that was observed of each prompt; NaN where there is none.
    """

    ids: list[str]
    texts: list[str]
    fields: dict[str, list[Any]] = field(default_factory=dict)
    answers: Pair | None = None
    categories: dict[str, Pair] = field(default_factory=dict)
    numbers: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def changed(self) -> np.ndarray:
        """Which prompts have another category, else another answer, than before: bool [N]."""
        pairs = list(self.categories.values()) or ([self.answers] if self.answers else [])
        changed = np.zeros(len(self.ids), bool)
        for before, after in pairs:
            changed |= np.array([a != b for a, b in zip(before, after, strict=True)], bool)
        return changed

    @property
    def groupings(self) -> dict[str, list[str]]:
        """Fields that several prompts share: text with few values, the finest first, of fields that are alike one."""
        found: dict[str, list[str]] = {}
        for name, column in self.fields.items():
            values = set(column)
            few = 2 <= len(values) <= min(MOST_GROUPS, len(column) / 2)
            if few and all(isinstance(value, str) for value in values) and column not in found.values():
                found[name] = column
        return dict(sorted(found.items(), key=lambda item: -len(set(item[1]))))


def read_prompts(path: Path, categories: Sequence[str]) -> Prompts:
    """The prompts of ``samples.jsonl``; none if it is not there.

    What differs between the two rows of a prompt was observed; what never does is a field of the task. A column of
    ``categories`` (of the run's tables) counts as observed even if nothing changed.

    Raises:
        HarnessError: the file is damaged.
    """
    rows = read_rows(path, Sample) if path.is_file() else []
    before, after = rows[::2], rows[1::2]
    if len(before) != len(after) or any(a.prompt_id != b.prompt_id for a, b in zip(before, after, strict=True)):
        raise HarnessError(f"{path}: expected two rows for each prompt, baseline and treated.")
    found = Prompts([row.prompt_id for row in before], [row.prompt for row in before])
    answers = None
    for name in before[0].columns if before else ():
        pair = [row.columns.get(name) for row in before], [row.columns.get(name) for row in after]
        kinds = {type(value) for column in pair for value in column} - {type(None)}
        if name == "answer":
            answers = pair
        elif kinds <= {int, float} and kinds and pair[0] != pair[1]:
            found.numbers[name] = (np.array(pair[0], float), np.array(pair[1], float))
        elif kinds == {str} and (pair[0] != pair[1] or set(pair[0]) <= set(categories)):
            found.categories[name] = pair
        elif kinds <= {str, int, float, bool}:
            found.fields[name] = pair[0]
    return Prompts(found.ids, found.texts, found.fields, answers, found.categories, found.numbers)


def breakdown(prompts: Prompts, name: str) -> dict[str, Any]:
    """A table by the values of a field: prompts, how many changed, means of what was observed; by share changed."""
    groups = np.array(prompts.groupings[name])
    changed, rows = prompts.changed, []
    categories = [(x, level) for x, pair in prompts.categories.items() for level in sorted({*pair[0], *pair[1]})]
    for group in sorted(set(groups.tolist())):
        here = groups == group
        row: dict[str, Any] = {name: group, "prompts": int(here.sum()), "changed": int(changed[here].sum())}
        row["changed %"] = 100 * row["changed"] / row["prompts"]
        for x, level in categories:
            counts = [int((np.array(column)[here] == level).sum()) for column in prompts.categories[x]]
            row[level] = f"{counts[0]}\u00a0→\u00a0{counts[1]}"  # on one line
        for x, (low, high) in prompts.numbers.items():
            known = here & np.isfinite(low) & np.isfinite(high)
            row[f"change of {label(x)}"] = float((high - low)[known].mean()) if known.any() else None
        rows.append(row)
    rows.sort(key=lambda row: -row["changed"] / row["prompts"])
    return {"name": name, "table": fitted(list(rows[0]), rows)}


def label(name: str) -> str:
    """The name of an outcome as people read it: ``log_p_ck`` is ``log P(CK)``."""
    if name.startswith("log_p_"):  # by convention the log-probability of one of several competing answers
        return f"log P({name.removeprefix('log_p_').upper()})"
    return name.replace("_", " ")


def packed_prompts(prompts: Prompts) -> dict[str, Any]:
    """``{"data": packed, "n": prompts, "shown": how many fit}``: those that changed first, if not all fit."""
    n = len(prompts.ids)
    order = np.argsort(~prompts.changed, kind="stable")
    shown = n
    while True:
        kept = np.sort(order[:shown])
        data = pack(_columns(prompts, kept))
        if len(data) <= PROMPTS_LIMIT or shown <= 1:
            return {"data": data, "n": n, "shown": shown}
        shown = max(1, min(shown - 1, int(0.95 * shown * PROMPTS_LIMIT / len(data))))


def _columns(prompts: Prompts, rows: np.ndarray) -> dict[str, Any]:
    def take(column: Sequence[Any]) -> list[Any]:
        return [column[i] for i in rows]

    odds = [name for name in prompts.numbers if name.startswith("log_p_")]
    return {
        "id": take(prompts.ids),
        "text": [text if len(text) <= LONGEST else f"{text[:LONGEST]} …" for text in take(prompts.texts)],
        "fields": {name: take(column) for name, column in prompts.fields.items()},
        "groupings": list(prompts.groupings),
        "answers": None if prompts.answers is None else [take(column) for column in prompts.answers],
        "categories": {name: [take(column) for column in pair] for name, pair in prompts.categories.items()},
        "numbers": {
            name: {"label": label(name), "values": [rounded(column[rows]) for column in pair]}
            for name, pair in prompts.numbers.items()
        },
        "odds": [[a, b] for i, a in enumerate(odds) for b in odds[i + 1 :]],
    }


def notes_on(frames: Sequence[Frame], units: frozenset[str]) -> dict[str, dict[str, str]]:
    """What tables say of single units in words, such as the tokens that they promote, by the unit's name.

    Args:
        units: names of columns that hold names of units.
    """
    found: dict[str, dict[str, str]] = {}
    for row in (row for frame in frames for row in frame.rows or []):
        first = next(iter(row))
        if first in units and isinstance(row[first], str):
            told = {name: text for name, text in row.items() if name != first and isinstance(text, str) and text}
            found.setdefault(row[first], {}).update(told)
    return {unit: told for unit, told in found.items() if told}


def packed_neurons(rows: Sequence[Candidate], notes: dict[str, dict[str, str]] | None = None) -> dict[str, Any] | None:
    """``{"data": packed, "n": neurons, "shown": how many fit}``: the selected ones and an even sample of the others;
    ``notes``: of :func:`notes_on`."""
    scores = rows[0].score_names if rows else []
    if not scores:
        return None
    selected = [i for i, row in enumerate(rows) if row.selected]
    others = [i for i, row in enumerate(rows) if not row.selected]
    step = 1
    while True:
        kept = [rows[i] for i in sorted({*selected, *others[::step]})]
        data = pack(
            {
                "neuron": [row.neuron for row in kept],
                "selected": [i for i, row in enumerate(kept) if row.selected],
                "scores": {name: rounded(np.array([row.columns[name] for row in kept], float)) for name in scores},
                "notes": notes or {},
            }
        )
        if len(data) <= NEURONS_LIMIT or step >= len(rows):
            return {"data": data, "n": len(rows), "shown": len(kept)}
        step += 1


def pack(value: Any) -> str:
    """JSON, gzipped, in base64: the same text whenever the value is."""
    text = json.dumps(clean(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def rounded(values: np.ndarray) -> list[float | int | None]:
    """Numbers with ``DIGITS`` significant digits; None for NaN and infinity, whole ones without a point."""

    def one(value: float) -> float | int | None:
        if not math.isfinite(value):
            return None
        short = float(f"{value:.{DIGITS}g}")
        return int(short) if short.is_integer() and abs(short) < 1e15 else short

    return [one(value) for value in np.asarray(values, float).tolist()]


def examples(prompts: Prompts, most: int) -> Iterator[dict[str, Any]]:
    """The first prompts, those that changed before the others, as the page shows them without its script."""
    for i in np.argsort(~prompts.changed, kind="stable")[:most].tolist():
        yield {
            "text": prompts.texts[i][:LONGEST],
            "pairs": [(pair[0][i], pair[1][i]) for pair in ([prompts.answers] if prompts.answers else [])],
            "categories": [(pair[0][i], pair[1][i]) for pair in prompts.categories.values()],
            "numbers": [(label(x), float(a[i]), float(b[i])) for x, (a, b) in list(prompts.numbers.items())[:3]],
        }
