"""The arena's board: a table for the terminal, Markdown, a page for the browser, CSV, and the power curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from harness.files import harmless
from harness.files.wording import agree, counted
from harness.results.arena import ArenaRow, Side

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from harness.files.terminal import Terminal
    from harness.plugin.records import Figure

FORMATS = ("table", "markdown", "html", "csv", "json")

COLUMNS = (
    "model", "task", "selector", "units", "effect", "95%", "p", "q", "text", "p of it", "halves", "seeds", "FDR",
    "recall",
)  # fmt: skip

BROKEN = ("halves", "seeds")
"""Columns that a narrow terminal may break into lines, before what chance would give; no other number is broken."""

NAME = 24
"""Characters of a selector that are in one line."""

LEGEND = (
    "effect: treated less the mean of the control sets, a unit that is edited (the task's first primary measure, in "
    "its unit), with its 95% interval over prompts; p: two-sided permutation test, 2(b+1)/(m+1), of several seeds "
    "twice their mean; q: p adjusted over all rows (Benjamini-Hochberg).",
    "text: the same units under the same intervention on neutral text: loss a token, in thousandths of a nat a unit.",
    "halves, seeds: intersection over union of choices on two halves of the prompts that selectors see, and of several "
    "seeds; in brackets that of random sets of that size; * is p <= .05.",
    "FDR: share of the chosen that are not planted; recall: share of the planted that were chosen (* beside chance).",
)


def lines(rows: Sequence[ArenaRow]) -> list[list[str]]:
    """The rows as people read them, in the order of :data:`COLUMNS`."""
    adjusted = _adjusted(rows)
    return [_line(row, q) for row, q in zip(rows, adjusted, strict=True)]


def _adjusted(rows: Sequence[ArenaRow]) -> list[float | None]:
    from harness.statistics import adjust

    p = [None if row.effect is None else row.effect.p for row in rows]
    return adjust(p, "bh") if any(x is not None for x in p) else p


def _line(row: ArenaRow, q: float | None) -> list[str]:
    about = [row.model, row.task, row.selector]
    if row.effect is None:
        return [*about, *["-"] * (len(COLUMNS) - len(about))]
    found, text = row.discoveries, row.specificity
    interval = "-" if row.effect.low is None else f"{row.effect.low:+.3g} to {row.effect.high:+.3g}"
    return [
        *about,
        f"{row.n_units:g}" + ("!" if row.exploratory else ""),
        _amount(row.effect),
        interval,
        _p(row.effect.p),
        _p(q),
        "-" if text is None or text.per_unit is None else f"{1000 * text.per_unit:+.3g}",
        _p(None if text is None else text.p),
        _overlap(row.halves),
        _overlap(row.across_seeds),
        "-" if found is None else f"{found.fdr:.2f}",
        "-" if found is None else f"{found.recall:.2f}" + _star(found.p),
    ]


def _amount(side: Side) -> str:
    return "-" if side.per_unit is None else f"{side.per_unit:+.3g}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _star(p: float | None) -> str:
    return "*" if p is not None and p <= 0.05 else ""


def _overlap(found: Any) -> str:
    return "-" if found is None else f"{found.iou:.2f} ({found.expected:.2f}){_star(found.p)}"


def notes(rows: Sequence[ArenaRow]) -> list[str]:
    """What the design cannot tell, and which rows there are no numbers of."""
    found = []
    remarks = dict.fromkeys(remark for row in rows for remark in row.remarks)
    for remark in remarks:
        own = [f"{row.selector} on {row.model}" for row in rows if remark in row.remarks]
        whose = "all rows" if len(own) == len(rows) else counted(len(own), "row") if len(own) > 3 else ", ".join(own)
        found.append(f"{remark} ({whose}).")
    for row in rows:
        if row.refused is not None:
            found.append(f"{row.selector} on {row.model}, {row.task}: {row.refused}")
    if any(row.exploratory for row in rows):
        found.append("! marks rows whose selector saw prompts that are evaluated: exploratory.")
    sides = [row.effect for row in rows if row.effect is not None]
    least = [min(1.0, (4 if len(x.seeds) > 1 else 2) / (min(run.m for run in x.seeds) + 1)) for x in sides]
    if least:
        found.append(
            f"The smallest p that so many controls and seeds can give is {min(least):.2g} to {max(least):.2g}."
        )
    families = sum(row.effect is not None for row in rows)
    found.append(f"{counted(families, 'row')} {agree(families, 'has', 'have')} numbers; q is over these.")
    return [f"{note[:1].upper()}{note[1:]}" for note in found]


# -- outputs -----------------------------------------------------------------------------------------------------------


def _boards(rows: Sequence[ArenaRow]) -> dict[str, list[list[str]]]:
    """The lines of each model and task, without these two columns, under what they are of."""
    found: dict[str, list[list[str]]] = {}
    for line in lines(rows):
        found.setdefault(f"{line[0]}, {line[1]}", []).append(line[2:])
    return found


def show(console: Terminal, rows: Sequence[ArenaRow]) -> None:
    """Print the board, a table for each model and task."""
    for of, own in _boards(rows).items():
        table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False, header_style="dim")
        for i, name in enumerate(COLUMNS[2:]):
            place: dict[str, Any] = {"justify": "right"} if i else {"max_width": NAME}
            table.add_column(name, no_wrap=name not in BROKEN, overflow="fold", **place)
        for line in own:
            table.add_row(*map(Text, line))
        console.print(Text(of, style="bold"))
        console.print(table)
    for note in (*LEGEND, *notes(rows)):
        console.print(Text(note, style="dim"))


def markdown(rows: Sequence[ArenaRow], title: str = "Arena", figures: Sequence[str] = ()) -> str:
    """The board as a page of Markdown: a table for each model and task, remarks, figures, a command for each row."""
    head = [list(COLUMNS[2:]), [":--", *["--:"] * (len(COLUMNS) - 3)]]
    parts = [f"# {harmless.markdown(title)}\n"]
    for of, own in _boards(rows).items():
        body = [*head, *([str(harmless.markdown(x)) for x in line] for line in own)]
        parts.append(f"## {harmless.markdown(of)}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in body))
    parts.append("".join(f"- {harmless.markdown(x)}\n" for x in (*LEGEND, *notes(rows))))
    parts += [f"![{harmless.markdown(x)}]({harmless.markdown_link(x)})\n" for x in figures]
    commands = "".join(f"    {harmless.line(row.command)}\n" for row in rows)
    parts.append(f"## Each row by itself\n\n{commands}")
    return "\n".join(parts)


def page(rows: Sequence[ArenaRow], source: str) -> str:
    """The board as one HTML page that works offline: a table for each model and task without columns that have nothing,
    then who finds how much of what was planted, what the columns say, and the command of each row."""
    from harness.report.page_assets import assets, drawn_here

    boards = []
    for of, own in _boards(rows).items():
        names = COLUMNS[2:]
        kept = [i for i in range(len(names)) if i == 0 or any(line[i] != "-" for line in own)]
        cells = [[{"text": line[i], "value": _sortable(line[i])} for i in kept] for line in own]
        empty = [name for i, name in enumerate(names) if i not in kept]
        columns = [names[i] for i in kept]
        boards.append({"of": of, "columns": columns, "lines": cells, "empty": " or ".join(empty)})
    curve = power(rows)
    return (
        harmless.html_environment()
        .get_template("arena.html.j2")
        .render(
            **assets(),
            source=source,
            boards=boards,
            figures=[] if curve is None else [drawn_here(curve)],
            legend=LEGEND,
            notes=notes(rows),
            rows=rows,
        )
    )


def _sortable(text: str) -> str:
    number = text.split(" ")[0].rstrip("*!").lstrip("<").strip()
    return "" if number == "-" else number


def csv_text(rows: Sequence[ArenaRow]) -> str:
    """The board's columns as CSV."""
    return harmless.csv_text(COLUMNS, lines(rows))


