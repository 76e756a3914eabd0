"""The leaderboard as Parquet, which databases and data frames read by the column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.results.leaderboard_query import SHOWN


def parquet_bytes(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """Rows with these of the leaderboard's columns, each of its type also where all are null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "text": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "yes/no": pa.bool_(),
        "list": pa.list_(pa.string()),
    }
    schema = pa.schema([(column, types[SHOWN[column]]) for column in columns])
    table = pa.Table.from_pylist([{column: row[column] for column in columns} for row in rows], schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())
