"""The leaderboard: one self-contained JSON row a run and measure, appended under a lock and flushed to the disk.

Every row has the columns of ``COLUMNS``, each of one type or null, so that the file loads as a table anywhere.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import jsonlines

from harness.errors import HarnessError
from harness.files.store import canonical, check_writable, clean, digest, jsonl_bytes, writing
from harness.plugin.unit_kinds import kind_named
from harness.results.provenance import Provenance
from harness.results.record import SCHEMA_VERSION, RunRecord

Type = Literal["text", "integer", "number", "yes/no", "list"]

_PARTS = ("task", "selector", "intervention")

COLUMNS: dict[str, Type] = {
    "row_id": "text",
    "schema_version": "integer",
    "run_id": "text",
    "run": "text",
    "time_utc": "text",
    "harness_version": "text",
    "git_commit": "text",
    "git_dirty": "yes/no",
    "command": "text",
    "model": "text",
    "model_revision": "text",
    "weights_sha256": "text",
    "tokenizer_sha256": "text",
    "dtype": "text",
    "device": "text",
    **dict.fromkeys(_PARTS, "text"),
    **{f"{part}_{what}": "text" for part in _PARTS for what in ("version", "params", "distribution")},
    "metric_params": "text",
    "data_sha256": "text",
    "inputs_sha256": "text",
    "n_prompts": "integer",
    "n_clusters": "integer",
    "exploratory": "yes/no",
    "neurons": "list",
    "neuron_layers": "list",
    "neuron_indices": "list",
    "engine": "text",
    "n_controls": "integer",
    "control_match": "text",
    "seed": "integer",
    "limit": "integer",
    "hold_out": "number",
    "batch_size": "integer",
    "resamples": "integer",
    "hardware": "text",
    "wall_seconds": "number",
    "metric": "text",
    "measure": "text",
    "title": "text",
    "unit": "text",
    "higher_is_better": "yes/no",
    "primary": "yes/no",
    "baseline": "number",
    "value": "number",
    "count": "integer",
    "denominator": "number",
    "n_clusters_counting": "integer",
    "design_effect": "number",
    "ci_low": "number",
    "ci_high": "number",
    "p_greater": "number",
    "p_less": "number",
    "p_two_sided": "number",
    "quantile": "number",
    "p_adjusted": "number",
    "p_holm": "number",
    "p_bh": "number",
    "margin": "number",
    "detectable": "number",
    "verdict": "text",
    **{f"control_{key}": "number" for key in ("mean", "sd", "standard_error", "min", "q05", "q50", "q95", "max")},
}
"""The columns of a row, in order, with their types."""

LARGEST = 2**63

PROVENANCE = frozenset(
    {
        "run", "time_utc", "command", "harness_version", "git_commit", "git_dirty", "hardware", "wall_seconds",
        "batch_size",
    }
)  # fmt: skip
"""Columns that say when, where and under which name a run was made, not what it is; a number of prompts in a pass that
was asked for is in a run's identity."""


def check(path: Path) -> None:
    """Find out before a run is made what would keep its rows from being added.

    Raises:
        HarnessError: the file cannot be written, or holds a line that is no row.
    """
    from filelock import FileLock

    check_writable(path.parent)  # else the lock would be waited for where none can be made
    with writing(path), FileLock(f"{path}.lock"):
        if path.exists():
            with path.open("r+b") as file:
                _newest(path, file, ())


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> int:
    """Add the rows that are not there yet; returns how many were added.

    A row is there if the newest of its ``row_id`` says the same, provenance aside: a run that was made again is added
    only where its results changed. A line that a killed process left unfinished is cut off first. Several processes may
    append at once.

    Raises:
        HarnessError: the file cannot be written, or holds a line that is no JSON object.
    """
    from filelock import FileLock

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"), path.open("a+b") as file:
            file.seek(0)
            newest, end = _newest(path, file, [row["row_id"] for row in rows])
            new = [row for row in map(clean, rows) if not _same(row, newest.get(row["row_id"]))]
            file.truncate(end)
            file.write(jsonl_bytes(new))
            file.flush()
            os.fsync(file.fileno())
    return len(new)


def _same(row: Mapping[str, Any], known: Mapping[str, Any] | None) -> bool:
    """Whether a row repeats a known one; columns that only one of them has do not count."""
    return known is not None and all(row[key] == known[key] for key in set(row) & set(known) - PROVENANCE)


