"""A comparison of two models for a terminal, as a Markdown page and as a web page, all made from its record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from harness import __version__
from harness.files import harmless
from harness.files.terminal import Terminal
from harness.report.formatting import cell
from harness.report.page_assets import FIGURES_LIMIT, assets, pictures
from harness.results.on_disk import Values

from .record import ModelsRecord

METHOD = (
    "Chance of an overlap: random sets of the same sizes (hypergeometric). Spearman's intervals: Bonett & Wright. "
    "Behaviour: tuned minus base on the same prompts, 95% bootstrap over facts; p by exchanging the models fact by "
    "fact. p = (b + 1) / (m + 1) wherever it is counted, Holm's within each part."
)


def show(console: Terminal, record: ModelsRecord, folder: Path) -> None:
    """Print a comparison. Tables that are wider than the terminal are left to the folder."""
    for section in _sections(record, folder, console):
        console.print(section)


def _sections(record: ModelsRecord, folder: Path, console: Terminal) -> Iterator[RenderableType]:
    yield Rule(Text(record.heading, style="bold"), align="left")
    for section in record.parts:
        yield Text(f"\n{section.title}", style="bold")
        for sentence in section.sentences:
            yield _indent(Text(f"- {sentence}"))
        for frame, rows in section.short:
            yield _indent(Text(f"\n{frame.title[:1].upper()}{frame.title[1:]}", style="dim"))
            table = _indent(_table(rows))
            fits = Measurement.get(console, console.options.update(width=1000), table).maximum <= console.width
            yield table if fits else _indent(Text(f"tables/{frame.name}.csv, or a wider terminal", style="dim"))
    yield _indent(Text(f"\n{METHOD}", style="dim"))
    yield Text(
        f"\n{folder}/  report.html (this report with its figures), README.md (the same), result.json, tables/, figures/"
    )


def _indent(section: RenderableType) -> RenderableType:
    return Padding(section, (0, 0, 0, 2))


def _table(rows: Sequence[Values]) -> Table:
    grid = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for name, value in rows[0].items():
        grid.add_column(name.replace("_", " "), justify="left" if isinstance(value, str) else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell(value)) for value in row.values()))
    return grid


def markdown(record: ModelsRecord) -> str:
    """The page: sentences, short tables and figures of every section."""
    plain = harmless.markdown
    lines = [f"# {plain(record.heading)}", ""]
    for section in record.parts:
        lines += [f"## {plain(section.title)}", "", *(f"- {plain(sentence)}" for sentence in section.sentences), ""]
        for frame, rows in section.short:
            names = list(rows[0])
            lines += [f"**{plain(frame.title[:1].upper() + frame.title[1:])}**", ""]
            lines += [f"| {' | '.join(map(plain, names))} |", "|---" * len(names) + "|"]
            lines += ["| " + " | ".join(plain(cell(x)) for x in row.values()) + " |" for row in rows]
            lines += [""]
        for figure in section.figures:
            title = plain(figure.title)
            lines += [f"![{title}](figures/{figure.name}.png)", "", f"*{title}*", ""]
    return "\n".join([*lines, METHOD, ""])


def html(record: ModelsRecord, folder: Path) -> str:
    """The page for a browser: it opens from a file, offline, with the pictures of the folder's figures in it."""
    environment = harmless.html_environment()
    environment.filters["cell"] = cell
    sections, room = [], FIGURES_LIMIT
    for section in record.parts:
        figures = pictures(folder, section.figures, room)
        room -= sum(len(figure["image"]) for figure in figures)
        sections.append(
            {"title": section.title, "sentences": section.sentences, "frames": section.frames, "figures": figures}
        )
    context = {"heading": record.heading, "parts": sections, "method": METHOD, "version": __version__, **assets()}
    return environment.get_template("models.html.j2").render(context).strip() + "\n"
