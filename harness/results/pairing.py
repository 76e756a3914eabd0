"""Two finished runs on the same prompts: which prompts belong together, and each measure's parts prompt by prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import HarnessError
from harness.files.wording import agree, counted
from harness.plugin import border
from harness.plugin.components import Metric
from harness.plugin.records import Outcomes, Prompt
from harness.plugin.specs import ComponentSpec
from harness.results.folder import RunFolder, read_record
from harness.results.record import RunRecord

if TYPE_CHECKING:
    from harness.plugin.catalogue import Catalogue
    from harness.statistics import AnyMeasure


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run as it lies in its folder.

    Attributes:
        outcomes: what it observed of every prompt; None where the folder does not tell, and ``missing`` says why.
    """

    path: Path
    record: RunRecord
    outcomes: Outcomes | None = None
    missing: str = ""

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return self.outcomes.prompts if self.outcomes else ()


def open_run(path: Path) -> Run:
    """A run from its folder, or its ``result.json``.

    Raises:
        HarnessError: no finished run is there, or one of another schema.
    """
    record = read_record(path)
    folder = path if path.is_dir() else path.parent
    try:
        return Run(folder, record, RunFolder(folder).load_outcomes())
    except HarnessError as error:
        return Run(folder, record, missing=str(error))


@dataclass(frozen=True, eq=False)
class Pairing:
    """Which prompts of two runs belong together.

    Attributes:
        kind: "prompts": both have the same ones; "items": they share some items (clusters), of which each may have
            prompts of its own; None: they are not paired.
        why: a sentence for people.
        first, second: places of the paired prompts in each run [n_first], [n_second].
        first_items, second_items: number of the item of each paired prompt, the same in both runs.
        same: places of the prompts that both have, in the first and in the second run [n_same, 2].
    """

    kind: str | None
    why: str
    first: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    second: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    first_items: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    second_items: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    same: np.ndarray = field(default_factory=lambda: np.empty((0, 2), int))

    @property
    def n_items(self) -> int:
        return len(np.unique(self.first_items))


def pair(first: Run, second: Run) -> Pairing:
    """Pair the prompts of two runs by id, or their items where the prompts were made for each model.

    A prompt id means the same in both runs only where the data are the same and the text behind every shared id is.
    """
    a, b = first.record, second.record
    for run in (first, second):
        if run.missing:
            return Pairing(None, f"not paired: {run.missing}")
    if a.task.name != b.task.name:
        return Pairing(None, "not paired: the tasks differ")
    if a.identity.data_sha256 != b.identity.data_sha256:
        return Pairing(None, "not paired: the data differ")
    texts = [{prompt.id: (prompt.text, prompt.cluster) for prompt in run.prompts} for run in (first, second)]
    shared = texts[0].keys() & texts[1].keys()
    if differing := sum(texts[0][id] != texts[1][id] for id in shared):
        have = agree(differing, "has", "have")
        return Pairing(None, f"not paired: {counted(differing, 'prompt')} {have} the same id and another text")
    clusters = [[prompt.cluster for prompt in run.prompts] for run in (first, second)]
    names = sorted(set(clusters[0]) & set(clusters[1]))
    if len(names) < 2:
        return Pairing(None, f"not paired: {counted(len(names), 'item')} in common, and it takes two")
    numbers = {name: number for number, name in enumerate(names)}
    places = [np.array([i for i, name in enumerate(found) if name in numbers]) for found in clusters]
    items = [np.array([numbers[found[i]] for i in where]) for found, where in zip(clusters, places, strict=True)]
    of_id = [{prompt.id: i for i, prompt in enumerate(run.prompts)} for run in (first, second)]
    same = np.array([(i, of_id[1][id]) for id, i in of_id[0].items() if id in shared], int).reshape(-1, 2)
    if len(shared) == len(texts[0]) == len(texts[1]):
        kind, why = "prompts", f"paired: the same {counted(len(shared), 'prompt')} of {counted(len(names), 'item')}"
    else:
        kind = "items"
        why = (
            f"paired by item: {counted(len(names), 'item')} in common (of {len(set(clusters[0]))} and "
            f"{len(set(clusters[1]))}), "
            f"with {len(places[0])} and {counted(len(places[1]), 'prompt')}, {len(same)} of them the same"
        )
    return Pairing(kind, why, places[0], places[1], items[0], items[1], same)


def measures_of(run: Run, catalogue: Catalogue) -> Iterator[tuple[str, str, AnyMeasure | None, str]]:
    """(metric, measure, its parts prompt by prompt, why there are none) of every measure of the run's record.

    The installed metrics are applied to the kept outcomes; what they give must be what the record says.
    """
    for spec in run.record.identity.components.metrics:
        recorded = {x.name: x.value for x in run.record.measures if x.metric == spec.name}
        found: dict[str, AnyMeasure] = {}
        why = run.missing
        if run.outcomes is not None:
            try:
                metric = catalogue.build(Metric, ComponentSpec(spec.name, spec.params), run.path.name)
                found = {measure.name: measure for measure in border.measure(metric, run.outcomes).measures}
            except HarnessError as error:
                why = str(error)
        for name, value in recorded.items():
            measure = found.get(name)
            if measure is not None and not _agrees(measure, value):
                yield spec.name, name, None, f"the metric {spec.name} that is installed gives another value"
            else:
                yield spec.name, name, measure, why or f"the metric {spec.name} no longer has it"


def _agrees(measure: AnyMeasure, value: float | None) -> bool:
    """Whether the treated value is the recorded one, but for rounding."""
    return bool(np.isclose(measure.treated, np.nan if value is None else value, rtol=1e-6, atol=1e-12, equal_nan=True))
