"""The report of a run for a terminal: what was asked, what was chosen, what changed, and whether it means anything.

It is made from the record alone, so that `harness report` prints it again; it reads without colour, in a pipe and in a
narrow window (below ``NARROW`` columns the measures become a list).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from harness.files.terminal import Terminal
from harness.files.wording import counted, noun_for, plural, the
from harness.report.certainty import COLUMNS, EXPLAINED, certainty
from harness.report.formatting import (
    cell,
    control,
    controls,
    effect,
    interval,
    mlp_width,
    number,
    p_value,
    question,
    stands,
    undefined,
    value,
    verdict,
)
from harness.report.table_tests import CLASSICAL, by_items, classical, moved
from harness.results import record as records
from harness.results.measures import Measure
from harness.results.on_disk import Values
from harness.results.record import RunRecord

NARROW = 100
MOST_ROWS, MOST_COLUMNS = 16, 8
"""Of a metric's tables a wide terminal shows the short ones, so many columns of them; the CSV files have everything."""

VERDICT_STYLES = {
    "more than random": "bold green",
    "less than random": "magenta",
    "opposite direction": "magenta",
    "model broken": "bold red",
    "cannot tell": "yellow",
}


def show(console: Terminal, record: RunRecord, path: Path) -> None:
    """Print the report of a finished run."""
    for part in _parts(record, path, console.width < NARROW):
        console.print(part)


def _parts(record: RunRecord, path: Path, narrow: bool) -> Iterator[RenderableType]:
    selection = record.selection
    yield Rule(Text(record.name, style="bold"), align="left")
    if record.description:
        yield record.description
    yield from _question(record)
    yield _heading("Prompts")
    yield _steps(record.task)
    selector = record.identity.components.selector.name
    yield _heading(f"Selected {noun_for(len(selection.neurons), selection.unit)} ({selector})")
    yield from _selected(selection, narrow)
    for table in record.tables:
        yield _heading(f"Before and after: {table.title}")
        yield _table(table)
        yield from _table_tests(table)
    for frame in record.frames:
        if frame.rows and frame.n <= MOST_ROWS and not narrow:
            yield _heading(frame.title[:1].upper() + frame.title[1:])
            yield _frame(frame.rows)
    yield _heading("How sure this can be")
    yield from _certainty(record, narrow)
    yield _heading("Effects beside the random controls")
    yield from _measures(record, narrow)
    yield _heading("Verdicts")
    yield from _verdicts(record)
    yield _heading("Files")
    tables = f", tables/ ({', '.join(frame.name for frame in record.frames)})" if record.frames else ""
    figures = f", figures/ ({', '.join(figure.name for figure in record.figures)})" if record.figures else ""
    leaderboard = path.parent / "leaderboard.jsonl"
    yield _indent(
        f"{path}/  report.html (this report and more, for a browser), result.json, samples.jsonl, "
        "neurons.jsonl, controls.jsonl, outcomes.safetensors, provenance.json"
        f"{tables}{figures}; one row a measure in {leaderboard}"
    )


def _heading(title: str) -> RenderableType:
    return Text(f"\n{title}", style="bold")


