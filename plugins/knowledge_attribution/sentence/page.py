"""An attribution as one web page: heat maps, tables of neurons with their tokens, attention patterns; no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness import __version__
from harness.files.harmless import html_environment
from harness.files.store import write_bytes
from harness.report.formatting import cell
from harness.report.page_assets import assets

from ..tables import words
from .attribution import Attribution
from .query import Query
from .wording import LENS, QUERY, heading, share, standing

POSITIVE, NEGATIVE = "213, 94, 0", "0, 114, 178"
"""Okabe and Ito's vermilion and blue; the numbers stand in the cells, too."""


def write(path: Path, several: Sequence[Attribution], of: Sequence[str], paths: Sequence[tuple[str, str]]) -> None:
    """Write the page of one sentence, a section for each target.

    Raises:
        HarnessError: the file cannot be written.
    """
    write_bytes(path, html(several, of, paths).encode())


def html(several: Sequence[Attribution], of: Sequence[str], paths: Sequence[tuple[str, str]]) -> str:
    """The page."""
    environment = html_environment("harness_plugins.knowledge_attribution.sentence")
    parts = [part for found in several for part in _parts(found, of, paths)]
    context = {
        "heading": heading(several[0]) if len(several) == 1 else f'"{several[0].sentence.text}"',
        "model": several[0].sentence.model.name,
        "parts": parts,
        "note": LENS,
        "version": __version__,
        **assets(),
    }
    return environment.get_template("sentence.html.j2").render(context).strip() + "\n"


def _parts(found: Attribution, of: Sequence[str], paths: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    positions = [f"{i} {words([text])}" for i, text in enumerate(found.tokens)]
    layers = [str(layer) for layer in found.layers["layer"]]
    lens = found.lens[["layer", "log_p", "says", "attention", "mlp"]]
    parts = [
        {"title": f'"{found.target}"', "sentences": [standing(found)],
         "tables": [_table("The most likely next tokens", found.predicted)], "maps": []},
        {"title": "Layers", "tables": [_table("Tokens of the stream that enters a layer, and of what it adds", lens)],
         "maps": [
             _heat("Increase by the whole attention and MLP of every layer (nats)", layers, ["attention", "MLP"],
                   found.layers[["attention", "mlp"]].to_numpy(), "layer"),
             _heat("Increase by what the attention of a layer brings from each source position (nats)", layers,
                   positions, found.sources.to_numpy(), "layer"),
             _said(found, layers, positions),
         ]},
        {"title": "Heads", "tables": [_table("The first heads, where they look, and what they write", found.heads)],
         "maps": [
             _heat("Increase by every head (nats)", layers, [str(x) for x in found.head_map.columns],
                   found.head_map.to_numpy(), "layer"),
             _heat("What the last position attends to in the first heads", list(found.patterns.index), positions,
                   found.patterns.to_numpy(), "head"),
         ]},
        {"title": "Neurons", "maps": [], "tables": [
            _table("FFN value neurons; reads: tokens along which their keys (input weights) point", found.neurons),
            _table("Attention neurons, by source position", found.attention_neurons),
        ]},
        *(_query(found.query(name)) for name in of),
    ]  # fmt: skip
    if paths:
        tables = [_table(f"{neuron} through {head}", found.path(neuron, head)) for neuron, head in paths]
        parts.append({"title": "Paths", "tables": tables, "maps": []})
    return parts


def _query(query: Query) -> dict[str, Any]:
    layers = [str(layer) for layer in query.layers["layer"]]
    columns = ["query_only", "both", "value_only"]
    maps = [
        _heat("Shares by layer (%)", layers, ["attention", "MLP"],
              100 * query.layers[["attention", "mlp"]].to_numpy(), "layer"),
    ]  # fmt: skip
    if len(query.values) > 1:
        title = f"FFN neurons among the first {query.counted} query and value neurons, by layer"
        names = [name.replace("_", " ") for name in columns]
        maps.append(_heat(title, layers, names, query.roles[columns].to_numpy(), "layer"))
    shares = ", ".join(f"{row.part} {share(row.share)}" for row in query.parts.itertuples())
    return {
        "title": f"What activates {query.title}",
        "sentences": [f"Of the pre-activation: {shares}.", QUERY],
        "tables": [
            _table("Query neurons", query.neurons),
            _table("Value neurons, and the position that each reads", query.value_neurons) | {"folded": True},
        ],
        "maps": maps,
    }


def _table(title: str, frame: pd.DataFrame) -> dict[str, Any]:
    """A table of text and numbers; numbers with their values, by which they are sorted."""
    rows = [[_entry(value) for value in row] for row in frame.itertuples(index=False)]
    return {"title": title, "columns": [name.replace("_", " ") for name in frame.columns], "rows": rows}


def _entry(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"text": words(value), "number": None}
    if isinstance(value, str):
        return {"text": words([value]), "number": None}
    return {"text": cell(value), "number": float(value)}


def _heat(title: str, rows: Sequence[str], columns: Sequence[str], values: np.ndarray, corner: str) -> dict[str, Any]:
    """A map [rows, columns]: the largest value has the strongest colour."""
    limit = float(np.abs(values).max(initial=0.0)) or 1.0
    cells = [[{"text": _short(value, limit), "tint": _tint(value / limit)} for value in row] for row in values.tolist()]
    return {"title": title, "corner": corner, "columns": columns, "rows": list(zip(rows, cells, strict=True))}


def _said(found: Attribution, layers: Sequence[str], positions: Sequence[str]) -> dict[str, Any]:
    """The logit lens by layer and position: the most likely token, coloured by its probability."""
    n = len(positions)
    rows = found.lens_by_position.to_dict("records")
    cells = [
        {"text": words([row["token"]]), "tint": _tint(row["probability"]),
         "title": f"p {row['probability']:.3f}; target {row['target']:.3g}"}
        for row in rows
    ]  # fmt: skip
    return {
        "title": "Logit lens: what the residual stream that enters a layer says at each position (colour: probability)",
        "corner": "layer",
        "columns": positions,
        "rows": [(layer, cells[i * n : (i + 1) * n]) for i, layer in enumerate(layers)],
    }


def _short(value: float, limit: float) -> str:
    """A number for a narrow cell: nothing where it is below a hundredth of the largest."""
    return "" if abs(value) < limit / 100 else f"{value:.0f}" if limit >= 100 or value == int(value) else f"{value:.2f}"


def _tint(value: float) -> str:
    """A colour over the page's own: vermilion above 0, blue below, the stronger the larger (-1 to 1)."""
    return f"rgba({POSITIVE if value > 0 else NEGATIVE}, {0.75 * min(abs(value), 1.0):.3f})"
