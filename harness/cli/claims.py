"""``harness claims``: which claims of papers the runs of a folder confirm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.completion import OF_FIELDS
from harness.cli.making import make, telling
from harness.cli.options import Debug, Device, Output, Quiet, RegistryPath
from harness.cli.plugins import PluginFiles, installed
from harness.cli.results import format_of, print_to, write_to
from harness.files import harmless
from harness.files.terminal import say
from harness.plugin.specs import ComponentSpec

if TYPE_CHECKING:
    from harness.running.executors import Made


def claims(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=OF_FIELDS["model"],
            help="Claims on this model; default: on those that there are runs of.",
        ),
    ] = None,
    paper: Annotated[str | None, typer.Option("--paper", help="Claims of this paper only.")] = None,
    run: Annotated[bool, typer.Option("--run", help="First make the runs that are not there.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", "-L", help="Of the runs that --run makes.")] = None,
    device: Device = None,
    form: Annotated[str | None, typer.Option("--format", "-f", help="table, markdown, html or json.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write to this file; without --format its ending says in which format.")
    ] = None,
    output_path: Output = Path("reports"),
    registry: RegistryPath = None,
    quiet: Quiet = False,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Which claims of papers hold: published, ours, and whether runs confirm them.

    Reads the finished runs of a folder. Exit code 1: a claim is missed that is not known to be; 0: none is; 2, after
    the table: a run of --run could not be made.
    """
    from harness.report import claims as report
    from harness.running import claims as claimed
    from harness.running.executors import check_all_made, executor_of
    from harness.running.named import named

    form = format_of(form, out, report.FORMATS)
    found, known = installed(), claimed.registry_of_claims(registry)
    asked = claimed.papers(found, known, paper)
    of = None if model is None else claimed.model_asked(model, found, known)
    table = claimed.table_of(asked, found, known, output_path, of)
    made: list[Made] = []
    if run:
        for name, runs in claimed.missing(table, asked).items():
            specs = named(runs, known, found, model or name, device, limit)
            told = telling(found, [ComponentSpec("console", {"report": "none"})], quiet=quiet)
            made += make(specs, found, executor_of("local"), output_path, told, say_folders=True)
            told.check()
        table = claimed.table_of(asked, found, known, output_path, of)
    for note in table.notes:
        say(note, err=True)
    if form == "table":
        print_to(out, lambda console: report.show(console, table))
    elif form == "json":
        write_to(harmless.json_text(table.to_dict(), indent=2, allow_nan=False) + "\n", out)
    else:
        write_to((report.html if form == "html" else report.markdown)(table), out)
    check_all_made(made)
    raise typer.Exit(int(table.fails))
