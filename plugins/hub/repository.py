"""A finished run as the files of a dataset repository."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness.files.owned import Written
from harness.plugin import HarnessError
from harness.report.markdown import LISTING, SUMMARY, export
from harness.results.folder import MARK, PAGE, PROVENANCE, RECORD, RunFolder, read_provenance, read_record

from .card import card, eval_results

if TYPE_CHECKING:
    import pandas as pd

Files = dict[str, bytes]
"""What is sent, by its path in the repository."""

RESULTS = ".eval_results/neuron-harness.yaml"

SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")
"""Ends of the names of environment variables whose values are never sent."""

SHORTEST = 8
"""Characters of a value that can be a secret."""


def files_of(folder: Path, to: str) -> Files:
    """The files of the repository ``to``: card, record, page, figures, tables, and as Parquet the samples, measures,
    candidates and control sets.

    Raises:
        HarnessError: the run is not finished, is damaged, or has no page; names the file.
    """
    folder = folder.parent if folder.name == RECORD else folder
    record = read_record(folder)
    if not RunFolder(folder).complete:
        raise HarnessError(f"{folder}: this run is not finished; the command that began it finishes it.")
    written = Written.read(folder / MARK)
    if changed := [path for path in written.paths if not written.holds(folder, path)]:
        raise HarnessError(f"{folder / changed[0]}: it is not as the run wrote it; make the run again with --fresh.")
    if not (folder / PAGE).is_file():
        raise HarnessError(f'{folder}: there is no page; "harness report {folder}" writes it.')
    run, provenance = harness.load_run(folder), read_provenance(folder)
    tables = {"samples": run.samples, "measures": run.measures, "units": run.neurons, "controls": run.controls}
    found = {f"data/{name}.parquet": parquet(table) for name, table in tables.items()}
    sizes = {name: len(table) for name, table in tables.items()}
    for name in (RECORD, PROVENANCE, PAGE, *(f"tables/{frame.name}.csv" for frame in record.frames)):
        found[name] = (folder / name).read_bytes()
    with tempfile.TemporaryDirectory(prefix="harness-card-") as place:
        page, _ = export([folder], Path(place), record.name, record.description)
        text = page.read_text(encoding="utf-8")
        for path in sorted(Path(place).rglob("*.png")):
            found[path.relative_to(place).as_posix()] = path.read_bytes()
    assert not {LISTING, SUMMARY} & found.keys()
    found[RESULTS] = eval_results(record, provenance, to)
    found["README.md"] = card(record, provenance, to, sizes, text)
    return found


def parquet(table: pd.DataFrame) -> bytes:
    """A data frame as Parquet, the same bytes whenever it is the same; what has no one type is JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {str(name): _column(table[name]) for name in table}
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, compression="zstd")
    return out.getvalue()


def _column(values: pd.Series[Any]) -> Any:
    import pyarrow as pa

    from harness.files.store import canonical

    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):  # numbers and texts in one column
        return pa.array([None if value is None else canonical(value) for value in values], pa.string())


def refuse_secrets(files: Files, token: str | None, environment: Mapping[str, str] = os.environ) -> None:
    """Make sure that nothing that lets anybody in is among what is sent.

    Args:
        token: what the hub is asked with.

    Raises:
        HarnessError: names the file, and what is in it (never the value).
    """
    secrets = {"the hub's token": token or ""}
    secrets |= {name: value for name, value in environment.items() if name.upper().endswith(SECRET)}
    for what, value in secrets.items():
        if len(value) >= SHORTEST:
            for path, data in files.items():
                if value.encode() in data or value in path:
                    raise HarnessError(f"{path} holds the value of {what}; nothing was sent.")
