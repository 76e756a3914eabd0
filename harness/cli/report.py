"""``harness report``: what finished runs found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Debug, Json
from harness.files.terminal import Terminal, say, say_json

if TYPE_CHECKING:
    from harness.results.record import RunRecord


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folder of a finished run (or its result.json); several with --markdown or --latex."),
    ],
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write one page about these runs, with their figures, here.")
    ] = None,
    latex: Annotated[
        Path | None, typer.Option("--latex", help="Write tables of these runs, LaTeX and CSV, to this folder.")
    ] = None,
    title: Annotated[str, typer.Option("--title", help="Title of the page.")] = "Runs",
    description: Annotated[str, typer.Option("--description", help="A sentence under the title.")] = "",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the report of a finished run again and write its page, or write a page about several."""
    from harness.report.page import write_page
    from harness.results.folder import read_record

    paths = [run / "result.json" if run.is_dir() else run for run in runs]
    records = [read_record(path) for path in paths]
    if markdown is not None:
        from harness.report.markdown import write

        write([path.parent for path in paths], markdown, title, description)
    if latex is not None:
        from harness.report.latex import export

        for table in export([path.parent for path in paths], latex):
            say(f"wrote {table}")
    if markdown is not None or latex is not None:
        return
    for path, record in zip(paths, records, strict=True):
        say(f"wrote {write_page(path.parent)}", err=True)
        show(record, path.parent, as_json)


def show(record: RunRecord, path: Path, as_json: bool) -> None:
    from harness.report import console

    if as_json:
        say_json(record.to_dict())
    else:
        console.show(Terminal(), record, path)
