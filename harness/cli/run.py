"""``harness run``: runs of the registry, here or on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import completion
from harness.cli.making import make, telling
from harness.cli.options import (
    Config,
    Debug,
    Device,
    DryRun,
    ExecutorName,
    Fresh,
    Json,
    Output,
    Quiet,
    RegistryPath,
    Reports,
    Set,
    registry_at,
)
from harness.cli.plugins import PluginFiles, installed
from harness.errors import HarnessError
from harness.plugin.specs import ComponentSpec


def run(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Runs, or suites of runs, of the registry; see `harness list runs`.", autocompletion=completion.runs
        ),
    ] = None,
    all_runs: Annotated[bool, typer.Option("--all", help="Every run of the registry.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=completion.OF_FIELDS["model"],
            help="Run on this model, with the registry's settings for it.",
        ),
    ] = None,
    device: Device = None,
    limit: Annotated[
        str | None, typer.Option("--limit", "-L", metavar="N", help="Override the runs' limit; below 1: a share.")
    ] = None,
    settings: Set = None,
    config: Config = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Also write one page about all of them, with figures, here.")
    ] = None,
    executor: ExecutorName = "local",
    address: Annotated[
        str | None,
        typer.Option("--address", help="Of ray: auto or HOST:PORT; default: RAY_ADDRESS, else one started here."),
    ] = None,
    cpus: Annotated[
        float | None, typer.Option("--cpus_per_run", "--cpus-per-run", help="CPUs of each run; default: 1.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option("--gpus_per_run", "--gpus-per-run", help="GPUs of each run; default: none.")
    ] = None,
    max_retries: Annotated[
        int | None, typer.Option("--max_retries", "--max-retries", help="After a lost worker; default: 3.")
    ] = None,
    output_path: Output = Path("reports"),
    registry: RegistryPath = None,
    report: Reports = None,
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Run named evaluations of the registry.

    A run that cannot be made is named, and the others go on; the exit code is 2 then.
    """
    from harness.running.changes import changes_of
    from harness.running.executors import check_all_made, executor_of
    from harness.running.named import named

    found = installed()
    options = {"address": address, "cpus": cpus, "gpus": gpus, "max_retries": max_retries}
    chosen = executor_of(executor, options)
    known = registry_at(registry)
    if names and all_runs:
        raise HarnessError(f"--all: it is in place of names; leave it or {', '.join(names)} out.")
    if not (names or all_runs):
        raise HarnessError(
            f"name one or more runs, or pass --all; {known.path} has: {', '.join(known.runs) or 'none'}."
        )
    specs = named(names or list(known.runs), known, found, model, device, limit, changes_of(settings or (), config))
    reports: list[str | ComponentSpec] = [*known.report, *(report or ())]
    if markdown is not None:
        suite = known.suites.get(names[0]) if names and len(names) == 1 else None
        page = {"title": names[0], "description": suite.description} if names and suite else {}
        reports.append(ComponentSpec("markdown", {"folder": str(markdown), **page}))
    told = telling(found, reports, as_json, quiet)
    made = make(specs, found, chosen, output_path, told, fresh=fresh, as_json=as_json, dry_run=dry_run)
    check_all_made(made)
    told.check()