def power(rows: Sequence[ArenaRow]) -> Figure | None:
    """How many planted units of each strength every selector finds, over models and seeds, with Wilson's intervals;
    None where nothing is planted."""
    from scipy.stats import binomtest

    from harness.plugin.records import Figure

    tallies: dict[tuple[str, float], list[int]] = {}
    for row in rows:
        for level in row.discoveries.levels if row.discoveries else ():
            tally = tallies.setdefault((row.selector, level.strength), [0, 0])
            tally[0] += level.found
            tally[1] += level.planted
    if not tallies:
        return None
    keys = sorted(tallies)
    intervals = [binomtest(*tallies[key]).proportion_ci(method="wilson") for key in keys]
    share = [tallies[key][0] / tallies[key][1] for key in keys]
    low, high = [x.low for x in intervals], [x.high for x in intervals]
    names = list(dict.fromkeys(name for name, _ in keys))

    def draw(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for i, name in enumerate(names):
            own = [j for j, key in enumerate(keys) if key[0] == name]
            x = [keys[j][1] * 1.03 ** (i - len(names) / 2) for j in own]  # apart, so that bars can be told
            bars = [[share[j] - low[j] for j in own], [high[j] - share[j] for j in own]]
            label = harmless.figure(name)
            axes.errorbar(x, [share[j] for j in own], bars, marker="o", markersize=3, linewidth=1, label=label)
        axes.set(xscale="log", ylim=(-0.03, 1.03), xlabel="planted strength, nats", ylabel="share found")
        strengths = sorted({key[1] for key in keys})
        axes.set_xticks(strengths, [f"{x:g}" for x in strengths])
        axes.minorticks_off()
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))

    data: dict[str, list[Any]] = {
        "selector": [name for name, _ in keys],
        "strength": [strength for _, strength in keys],
        "found": [tallies[key][0] for key in keys],
        "planted": [tallies[key][1] for key in keys],
        "share": share,
        "low": low,
        "high": high,
    }
    title = "How strong must a unit be to be found? Share of the planted units found, by their strength; 95% intervals."
    return Figure("power", title, data, draw, (5.2, 2.6))
