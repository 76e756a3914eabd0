"""A page that sets finished runs side by side: what ``compare`` finds, a picture, and the prompts that they answer
otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from harness import __version__
from harness.errors import HarnessError
from harness.files import harmless
from harness.files.wording import agree, counted
from harness.report.comparison import short
from harness.report.comparison_page import context_of
from harness.report.formatting import amount, between
from harness.report.page_assets import assets
from harness.report.page_data import LONGEST, Prompts, read_prompts
from harness.results.compare import compare
from harness.results.comparison import ComparedMeasure, Comparison
from harness.results.folder import read_record
from harness.view.listing import template

LEAST, MOST = 2, 6
"""Runs that are set side by side."""

SHOWN = 200
"""Prompts that are shown of those that are answered otherwise."""

TICKS = 4
"""Numbers on an axis, about."""


def page(folder: Path, names: Sequence[str]) -> str:
    """The page about runs of a folder, which are compared with the first of them.

    Raises:
        HarnessError: they are too few or too many, one is named twice, or one cannot be read.
    """
    from harness.plugin.catalogue import catalogue

    if not LEAST <= len(names) <= MOST or len(set(names)) < len(names):
        raise HarnessError(f"compare: expected {LEAST} to {MOST} different runs, got {', '.join(names) or 'none'}.")
    found = compare([folder / name for name in names], catalogue())
    called = zip(found.runs, names, strict=True)
    found = found.model_copy(update={"runs": [run.model_copy(update={"folder": name}) for run, name in called]})
    environment = harmless.html_environment("harness.view")
    loaders = [environment.loader, jinja2.PackageLoader("harness.report")]
    environment.loader = jinja2.ChoiceLoader([loader for loader in loaders if loader is not None])
    environment.filters["short"] = short
    carried = assets()
    style = Markup("\n".join((carried["style"], template("plot.css"), template("compare.css"))))
    context = context_of(found, everything=True) | carried | {"style": style, "version": __version__}
    context |= {"plots": plots(found), "answers": answers([folder / name for name in names], found)}
    return environment.get_template("compare.html.j2").render(context).strip() + "\n"


# -- the picture -------------------------------------------------------------------------------------------------------


def plots(found: Comparison) -> list[dict[str, Any]]:
    """Each primary measure as lines of marks, one a run, on an axis of its own; places in percent of its length."""
    labels = [run.label for run in found.runs]
    return [made for row in found.measures if row.primary and (made := _plot(row, labels)) is not None]


def _plot(row: ComparedMeasure, labels: Sequence[str]) -> dict[str, Any] | None:
    values = [(x.value, x.ci_low, x.ci_high, x.control_mean) for x in row.runs if x is not None]
    ends = [x for several in values for x in several if x is not None]
    if not ends:
        return None
    low, high = min(ends), max(ends)
    room = 0.04 * (high - low) or 1.0
    low, high = low - room, high + room

    def place(x: float) -> float:
        return round(100 * (x - low) / (high - low), 2)

    lines: list[dict[str, Any]] = []
    for label, run in zip(labels, row.runs, strict=True):
        marks = [_mark("zero", place(0))] if low < 0 < high else []
        if run is None:
            lines.append({"label": label, "marks": [], "said": "does not have this measure"})
            continue
        if run.control_mean is not None:
            marks.append(_mark("mean", place(run.control_mean)))
        if run.ci_low is not None and run.ci_high is not None:
            marks.append(_mark("line", place(run.ci_low), place(run.ci_high)))
        if run.value is not None:
            marks.append(_mark("dot", place(run.value)))
        said = f"{label}: {amount(run.value, row.unit)} ({between(run.ci_low, run.ci_high, row.unit)})"
        if run.control_mean is not None:
            said += f", random units {amount(run.control_mean, row.unit)}"
        lines.append({"label": label, "marks": marks, "said": said})
    title = f"{row.title}, {row.unit}" if row.unit else row.title
    return {"title": title, "lines": lines, "ticks": [(place(x), f"{x:g}") for x in _ticks(low, high)]}


def _mark(kind: str, left: float, right: float | None = None) -> dict[str, Any]:
    return {"kind": kind, "left": left, "width": None if right is None else round(right - left, 2)}


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(x * power for x in (1, 2, 5, 10) if x * power >= rough)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


# -- the prompts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """Prompts that not all runs answer alike under their interventions.

    Attributes:
        labels: of the runs that are looked at. rows: each a prompt's ``id``, ``text`` and ``cells``, one a run.
    """

    sentence: str
    labels: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)


def answers(folders: Sequence[Path], found: Comparison) -> Answers:
    """The prompts that runs on the same data answer otherwise, or put into other categories.

    Raises:
        HarnessError: a run's samples are damaged.
    """
    paired = {pair.second for pair in found.pairs if pair.paired is not None}
    chosen = [i for i, run in enumerate(found.runs) if i == 0 or run.label in paired]
    labels = [found.runs[i].label for i in chosen]
    if len(chosen) < LEAST:
        return Answers("No other run has its prompts paired with those of A.")
    runs = [_prompts(folders[i]) for i in chosen]
    if not all(x.answers or x.categories for x in runs):
        return Answers("A run keeps no answer and no category of a prompt, so that none can be told apart.")
    places = [{id: i for i, id in enumerate(run.ids)} for run in runs]
    shared = [id for id in runs[0].ids if all(id in known for known in places[1:])]
    names = [name for name in runs[0].categories if all(name in run.categories for run in runs)]
    texts = all(run.answers for run in runs)
    rows = []
    for id in shared:
        seen = [_seen(run, known[id], names, texts) for run, known in zip(runs, places, strict=True)]
        if any([after for _, after in own] != [after for _, after in seen[0]] for own in seen[1:]):
            cells = [_cell(own, texts) for own in seen]
            rows.append({"id": id, "text": runs[0].texts[places[0][id]][:LONGEST], "cells": cells})
    others = ", ".join(label for label in (run.label for run in found.runs) if label not in labels)
    sentence = f"{len(rows)} of {counted(len(shared), 'shared prompt')} {agree(len(rows), 'is', 'are')} answered "
    sentence += f"otherwise in {' or '.join(labels)} under the intervention; bold is what it changed."
    sentence += f" The first {SHOWN} are shown." if len(rows) > SHOWN else ""
    sentence += f" Not looked at, for they are not paired: {others}." if others else ""
    return Answers(sentence, labels, rows[:SHOWN])


def _prompts(folder: Path) -> Prompts:
    tables = read_record(folder).tables
    return read_prompts(folder / "samples.jsonl", [name for table in tables for name in table.categories])


def _seen(run: Prompts, place: int, names: Sequence[str], texts: bool) -> list[tuple[Any, Any]]:
    """What a run observed of a prompt, each before and after the intervention; its answer first, if it has texts."""
    pairs = [run.categories[name] for name in names]
    if texts and run.answers:
        pairs.insert(0, run.answers)
    return [(before[place], after[place]) for before, after in pairs]


def _cell(seen: list[tuple[Any, Any]], texts: bool) -> list[dict[str, Any]]:
    """The same for people: the answer, and the categories, those that are the same said once."""
    parts = [{"kind": "answer", "after": seen[0][1], "moved": seen[0][0] != seen[0][1], "before": ""}] if texts else []
    if texts and seen[0][0] != seen[0][1]:
        parts[0]["before"] = seen[0][0]
    for before, after in dict.fromkeys(seen[texts:]):
        told = after if before == after else f"{before} → {after}"
        parts.append({"kind": "category", "after": told, "moved": before != after, "before": ""})
    return parts
