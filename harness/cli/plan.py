"""``harness plan``: what a run could find and how long it would take, from a handful of its control sets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.plugins import installed
from harness.errors import HarnessError
from harness.files.terminal import Terminal, say_json

RESAMPLES = 2000


def plan(
    task: Annotated[str, typer.Option("--task", "--tasks", "-t", help="Task, as for harness eval.")],
    selector: Annotated[
        str, typer.Option("--selector", "-s", help="Selector: says where control sets lie and how large they are.")
    ],
    intervention: Annotated[str | None, typer.Option("--intervention", "-i", help="Intervention.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Model, as for harness eval.")] = "demo",
    model_args: Annotated[str, typer.Option("--model_args", "--model-args", "-a", help="Loader parameters.")] = "",
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:0, mps; default: the best.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="Metric; may be repeated; default: the task's.")
    ] = None,
    controls: Annotated[
        int | None, typer.Option("--controls", help="Control sets of the run that is planned; default: as for eval.")
    ] = None,
    hold_out: Annotated[
        float | None, typer.Option("--hold_out", "--hold-out", help="As for eval: share that only the selector sees.")
    ] = None,
    match: Annotated[str, typer.Option("--match", help="As for eval: none, norm or activation.")] = "none",
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 0,
    engine: Annotated[str, typer.Option("--engine", help="auto or hooks, as for eval.")] = "auto",
    batch_size: Annotated[
        int, typer.Option("--batch_size", "--batch-size", "-b", help="Prompts in a forward pass.")
    ] = 64,
    limit: Annotated[int, typer.Option("--limit", "-L", help="Items of the task's data that are looked at.")] = 100,
    sets: Annotated[
        int | None,
        typer.Option("--sets", help="Control sets that are looked at; default: 100 where they are cheap, else 12."),
    ] = None,
    effect: Annotated[
        float | None,
        typer.Option("--effect", help="Distance from the mean of random sets to be found, in the measure's unit."),
    ] = None,
    measure: Annotated[str | None, typer.Option("--measure", help="Primary measure that is planned for.")] = None,
    registry: Annotated[
        Path | None, typer.Option("--registry", help="Registry file; default: ./registry.yaml, else the bundled one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers instead of the table.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:  # fmt: skip
    """Plan a run: which effects it could find with how many facts and controls, and how long it takes here.

    Runs the baseline and a handful of control sets on a few facts. The selected neurons are not treated, so that what
    they do cannot choose the numbers of the run that tests them.
    """
    if effect is not None and (effect == 0 or not math.isfinite(effect)):
        raise HarnessError(f"--effect: expected a distance from random sets, negative below them, got {effect:g}.")
    from harness.report.outlook import show
    from harness.report.progress import ConsoleReporter
    from harness.running.execute import plan as found_and_validated
    from harness.running.outlook import check_wanted, outlook
    from harness.running.planning import FEWEST, pilot
    from harness.running.request import model_named, specification

    if sets is not None and sets < FEWEST:
        raise HarnessError(f"--sets: expected {FEWEST} or more, got {sets}: fewer cannot tell how control sets differ.")
    found = installed()
    spec = specification(
        "harness plan",
        name="plan",
        model=model_named(model, found, model_args, device, registry),
        task=task,
        selector=selector,
        intervention=intervention,
        metrics=metric or (),
        controls=controls,
        hold_out=hold_out,
        match=match,
        seed=seed,
        engine=engine,
        batch_size=batch_size,
        limit=limit,
        resamples=RESAMPLES,
    )
    seen = pilot(
        found_and_validated(spec, found),
        ConsoleReporter(Terminal(stderr=True), quiet),
        sets,
        lambda names: check_wanted(names, effect, measure),
    )
    said = outlook(seen, spec.seed, spec.resamples, effect, measure)
    if as_json:
        say_json(said)
    else:
        show(Terminal(), said)
