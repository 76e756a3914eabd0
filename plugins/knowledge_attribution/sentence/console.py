"""An attribution for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from harness.files.harmless import line
from harness.files.terminal import Terminal
from harness.plugin import counted
from harness.report.formatting import cell

from ..tables import words
from .attribution import Attribution
from .query import Query
from .wording import LENS, QUERY, heading, share, standing

NARROW = ("suppressed", "reads", "coefficient", "weight")
"""Columns that a terminal leaves to ``--json`` and the page."""


def show(console: Terminal, found: Attribution, of: Sequence[str], paths: Sequence[tuple[str, str]]) -> None:
    """Print it."""
    for part in _parts(found, of, paths):
        console.print(part)


def _parts(found: Attribution, of: Sequence[str], paths: Sequence[tuple[str, str]]) -> Iterator[RenderableType]:
    yield Rule(Text(line(heading(found)), style="bold"), align="left")
    yield _indented(Text(standing(found)))
    yield _indented(Text(f"tokens: {line(' '.join(f'[{text}]' for text in found.tokens))}", style="dim"))
    yield from _table("Increase by layer, nats, and what the residual stream says", layers(found))
    yield from _table("Heads", found.heads)
    yield from _table("FFN value neurons", found.neurons)
    yield from _table("Attention neurons, by source position", found.attention_neurons)
    for name in of:
        yield from _query(found.query(name))
    for neuron, head in paths:
        yield from _table(f"What {neuron} brings through {head}, by source position", found.path(neuron, head))
    yield _indented(Text(f"\n{LENS}", style="dim"))


def layers(found: Attribution) -> pd.DataFrame:
    """Increases and the logit lens in one table, a row a layer."""
    lens = found.lens[["layer", "log_p", "says"]]
    return found.layers.merge(lens, on="layer")[["layer", "log_p", "attention", "mlp", "says"]]


def _query(query: Query) -> Iterator[RenderableType]:
    yield Text(f"\nWhat activates {query.title}", style="bold")
    shares = ", ".join(f"{row.part} {share(row.share)}" for row in query.parts.itertuples())
    yield _indented(Text(f"shares of the pre-activation: {shares}"))
    if len(query.values) == 1:
        value = query.value_neurons.iloc[0]
        yield _indented(
            Text(f"it reads position {value['position']}; its own increase is {value['increase']:+.3g} nats")
        )
    yield from _table("Query neurons", query.neurons)
    if len(query.values) > 1:
        roles = query.roles[["query_only", "both", "value_only"]].sum()
        told = ", ".join(f"{counted(int(n), 'neuron')} {name.replace('_', ' ')}" for name, n in roles.items())
        yield _indented(Text(f"of the first {query.counted} query and value FFN neurons: {told}"))
    yield _indented(Text(QUERY, style="dim"))


def _table(title: str, frame: pd.DataFrame) -> Iterator[RenderableType]:
    yield Text(f"\n{title}", style="bold")
    if frame.empty:
        yield _indented(Text("none", style="dim"))
        return
    columns = [name for name in frame.columns if name not in NARROW]
    grid = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for name in columns:
        text = isinstance(frame[name].iloc[0], str | list)
        grid.add_column(name.replace("_", " "), justify="left" if text else "right", overflow="fold")
    for row in frame[columns].itertuples(index=False):
        grid.add_row(*(Text(_cell(value)) for value in row))
    yield _indented(grid)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return words(value)
    if isinstance(value, str):
        return words([value])
    return cell(value)


def _indented(part: RenderableType) -> RenderableType:
    return Padding(part, (0, 0, 0, 2))
