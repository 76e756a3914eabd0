"""``harness plan``: what a run could find and how long it would take, from a handful of its control sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from harness.cli.options import Debug, Quiet, asks
from harness.cli.plugins import PluginFiles, installed
from harness.errors import HarnessError
from harness.files.terminal import Terminal, say_json
from harness.running.changes import Change
from harness.running.request import Request


@asks(left_out=("margins", "resamples", "name"), limit=100)
def plan(
    request: Request,
    changes: Sequence[Change],
    sets: Annotated[
        int | None,
        typer.Option("--sets", help="Control sets that are looked at; default: 100 where they are cheap, else 12."),
    ] = None,
    effect: Annotated[
        float | None,
        typer.Option("--effect", help="Distance from the mean of random sets to be found, in the measure's unit."),
    ] = None,
    measure: Annotated[str | None, typer.Option("--measure", help="Primary measure that is planned for.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers instead of the table.")] = False,
    quiet: Quiet = False,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Plan a run: which effects it could find with how many facts and controls, and how long it takes here.

    The options of harness eval describe the run that is planned; --limit says how much of its data is looked at now.
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

    if sets is not None and sets < FEWEST:
        raise HarnessError(f"--sets: expected {FEWEST} or more, got {sets}: fewer cannot tell how control sets differ.")
    found = installed()
    spec = replace(request, name="plan").specification(found, "harness plan", changes)
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
