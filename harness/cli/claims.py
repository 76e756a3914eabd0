"""``harness claims``: which claims of papers the runs of a folder confirm."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.completion import OF_FIELDS
from harness.cli.options import Debug, Device, Output, Quiet, RegistryPath
from harness.cli.plugins import PluginFiles, installed
from harness.cli.results import format_of, print_to, write_to
from harness.files import harmless
from harness.files.terminal import say
from harness.plugin.specs import ComponentSpec

if TYPE_CHECKING:
    from harness.plugin.catalogue import Catalogue
    from harness.running.executors import Made
    from harness.running.registry import Registry


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
    from harness.running.executors import check_all_made

    form = format_of(form, out, report.FORMATS)
    found, known = installed(), claimed.registry_of_claims(registry)
    asked = claimed.papers(found, known, paper)
    of = None if model is None else claimed.model_asked(model, found, known)
    table = claimed.table_of(asked, found, known, output_path, of)
    made: list[Made] = []
    if run:
        for name, runs in claimed.missing(table, asked).items():
            made += _make(runs, known, found, model or name, device, limit, output_path, quiet)
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


def _make(
    runs: list[str],
    known: Registry,
    found: Catalogue,
    model: str,
    device: str | None,
    limit: int | None,
    output: Path,
    quiet: bool,
) -> list[Made]:
    """Make runs of the registry on a model, validated before the first one starts."""
    from harness.running import executors
    from harness.running.execute import grouped_by_prompts, plan
    from harness.running.named import named
    from harness.running.telling import Telling, reporters

    plans = [plan(spec, found) for spec in named(runs, known, found, model, device, limit)]
    command = shlex.join(["harness", *sys.argv[1:]])
    local = executors.executor_of("local")
    told = Telling(reporters(found, console=ComponentSpec("console", {"progress": not quiet, "report": "none"})))
    made: list[Made] = []
    with told:
        for group in executors.make(local, grouped_by_prompts(plans), output, command, False, told):
            for one in executors.finished_of(group):
                say(f"made {one.path}", err=True)
            made += group
    told.check()
    return made