def read(path: Path) -> list[dict[str, Any]]:
    """All rows, oldest first; a last line that is still being written is left out.

    Raises:
        HarnessError: the file is missing, or a line is no JSON object; names the line.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}); run something first.") from error
    return parse(path, text[: text.rfind(b"\n") + 1])


_BEGINNING = re.compile(rb'\{"row_id": "([^"\\]*)".*\}\n', re.DOTALL)
"""A line as we write it: what it is about stands first."""


def _newest(path: Path, file: BinaryIO, ids: Collection[str]) -> tuple[dict[str, dict[str, Any]], int]:
    """The newest rows of these ids, by id, and where the last whole line ends.

    A line is read as JSON where it is of one of the ids, or is not as we write it: to add to a million rows takes a
    second, to read them a minute.
    """
    wanted, end = {x.encode() for x in ids}, 0
    newest: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):  # a killed process left it, or it is being written
            break
        end += len(line)
        ours = _BEGINNING.fullmatch(line)
        if ours is None or ours[1] in wanted:
            newest |= {row["row_id"]: row for row in parse(path, line, number)}
    return newest, end


def parse(path: Path, text: bytes, first: int = 1) -> list[dict[str, Any]]:
    """The rows of whole lines of a leaderboard's file.

    Args:
        first: the number of the first line.

    Raises:
        HarnessError: a line is no row; names the first such.
    """
    rows: list[dict[str, Any]] = []
    try:
        for row in jsonlines.Reader(text.splitlines(), loads=json.loads).iter(type=dict):
            if not isinstance(row.get("row_id"), str):
                raise ValueError("row_id: expected text")
            rows.append(row)
    except (ValueError, RecursionError) as error:  # a line that is not UTF-8, no JSON or no object, too
        raise HarnessError(f"{path}, line {len(rows) + first}: this is not a leaderboard row.") from error
    return rows


def typed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with all columns, in their order and of their types; null where it has none, or one of another type.

    Numbers that are not finite, and whole ones that do not fit 64 bits, are none.
    """
    return {column: _typed(row.get(column), kind) for column, kind in COLUMNS.items()}


def _typed(value: Any, kind: Type) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    if kind == "number" and (whole or (isinstance(value, float) and math.isfinite(value))):
        return float(value)
    if kind == "list" and isinstance(value, list):
        return [str(item) for item in value]
    fits = {"text": isinstance(value, str), "integer": whole, "yes/no": isinstance(value, bool)}
    return value if fits.get(kind) else None


def rows_of(record: RunRecord, provenance: Provenance) -> list[dict[str, Any]]:
    """Leaderboard rows of a run: one for each measure, each self-contained, with the columns of ``COLUMNS``."""
    identity, selection, git = record.identity, record.selection, provenance.git
    model, components = identity.model, identity.components.by_kind()
    metrics = {metric.name: canonical(metric.params) for metric in identity.components.metrics}
    units = [kind_named(selection.unit).parse(chosen.neuron) for chosen in selection.neurons]
    shared = {
        "schema_version": SCHEMA_VERSION,
        "run_id": record.run_id,
        "run": record.name,
        "time_utc": provenance.finished,
        "harness_version": identity.harness_version,
        "git_commit": git and git.commit,
        "git_dirty": git and git.dirty,
        "command": provenance.command,
        "model": model.id,
        "model_revision": model.commit or model.revision,
        "weights_sha256": model.weights_sha256,
        "tokenizer_sha256": model.tokenizer_sha256,
        "dtype": model.dtype,
        "device": model.device,
        **{part: components[part].name for part in _PARTS},
        **{f"{part}_version": components[part].version for part in _PARTS},
        **{f"{part}_distribution": components[part].distribution for part in _PARTS},
        **{f"{part}_params": canonical(components[part].params) for part in _PARTS},
        "data_sha256": identity.data_sha256,
        "inputs_sha256": canonical(identity.inputs_sha256),
        "n_prompts": record.task.n_prompts,
        "exploratory": record.exploratory is not None,
        "neurons": [str(unit) for unit in units],
        # As columns of their own: the single neuron 3.10 is read as the number 3.1.
        "neuron_layers": [str(unit.layer) for unit in units],
        "neuron_indices": [".".join(map(str, [*unit.place.values()][1:])) or str(unit.index) for unit in units],
        "engine": record.engine,
        "n_controls": record.controls.n,
        "control_match": record.controls.match,
        "seed": identity.seed,
        "limit": identity.limit,
        "hold_out": identity.hold_out,
        "batch_size": identity.batch_size if isinstance(identity.batch_size, int) else provenance.batch_size,
        "resamples": identity.resamples,
        "hardware": provenance.hardware,
        "wall_seconds": provenance.wall_seconds,
    }
    return [
        typed(
            {
                **shared,
                **measure.to_dict(),
                **{f"control_{key}": x for key, x in (measure.controls.to_dict() if measure.controls else {}).items()},
                "row_id": digest([record.run_id, measure.metric, measure.name])[:16],
                "metric_params": metrics.get(measure.metric),
                "measure": measure.name,
                # The prompts of how many facts count towards it, beside those that the run has.
                "n_clusters_counting": measure.n_clusters,
                "n_clusters": record.task.n_clusters,
            }
        )
        for measure in record.measures
    ]
