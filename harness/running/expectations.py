"""What a run has to work with, told before its conditions are run: its items, and what so many can show at best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import HarnessError, PluginError
from harness.files.wording import counted
from harness.plugin import border
from harness.plugin.components import Task
from harness.plugin.records import Prompt
from harness.running.plan import Plan
from harness.statistics.power import items_for, least_share

SMALL = 0.01
"""A share of the items in which a change may be worth finding; how many items that takes is told."""


@dataclass(frozen=True)
class Expected:
    """What is to be expected of a run.

    Attributes:
        items: independent items that are evaluated: facts, texts. Before there are prompts: at most so many.
        data: items of the data that they come from, which ``--limit`` counts.
        there: how many the data have; None where that cannot be told.
    """

    items: int
    data: int
    there: int | None

    @property
    def limit(self) -> int:
        """The ``--limit`` that would leave items enough to find a change in :data:`SMALL` of them."""
        return -(-items_for(SMALL) * self.data // max(self.items, 1))

    def to_dict(self) -> dict[str, float | int | None]:
        """JSON values, for a run whose prompts are not made yet."""
        return {"items_at_most": self.items, "items_in_data": self.there, "smallest_share": least_share(self.items)}

    def sentence(self, prompts: int) -> str:
        """What so many prompts of these items can show, if the controls change nothing."""
        share, known = least_share(self.items), f"{counted(prompts, 'prompt')} of {counted(self.items, 'item')}"
        best = "no change" if share is None else f"a change in {100 * share:.2g}% of them"
        said = f"{known}: at best {best} is found (80% of runs, p of 0.05 or less)"
        if share is not None and share <= SMALL:
            return said
        lacks = self.there is not None and self.limit > self.there
        has = f", and the data have {self.there:,}" if lacks else ""
        takes = counted(items_for(SMALL), "item", ",")
        return f"{said}; {100 * SMALL:g}% would take about {takes}, --limit {self.limit:,}{has}"


def of_plan(plan: Plan) -> Expected | None:
    """Of a plan whose model is not loaded; None where the task cannot count its items without one."""
    there = in_data(plan.task)
    if there is None:
        return None
    asked = there if plan.limit is None else min(plan.limit, there)
    return Expected(asked, asked, there)


def of_prompts(plan: Plan, prompts: Sequence[Prompt]) -> Expected:
    """Of a plan whose prompts are made."""
    items, there = len({prompt.cluster for prompt in prompts}), in_data(plan.task)
    data = plan.limit or there or items
    return Expected(items, data if there is None else min(data, there), there)


def in_data(task: Task) -> int | None:
    """How many items a task's data have; None where it cannot tell, or they cannot be read now."""
    try:
        return border.n_items(task)
    except PluginError:
        raise
    except HarnessError:  # a run says so, in its own time
        return None
