"""The leaderboard: one self-contained JSON row a run and measure, appended under a lock and flushed to the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.results import SCHEMA_VERSION, canonical, clean, digest, writing


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> int:
    """Add the rows that are not there yet (by ``row_id``); returns how many were added.

    A line that a killed process left unfinished is cut off first. Several processes may append at once.

    Raises:
        HarnessError: the file cannot be written, or holds a line that is no JSON object.
    """
    from filelock import FileLock

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            whole = _cut_torn_line(path)
            present = {row["row_id"] for row in _parse(path, whole)}
            new = [row for row in rows if row["row_id"] not in present]
            text = "".join(json.dumps(clean(row), ensure_ascii=False, allow_nan=False) + "\n" for row in new)
            with path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
    return len(new)


def read(path: Path) -> list[dict[str, Any]]:
    """All rows, oldest first; a last line that is still being written is left out.

    Raises:
        HarnessError: the file is missing, or a line is no JSON object; names the line.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}); run something first.") from error
    return _parse(path, text[: text.rfind(b"\n") + 1])


def _cut_torn_line(path: Path) -> bytes:
    """Remove an unfinished last line; returns the whole lines."""
    if not path.exists():
        return b""
    with path.open("r+b") as file:
        text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            file.truncate(len(whole))
    return whole


def _parse(path: Path, text: bytes) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
            row["row_id"]
        except (ValueError, TypeError, KeyError) as error:
            raise HarnessError(f"{path}, line {number}: this is not a leaderboard row.") from error
        rows.append(row)
    return rows


def rows_of(record: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Leaderboard rows of a run: one for each measure, each self-contained, columns of stable types."""
    identity = record["identity"]
    components = identity["components"]
    shared = {
        "schema_version": SCHEMA_VERSION,
        "run_id": record["run_id"],
        "run": record["name"],
        "time_utc": provenance["finished"],
        "harness_version": identity["harness_version"],
        "git_commit": (provenance["git"] or {}).get("commit"),
        "git_dirty": (provenance["git"] or {}).get("dirty"),
        "command": provenance["command"],
        "model": identity["model"]["id"],
        "model_revision": identity["model"]["commit"] or identity["model"]["revision"],
        "weights_sha256": identity["model"]["weights_sha256"],
        "tokenizer_sha256": identity["model"]["tokenizer_sha256"],
        "dtype": identity["model"]["dtype"],
        "device": identity["model"]["device"],
        **{kind: components[kind]["name"] for kind in ("task", "selector", "intervention")},
        **{
            f"{kind}_{key}": clean(components[kind][source]) if key != "params" else canonical(components[kind][source])
            for kind in ("task", "selector", "intervention")
            for key, source in (("version", "version"), ("params", "params"), ("distribution", "distribution"))
        },
        "data_sha256": identity["data_sha256"],
        "n_prompts": record["task"]["n_prompts"],
        "n_clusters": record["task"]["n_clusters"],
        "neurons": [x["neuron"] for x in record["selection"]["neurons"]],
        "engine": record["engine"],
        "n_controls": record["controls"]["n"],
        "control_match": record["controls"]["match"],
        "seed": identity["seed"],
        "limit": identity["limit"],
        "hardware": provenance["accelerator"] or provenance["processor"],
        "wall_seconds": provenance["wall_seconds"],
    }
    return [
        {
            "row_id": digest([record["run_id"], measure["metric"], measure["name"]])[:16],
            **shared,
            **_measure_row(measure),
        }
        for measure in record["measures"]
    ]


def _measure_row(measure: Mapping[str, Any]) -> dict[str, Any]:
    keep = [
        "metric",
        "name",
        "title",
        "unit",
        "higher_is_better",
        "primary",
        "baseline",
        "value",
        "count",
        "denominator",
        "ci_low",
        "ci_high",
        "p_greater",
        "p_less",
        "p_two_sided",
        "quantile",
        "p_holm",
        "p_bh",
        "verdict",
    ]
    control = measure["controls"]
    return {("measure" if key == "name" else key): measure.get(key) for key in keep} | {
        f"control_{key}": control.get(key) if control else None
        for key in ("mean", "sd", "standard_error", "min", "q05", "q50", "q95", "max")
    }
