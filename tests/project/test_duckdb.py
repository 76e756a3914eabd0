"""The queries that docs/scale.md shows are DuckDB's, and find what is in leaderboards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import ROOT
from fences import fences

from harness.results.leaderboard import append, read

duckdb = pytest.importorskip("duckdb")

[QUERIES] = [fence.text for fence in fences(ROOT / "docs" / "scale.md") if fence.language == "sql"]


def test_the_queries_of_the_page(
    conflict_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harness: Callable[..., tuple[int, str, str]],
) -> None:
    """Of two folders, one of which has a newer row of a measure, and of a table that was exported."""
    monkeypatch.chdir(tmp_path)
    rows = read(conflict_run.parent / "leaderboard.jsonl")
    [changed] = [row for row in rows if row["measure"] == "entropy_change"]
    append(Path("first/leaderboard.jsonl"), rows)
    append(Path("second/leaderboard.jsonl"), [{**changed, "time_utc": "2999-01-01T00:00:00Z", "verdict": "newer"}])
    assert harness("leaderboard", "--all", "-o", "first", "--out", "board.parquet")[0] == 0
    runs, newest, copied = (duckdb.execute(query).fetchall() for query in QUERIES.split(";") if query.strip())
    assert runs == [("demo", "knowledge_conflict", "entropy", 1)]
    assert newest == [("second/leaderboard.jsonl", "entropy_change", changed["n_prompts"], changed["value"], "newer")]
    assert copied == [(len(rows) + 1,)]
    kinds = dict(
        duckdb.execute("select column_name, column_type from (describe select * from 'all.parquet')").fetchall()
    )
    assert (kinds["value"], kinds["n_prompts"], kinds["neurons"]) == ("DOUBLE", "BIGINT", "VARCHAR[]")
    assert json.loads(Path("first/leaderboard.jsonl").read_text().splitlines()[0]).keys() <= kinds.keys()
