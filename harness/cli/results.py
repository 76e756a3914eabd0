"""The commands about results that are there already: ``harness leaderboard``, ``compare`` and ``schema``."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.options import Debug
from harness.cli.plugins import PluginFiles
from harness.errors import HarnessError, suggest
from harness.files import harmless
from harness.files.terminal import Terminal, say, say_json

Format = Annotated[str | None, typer.Option("--format", "-f", help="table, csv, markdown, json or html.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Write to this file; without --format its ending says in which format.")
]

SUFFIXES = {
    ".csv": "csv", ".md": "markdown", ".json": "json", ".html": "html", ".txt": "table", ".parquet": "parquet"
}  # fmt: skip

WIDTH = 160
"""Of a table that is written to a file."""


def leaderboard(
    output_path: Annotated[
        Path,
        typer.Option(
            "--output_path",
            "--output-path",
            "-o",
            envvar="HARNESS_REPORTS_DIR",
            help="Reports, or a leaderboard.jsonl.",
        ),
    ] = Path("reports"),
    where: Annotated[
        list[str] | None,
        typer.Option("--where", "-w", help="column=value, !=, ~ (finds a pattern), !~, <, <=, >, >=; may be repeated."),
    ] = None,
    measure: Annotated[list[str] | None, typer.Option("--measure", help="Measure; may be repeated.")] = None,
    primary: Annotated[bool, typer.Option("--primary/--all", help="Primary measures only, or all.")] = True,
    verdict: Annotated[list[str] | None, typer.Option("--verdict", help="Verdict; may be repeated.")] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", help="Column (value, p_adjusted, time ...); default: the newest run first.")
    ] = None,
    descending: Annotated[bool, typer.Option("--descending", help="Largest first.")] = False,
    n: Annotated[int | None, typer.Option("-n", min=1, help="At most so many rows.")] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", help="Columns, separated by commas, or all; see --format csv.")
    ] = None,
    arena: Annotated[
        list[Path] | None,
        typer.Option("--arena", help="Show the board of these rows of harness arena (JSONL) instead; may be repeated."),
    ] = None,
    history: Annotated[bool, typer.Option("--history", help="Also rows that newer ones of the same replace.")] = False,
    form: Annotated[
        str | None, typer.Option("--format", "-f", help="table (default), csv, markdown, json, html or parquet.")
    ] = None,
    out: Out = None,
    debug: Debug = False,
) -> None:
    """Show the leaderboard: filter, sort, choose columns, export."""
    if arena:
        others = {"--where": where, "--measure": measure, "--verdict": verdict, "--sort": sort, "--columns": columns}
        for option, given in others.items():
            if given:
                raise HarnessError(f"{option}: it is for the leaderboard of runs, not for rows of the arena (--arena).")
        arena_board(arena, form, out)
        return
    from harness.report import leaderboard as board
    from harness.results.leaderboard import read
    from harness.results.leaderboard_query import Filter, Query, query_rows

    form = format_of(form, out, board.FORMATS)
    if form == "parquet" and out is None:
        raise HarnessError("--format parquet: it is no text; name the file with --out, such as board.parquet.")
    shown = board.columns_of(columns, form)
    conditions = [Filter.parse(text) for text in where or ()]
    query = Query(conditions, measure or (), verdict or (), primary, history, sort, descending, n)
    path = output_path / "leaderboard.jsonl" if output_path.is_dir() else output_path
    found = query_rows(read(path), query)
    if form == "table":
        print_to(out, lambda console: board.show(console, found, shown))
    elif form == "parquet":
        write_parquet(found.rows, shown or [], out)
    else:
        write_to(board.text_of(found, form, shown, str(path)), out)
    for i, note in enumerate(board.summary(found, str(path))):
        if form == "table" or i:  # data go to other programs: only what may surprise is said beside them
            say(note, err=True)


def write_parquet(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], out: Path | None) -> None:
    from harness.files.store import write_bytes
    from harness.report.parquet import parquet_bytes

    assert out is not None
    write_bytes(out, parquet_bytes(rows, columns))
    say(f"wrote {out}", err=True)


def arena_board(paths: list[Path], form: str | None, out: Path | None) -> None:
    """The board of the arena, of rows from anywhere: each is validated."""
    from harness.report import arena as board
    from harness.results.arena import read

    form = format_of(form, out, board.FORMATS)
    rows = read(paths)
    figures: list[str] = []
    if form == "markdown" and out is not None and (curve := board.power(rows)) is not None:
        from harness.report.figure_files import write_shown

        write_shown(out.parent, [curve])
        figures = [f"figures/{curve.name}.png"]
    if form == "table":
        print_to(out, lambda console: board.show(console, rows))
        return
    made = {
        "markdown": lambda: board.markdown(rows, figures=figures),
        "html": lambda: board.page(rows, ", ".join(map(str, paths))),
        "csv": lambda: board.csv_text(rows),
        "json": lambda: harmless.json_text([row.to_dict() for row in rows], indent=2, allow_nan=False) + "\n",
    }
    write_to(made[form](), out)


def compare(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Folders of two or more finished runs (or their result.json).")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also the measures that are not primary.")] = False,
    resamples: Annotated[int, typer.Option("--resamples", min=100, max=1_000_000, help="Bootstrap resamples.")] = 2000,
    form: Format = None,
    as_json: Annotated[bool, typer.Option("--json", help="As --format json.")] = False,
    out: Out = None,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Compare finished runs with the first: what differs, selected neurons, every shared measure.

    With --base and --tuned: a base model with a tuned one; see harness compare-models --help.
    """
    if not runs:
        raise HarnessError("compare: name two or more finished runs, or two models with --base and --tuned.")
    from harness.plugin.catalogue import catalogue
    from harness.report import comparison, comparison_page
    from harness.results.compare import compare as compared

    form = format_of("json" if as_json else form, out, comparison.FORMATS)
    found = compared(runs, catalogue(), resamples)
    if form == "table":
        print_to(out, lambda console: comparison.show(console, found, everything))
        if out is None:
            say("as a page for a browser: --out comparison.html (or .md, .csv, .json)", err=True)
    elif form == "json":
        write_to(harmless.json_text(found.to_dict(), indent=2, allow_nan=False) + "\n", out)
    elif form == "csv":
        write_to(comparison.csv_text(found), out)
    else:
        page = comparison_page.html if form == "html" else comparison_page.markdown
        write_to(page(found, everything), out)


