"""``harness arena``: selectors compared on models and tasks under one protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.completion import named
from harness.cli.options import Debug, Output, Quiet, spelt
from harness.cli.plugins import PluginFiles, installed
from harness.errors import HarnessError
from harness.files.terminal import Terminal, say
from harness.files.wording import counted
from harness.plugin.specs import ComponentSpec


def arena(
    selectors: Annotated[
        str | None,
        named("selector", "--selectors", "-s", help="With commas between them; default: eight of the field."),
    ] = None,
    models: Annotated[
        str | None,
        named("model", "--models", "-m", help="Likewise; default: demo,planted:seed=1,planted:seed=2."),
    ] = None,
    tasks: Annotated[
        str | None,
        named("task", "--tasks", "-t", help="Likewise; default: planted_answer of planted models, else facts."),
    ] = None,
    intervention: Annotated[
        str,
        named("intervention", "--intervention", "-i", help="What is done to chosen units."),
    ] = "zero",
    neutral: Annotated[
        str,
        named("task", "--neutral", help="Task that says what else changes."),
    ] = "text_loss",
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, help="K: seeds 0 to K - 1.")] = 2,
    top: Annotated[
        int, typer.Option("--top", min=1, help="Units each selector may name, where it has such a parameter.")
    ] = 10,
    layer: Annotated[
        str | None, typer.Option("--layer", help="Layer for selectors that have such a parameter; -1: the last.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-L", min=1, help="Items of each task's data.")] = None,
    controls: Annotated[int | None, typer.Option("--controls", min=0, help="Control sets of each run.")] = None,
    match: Annotated[
        str, typer.Option("--match", help="Controls resemble the chosen units: none, norm, activation.")
    ] = ("none"),
    batch_size: Annotated[str, spelt("batch_size")] = "64",
    resamples: Annotated[int, typer.Option("--resamples", min=100, help="Bootstrap resamples.")] = 1000,
    output_path: Output = Path("reports"),
    quiet: Quiet = False,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Compare selectors: effect beside random units, specificity, stability, and discoveries on planted models.

    Writes arena.jsonl (a row a selector, model and task), arena.md, arena.html and the power curve into arena/ of the
    folder for results, with the runs that rows are made of.
    """
    from harness.files.store import write_bytes
    from harness.report import arena as board
    from harness.report.figure_files import write_shown
    from harness.results.arena import ArenaRow, lines_of
    from harness.running.arena import contested
    from harness.running.contest import contest
    from harness.running.telling import Telling, reporters

    found, folder = installed(), output_path / "arena"
    asked = contest(
        found, selectors, models, tasks, intervention, neutral, seeds=seeds, top=top, layer=layer, limit=limit,
        controls=controls, match=match, batch_size=batch_size, resamples=resamples,
    )  # fmt: skip
    rows: list[ArenaRow] = []
    console = ComponentSpec("console", {"progress": not quiet, "report": "none"})
    told = Telling(reporters(found, console=console))
    with told:
        for some in contested(asked, found, folder / "runs", told):
            rows += some
    if rows and all(row.refused for row in rows):
        raise HarnessError(f"harness arena: none of its {counted(len(rows), 'row')} can be made: {rows[0].refused}")
    curve = board.power(rows)
    figures = [] if curve is None else [f"figures/{curve.name}.png"]
    write_shown(folder, [] if curve is None else [curve])
    write_bytes(folder / "arena.jsonl", lines_of(rows))
    write_bytes(folder / "arena.md", board.markdown(rows, figures=figures).encode())
    write_bytes(folder / "arena.html", board.page(rows, "harness arena").encode())
    board.show(Terminal(), rows)
    say(f"wrote {folder}/arena.jsonl, arena.md, arena.html", err=True)
    told.check()