def _grid(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _indent(table: RenderableType) -> RenderableType:
    return Padding(table, (0, 0, 0, 2))


def _question(record: RunRecord) -> Iterator[RenderableType]:
    model, selection = record.identity.model, record.selection
    n = model.parameters
    size = f"{n / 1e9:.2f}B" if n >= 1e9 else f"{n / 1e6:.1f}M"
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    grid.add_row("question", question(record))
    grid.add_row(
        "model",
        f"{model.id}: {counted(model.n_layers, 'layer')}, d_model {model.d_model}, "
        f"{mlp_width(model.model_dump())}, "
        f"vocabulary {model.n_vocab}, {size} parameters, {model.dtype} on {model.device}, "
        f"weights {model.weights_sha256[:12]}",
    )
    grid.add_row("task", record.task.summary)
    for text in record.texts:
        grid.add_row("texts", f"{text.corpus}; read by {' and '.join(text.read_by)}")
    if record.identity.components.intervention.name != "none":
        grid.add_row("treatment", f"{selection.intervention_summary} Applied at {selection.positions}.")
    grid.add_row("controls", f"{controls(record)}; seed {record.identity.seed}, engine {record.engine}")
    yield grid


def _steps(task: records.Task) -> RenderableType:
    grid = _grid("left", "dropped", "step", right=("left", "dropped"))
    for step in task.steps:
        grid.add_row(str(step.kept), str(step.dropped or ""), f"{step.name}: {step.why}")
    return _indent(grid)


def _selected(selection: records.Selection, narrow: bool) -> Iterator[RenderableType]:
    yield _indent(f"Rule: {selection.rule}.")
    unit, scores = selection.unit, selection.scores
    rows = [{unit: chosen.neuron, **_chosen(chosen, scores)} for chosen in selection.neurons]
    if scores:
        medians = {name: number(selection.layer_medians[f"median_{name}"]) for name in scores}
        rows.append({unit: "layer median", **medians})
    columns = list(rows[0])
    if narrow or len(columns) > MOST_COLUMNS:
        for row in rows:
            cells = ", ".join(f"{key} {value}" for key, value in row.items() if key not in (unit, "range"))
            yield _indent(Text(f"{row[unit]}: {cells}" if cells else row[unit]))
    else:
        grid = _grid(*columns, right=columns[1:])
        for row in rows:
            style = "dim" if row[unit] == "layer median" else None
            grid.add_row(*(row.get(column, "") for column in columns), style=style)
        yield _indent(grid)
    if any(name in chosen.percentiles for chosen in selection.neurons for name in scores):
        note = f"In brackets: percent of the other {plural(unit)} of its layer that score lower."
        yield _indent(Text(note, style="dim"))
    if selection.warning:
        yield _indent(Text(f"Warning: {selection.warning}.", style="yellow"))
    if processing := selection.details.get("processing"):
        yield _indent(Text(f"Scores after: {processing}.", style="dim"))
    if selection.activation_positions is not None:
        yield _indent(
            Text(f"Activations over {counted(selection.activation_positions, 'prompt position')}.", style="dim")
        )


def _chosen(chosen: records.Chosen, scores: Sequence[str]) -> dict[str, str]:
    """Cells of a selected unit, by column."""
    cells = {name: stands(chosen, name) for name in scores}
    known = chosen.model_fields_set
    if "activation_mean" in known:
        spread = f"{number(chosen.activation_mean)} +- {number(chosen.activation_sd)}"
        cells |= {
            "mean +- sd": spread,
            "range": f"{number(chosen.activation_minimum)} to {number(chosen.activation_maximum)}",
        }
    if "set_to" in known:
        cells["set to"] = number(chosen.set_to)
    return cells


def _table(table: records.Table) -> RenderableType:
    names, means = table.categories, table.control_mean
    grid = _grid("before \\ after", *names, "total", right=(*names, "total"))
    for i, name in enumerate(names):
        row = table.treated[i]
        total = sum(row)
        cells = [f"{count} ({100 * count / total:.1f}%)" if total else "0" for count in row]
        grid.add_row(name, *cells, str(total))
        if means is not None:
            grid.add_row("", *(f"~ {mean:.1f}" for mean in means[i]), "", style="dim")
    grid.add_row("total", *(str(sum(row[j] for row in table.treated)) for j in range(len(names))), "", style="dim")
    return _indent(grid)


def _table_tests(table: records.Table) -> Iterator[RenderableType]:
    if table.control_mean is not None:
        yield _indent(Text("Counts and row shares; ~ is the mean count under the random controls.", style="dim"))
    tests = table.tests
    if tests is None:
        return
    yield _indent(moved(tests))
    grid = _grid("paired tests of the treated table", "", "p", right=("p",))
    for row in by_items(table, tests):
        grid.add_row(*row)
    grid.add_row(CLASSICAL, style="dim")
    for row in classical(table, tests):
        grid.add_row(*row, style="dim")
    yield _indent(grid)
    if tests.note:
        yield _indent(Text(f"Note: {tests.note}.", style="dim"))


def _frame(rows: Sequence[Values]) -> RenderableType:
    columns = list(rows[0])[:MOST_COLUMNS]
    grid = _grid(*columns, right=[name for name in columns if not isinstance(rows[0][name], str)])
    for row in rows:
        grid.add_row(*(cell(row[name]) for name in columns))
    return _indent(grid)


def _certainty(record: RunRecord, narrow: bool) -> Iterator[RenderableType]:
    found = certainty(record)
    for sentence in found.sentences:
        yield _indent(Text(sentence, style="yellow" if sentence.startswith("Exploratory") else ""))
    if not found.rows:
        return
    if narrow:
        for title, *cells in found.rows:
            told = ", ".join(f"{name} {cell}" for name, cell in zip(COLUMNS[1:], cells, strict=True))
            yield _indent(Text(f"{title}: {told}"))
    else:
        grid = _grid(*COLUMNS, right=COLUMNS[1:])
        for row in found.rows:
            grid.add_row(*row)
        yield _indent(grid)
    yield _indent(Text(EXPLAINED, style="dim"))


def _measures(record: RunRecord, narrow: bool) -> Iterator[RenderableType]:
    for title, wanted in (("primary", True), ("the rest, without correction for their number", False)):
        rows = [measure for measure in record.measures if measure.primary == wanted]
        known = [measure for measure in rows if measure.value is not None or wanted]
        if known:
            yield _indent(Text(title, style="dim"))
            yield _indent(_measure_list(known) if narrow else _measure_table(known, wanted))
        if empty := [measure.title for measure in rows if measure.value is None and not wanted]:
            yield _indent(Text(f"Without a value, because no prompt counts: {'; '.join(empty)}.", style="dim"))
    yield _indent(
        Text(
            f"Intervals: 95%, over {counted(record.task.n_clusters, 'independent item')}. Controls: mean and 5% "
            "to 95% quantiles. Effect: distance from the controls' mean in their standard deviations. p: permutation "
            f"test against {the(record.controls.n, 'control')}, 2(b+1)/(m+1), two-sided; p adj: Westfall-Young "
            f"over {the(record.family.size, 'primary measure')} (Holm's is in result.json).",
            style="dim",
        )
    )
    for remark in filter(None, [undefined(record), *record.remarks]):
        yield _indent(Text(f"Note: {remark}.", style="dim"))


def _measure_table(rows: Sequence[Measure], primary: bool) -> RenderableType:
    columns = ["measure", "treated", "95% interval", "random controls", "effect", "p", *(["p adj"] if primary else [])]
    grid = _grid(*columns, right=columns[1:])
    for measure in rows:
        cells = [
            measure.title,
            value(measure),
            interval(measure),
            control(measure),
            effect(measure),
            p_value(measure.p_two_sided),
        ]
        grid.add_row(*cells, *([p_value(measure.p_adjusted)] if primary else []))
    return grid


def _measure_list(rows: Sequence[Measure]) -> RenderableType:
    grid = Table.grid(padding=(0, 0))
    for measure in rows:
        adjusted = f", adjusted {p_value(measure.p_adjusted)}" if measure.primary else ""
        grid.add_row(Text(measure.title))
        grid.add_row(
            Padding(
                f"{value(measure)} [{interval(measure)}]; controls {control(measure)}; effect {effect(measure)}; "
                f"p {p_value(measure.p_two_sided)}{adjusted}",
                (0, 0, 0, 2),
            )
        )
    return grid


def _verdicts(record: RunRecord) -> Iterator[RenderableType]:
    if record.exploratory:
        yield _indent(Text(f"Exploratory: {record.exploratory.rstrip('.')}.", style="yellow"))
    if record.broken:
        yield _indent(Text(f"Model broken: {record.broken}.", style="bold red"))
    for measure in record.primary:
        word = Text(verdict(record, measure), style=VERDICT_STYLES.get(measure.verdict or "", ""))
        yield _indent(Text.assemble(f"{measure.title}: ", word))
        yield _indent(_indent(Text(measure.verdict_sentence or "")))