def schema(
    what: Annotated[
        str, typer.Argument(help="record, provenance, sample, neuron, control, outcomes or leaderboard.")
    ] = "record",
    debug: Debug = False,
) -> None:
    """Print the JSON Schema of what is on the disk: a run's record, a row of one of its files or of the leaderboard."""
    from harness.results.schema import WHERE, json_schema

    if what not in WHERE:
        raise HarnessError(f'schema: expected one of {", ".join(WHERE)}, got "{what}".{suggest(what, WHERE)}')
    say_json(json_schema(what))


def format_of(given: str | None, out: Path | None, known: tuple[str, ...]) -> str:
    """The format that was asked for, or that the file's name asks for, or a table.

    Raises:
        HarnessError: it is unknown, or the file's name ends as no format does; names the nearest.
    """
    if given is None and out is not None and out.suffix:
        given = SUFFIXES.get(out.suffix.lower())
        if given not in known:
            endings = [ending for ending, form in SUFFIXES.items() if form in known]
            raise HarnessError(
                f'--out: expected an ending of {", ".join(endings)}, got "{out.name}".{suggest(out.suffix, endings)} '
                "--format says the format of any other."
            )
    given = given or "table"
    if given not in known:
        raise HarnessError(f'--format: expected one of {", ".join(known)}, got "{given}".{suggest(given, known)}')
    return given


def print_to(out: Path | None, show: Callable[[Terminal], None]) -> None:
    """Show on the terminal, or write what a wide one would show."""
    if out is None:
        show(Terminal())
        return
    console = Terminal(file=io.StringIO(), width=WIDTH)
    show(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # the StringIO above
    write_to("".join(f"{line.rstrip()}\n" for line in text.splitlines()), out)


def write_to(text: str, out: Path | None) -> None:
    from harness.files.store import write_bytes

    if out is None:
        say(text, end="")
    else:
        write_bytes(out, text.encode())
        say(f"wrote {out}", err=True)
