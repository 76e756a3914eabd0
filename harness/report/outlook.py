"""A plan for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.files.terminal import Terminal
from harness.files.wording import apart, counted
from harness.report.formatting import number
from harness.report.progress import duration as minutes

Json = Mapping[str, Any]

EXPLAINED = (
    "Random sets: their mean. Spread: their standard deviation on these prompts; lasting: what is left of it, at most, "
    "with all there could be; one item: what a single independent item adds to a set's distance from the others. "
    "Smallest effect: how far above or below the mean of random sets a value must lie that about 80% of runs find, "
    "with an adjusted p of {alpha:g} or less over {family}; with so many items, or all there could be."
)

MOST = 6
"""Ways to find an effect that are shown."""


def show(console: Terminal, found: Json) -> None:
    """Print what :func:`harness.running.outlook.outlook` says."""
    for part in _parts(found):
        console.print(part)


def _parts(found: Json) -> Iterator[RenderableType]:
    yield (
        f"Looked at: {counted(found['n_clusters'], 'independent item')} ({counted(found['n_prompts'], 'prompt')}) from "
        f"{counted(found['limit'], 'item')} of data, under {counted(found['sets'], 'control set')}; engine "
        f"{found['engine']}. What is selected was not treated.{_all(found)}"
    )
    sets = counted(found["controls"], "control set")
    yield Text(f"\nSmallest effect by number of independent items, with {sets}", style="bold")
    yield Padding(_measures(found), (0, 0, 0, 2))
    family = counted(found["family"], "measure")
    yield Padding(Text(EXPLAINED.format(alpha=found["alpha"], family=family), style="dim"), (0, 0, 0, 2))
    if found["needed"] is not None:
        measure = found["measures"][0]
        yield Text(f"\nTo find {_in_unit(found['effect'], measure)} of {measure['title']}", style="bold")
        yield Padding(_needed(found, measure), (0, 0, 0, 2))
    yield Text("\nTime here", style="bold")
    yield Padding(_time(found), (0, 0, 0, 2))


def _all(found: Json) -> str:
    """What all of the data would leave."""
    there, looked = found["in_data"], found["limit"]
    if there is None or there <= looked:
        return ""
    items, prompts = (round(found[name] * there / looked) for name in ("n_clusters", "n_prompts"))
    left = f"{counted(items, 'independent item', ',')} ({counted(prompts, 'prompt', ',')})"
    return f" All {there:,} would leave about {left}."


def duration(seconds: float) -> str:
    return counted(round(seconds), "second") if seconds < 90 else minutes(seconds)


def _in_unit(value: float | None, measure: Json) -> str:
    return number(value) if value is None else f"{number(value)}{apart(measure['unit'])}"


def _grid(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def _measures(found: Json) -> Table:
    columns = [x["n_clusters"] for x in found["measures"][0]["detectable"]]
    grid = _grid("measure", "random sets", "spread", "lasting", "one item", *(f"{n:,}" for n in columns), "all")
    for row in found["measures"]:
        numbers = [number(row[name]) for name in ("mean", "sd_sets", "sd_lasting", "sd_cluster")]
        title = f"{row['title']}, {row['unit']}" if row["unit"] else row["title"]
        for side, sign in (("above", "+"), ("below", "-")):
            effects = [x[side] for x in (*row["detectable"], row["detectable_at_all"])]
            shown = ("-" if x is None else f"{sign}{number(x)}" for x in effects)
            grid.add_row(*([title, *numbers] if side == "above" else [""] * 5), *shown)
    return grid


def _needed(found: Json, measure: Json) -> RenderableType:
    if found["needed"]:
        grid = _grid("control sets", "independent items", "--limit", "time here")
        for row in found["needed"][:MOST]:
            n = (f"{row[name]:,}" for name in ("controls", "n_clusters", "limit"))
            grid.add_row(*n, duration(row["seconds"]))
        return grid
    if measure["sd_lasting"] is None:
        return Text("Random sets are all alike, or some have no value: nothing can be planned from these.")
    side = "above" if found["effect"] > 0 else "below"
    least = measure["detectable_at_all"][side]
    if least is None:
        mean = _in_unit(measure["mean"], measure)
        return Text(f"Nothing {side} the mean of random sets, {mean}, can be found: no value lies far enough from it.")
    return Text(
        f"No amount of data is enough: random sets themselves differ by {_in_unit(measure['sd_lasting'], measure)} "
        f"(standard deviation), and the smallest effect with all there could be is {_in_unit(least, measure)}."
    )


def _time(found: Json) -> str:
    seconds = found["seconds"]
    return (
        f"{duration(seconds['fixed'])} before the first prompt; {number(seconds['item'])} s for each item of data; "
        f"{number(seconds['prompt'])} s for each prompt, and {number(seconds['condition'])} s more under each control "
        "set. Statistics, figures and the page come on top."
    )
