"""What a run will be able to find, told before it begins: from a few of its prompts under a few of its control sets.

The selected units are not treated (:mod:`harness.running.planning`): what is told depends on no outcome of the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import HarnessError
from harness.files.wording import apart, counted, the
from harness.report.formatting import number
from harness.running.expectations import of_prompts
from harness.running.outlook import Row, rows
from harness.running.planning import FEWEST, look
from harness.statistics import derive_seed
from harness.statistics.power import least_share, needed

if TYPE_CHECKING:
    from harness.engine.engine import Engine
    from harness.plugin.records import Prompt
    from harness.running.plan import Listener, Stage

LONG = 20_000
"""(Condition, prompt) pairs from which looking ahead is worth its time: of a shorter run it is soon known."""

SHARE, ITEMS, SETS = 8, 32, 12
"""One of so many items is looked at, at most so many of them, under so many control sets."""

RESAMPLES = 500


def foretell(stage: Stage, engine: Engine, reporter: Listener) -> None:
    """Tell what effects the run finds, for each primary measure; of a short run nothing."""
    prompts = stage.prepared.prompts
    if len(prompts) * len(stage.conditions) < LONG or len(stage.controls.sets) < FEWEST:
        return
    some = _spread(prompts)
    try:
        measures = look(stage, engine, some, min(SETS, len(stage.controls.sets)), reporter, "looking ahead")
        clusters = np.unique([prompt.cluster for prompt in some], return_inverse=True)[1]
        found = rows(measures, clusters, derive_seed(stage.plan.spec.seed, "bootstrap"), RESAMPLES)
    except HarnessError:  # a metric may need more prompts; the run says what is wrong
        return
    for sentence in _sentences(stage, found, len(some), int(clusters.max()) + 1):
        reporter.tell(sentence)


def _spread(prompts: tuple[Prompt, ...]) -> list[Prompt]:
    """The prompts of some items, spread evenly."""
    items = list(dict.fromkeys(prompt.cluster for prompt in prompts))
    n = min(len(items), ITEMS, max(FEWEST, len(items) // SHARE))
    chosen = {items[i * len(items) // n] for i in range(n)}
    return [prompt for prompt in prompts if prompt.cluster in chosen]


def _sentences(stage: Stage, found: list[Row], n: int, looked: int) -> Iterator[str]:
    expected, sets = of_prompts(stage.plan, stage.prepared.prompts), len(stage.controls.sets)
    items, data = expected.items, expected.data
    if not found:
        return
    yield (
        f"Looking ahead, at {counted(n, 'prompt')} of {the(looked, 'item')} under a few control sets, the selection "
        f"untreated. What {counted(sets, 'control set', ',')} and {counted(items, 'item', ',')} find in 80% of runs, "
        "as a distance from random sets:"
    )
    for row in found:
        counting = round(row.summary.n_clusters * items / looked)
        margin = stage.plan.spec.margins.get(row.summary.name)
        takes = "" if margin is None else _takes(row, margin, counting, data, sets)
        yield f"  {row.summary.title}: {_finds(row, counting, sets)}{_counting(counting, items)}{takes}"


def _finds(row: Row, counting: int, sets: int) -> str:
    above, below = row.detectable(counting, sets) if counting else (None, None)
    sides = {"": above} if above == below else {" above": above, " below": below}
    told = [f"{number(x)}{apart(row.summary.unit)}{side}" for side, x in sides.items() if x is not None]
    if told:
        return " or ".join(told)
    best = least_share(counting)
    if row.spread is not None or best is None:
        return "nothing"
    return f"random sets are all alike here; at best a change in {100 * best:.2g}% of the items that count"


def _takes(row: Row, margin: float, counting: int, data: int, sets: int) -> str:
    """The ``--limit`` with which a difference that matters is found; ``data``: items that leave ``counting`` ones."""
    said = f"{number(margin)}{apart(row.summary.unit)}"
    least = None if row.spread is None or not counting else needed(row.spread, margin, row.moving, sets=(sets,))
    if least is None:
        return f"; no amount of data is known to find {said}"
    return f"; {said} would take --limit {math.ceil(least.clusters * data / counting):,}"


def _counting(counting: int, items: int) -> str:
    return "" if counting >= items else f" (it counts in about {counted(counting, 'item', ',')})"
