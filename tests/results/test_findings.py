"""The leaderboard's findings: what stands when all runs are taken together, and what is said of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkout import GOLDEN
from golden import PROVENANCE
from printed import board as printed

from harness.report import leaderboard as board
from harness.results import leaderboard
from harness.results.findings import in_words
from harness.results.leaderboard import rows_of, typed
from harness.results.leaderboard_query import SHOWN, Filter, Query, query_rows
from harness.results.record import SCHEMA_VERSION, RunRecord

pytestmark = pytest.mark.usefixtures("blank_figures")

Harness = Callable[..., tuple[int, str, str]]


def board_of(*runs: list[float | None], **columns: Any) -> list[dict[str, Any]]:
    """A board of runs of these adjusted p, which are their unadjusted ones, too."""
    words = {True: "more than random", False: "inconclusive"}
    return [
        typed(
            {
                "row_id": f"{i}.{j}", "schema_version": SCHEMA_VERSION, "run_id": f"run{i}", "seed": i,
                "time_utc": f"2026-01-{i + 1:02d}", "n_controls": 199,
                "measure": f"m{j}", "primary": True, "p_two_sided": p, "p_adjusted": p,
                "verdict": words[p is not None and p <= 0.05], "exploratory": False, "value": 1.0, **columns,
            }
        )
        for i, run in enumerate(runs)
        for j, p in enumerate(run)
    ]  # fmt: skip


def marks(rows: list[dict[str, Any]], **query: Any) -> dict[str, bool | None]:
    return {row["row_id"]: row["finding"] for row in query_rows(rows, Query(primary=False, **query)).rows}


def test_findings_are_told_among_all_runs_whatever_is_shown() -> None:
    rows = board_of([0.005, 0.04], [0.03], *[[0.5]] * 8)
    found = query_rows(rows, Query(measures=["m0"], sort="row_id", limit=3))
    assert [row["finding"] for row in found.rows] == [True, False, False]
    assert (found.board.n, found.board.findings, found.board.with_findings, found.board.tested) == (10, 1, 1, 11)
    assert found.board.single == 3
    alone = query_rows(rows[:2], Query()).board
    assert (alone.n, alone.findings) == (1, 2)  # .04 stands where there is no other run
    chosen = query_rows(rows, Query([Filter.parse("finding=yes")]))
    assert [row["row_id"] for row in chosen.rows] == ["0.0"] and chosen.board == found.board
    assert len(query_rows(rows, Query([Filter.parse("finding=no")])).rows) == 10


def test_a_finding_may_be_sorted_and_shown(harness: Harness, tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.jsonl"
    leaderboard.append(path, board_of([0.005], [0.9], [0.001]))
    assert "finding" not in leaderboard.read(path)[0]
    code, out, _ = harness(
        "leaderboard", "-o", path, "--sort", "p_adjusted", "--columns", "run_id,p_adjusted,finding", "--format", "csv"
    )
    assert code == 0 and out.splitlines() == [
        "run_id,p_adjusted,finding", "run2,0.001,True", "run0,0.005,True", "run1,0.9,False"
    ]  # fmt: skip
    code, out, _ = harness("leaderboard", "-o", path, "--where", "finding=yes", "--format", "json")
    assert [row["finding"] for row in json.loads(out)] == [True, True]


def test_exploratory_runs_are_no_findings_and_are_not_counted() -> None:
    rows = [*board_of([0.04]), *(row | {"run_id": f"e{i}", "row_id": f"e{i}", "exploratory": True, "seed": 99 + i}
                                 for i, row in enumerate(board_of(*[[0.001]] * 5)))]  # fmt: skip
    found = query_rows(rows, Query())
    assert (found.board.n, found.board.findings, found.board.exploratory) == (1, 1, 5)
    assert {row["finding"] for row in found.rows if row["exploratory"]} == {None}
    assert in_words(found.board)[-1] == "not among the 1 run: 5 exploratory runs"


def test_replaced_and_older_rows_are_not_counted() -> None:
    rows = board_of([0.005], [0.04])
    again = [row | {"row_id": f"new{i}", "run_id": f"new{i}", "time_utc": "2027"} for i, row in enumerate(rows)]
    old = [row | {"schema_version": 1, "p_adjusted": None, "run_id": "old", "seed": -1} for row in rows]
    found = query_rows([*rows, *again, *old], Query(history=True))
    assert (found.board.n, found.board.untested) == (2, 1)
    assert {row["row_id"]: row["finding"] for row in found.rows} == {
        "new0": True, "new1": True, "0.0": None, "1.0": None
    }  # fmt: skip


def test_runs_that_hold_out_other_facts_are_other_runs() -> None:
    rows = [*board_of([0.5], hold_out=0.0), *board_of([0.5], hold_out=0.5), *board_of([0.5])]
    rows = [row | {"row_id": str(i), "run_id": str(i)} for i, row in enumerate(rows)]
    assert query_rows(rows, Query()).board.n == 3 and query_rows([rows[0], rows[0]], Query()).board.n == 1


def test_what_a_run_itself_does_not_say_is_no_finding() -> None:
    """A broken model, or controls that do not match: the run is counted as if its p were 1."""
    rows = board_of([0.001], [0.02], [0.9])
    assert marks(rows) == {"0.0": True, "1.0": True, "2.0": False}
    rows[0]["verdict"] = "model broken"
    assert marks(rows) == {"0.0": False, "1.0": False, "2.0": False}


def test_the_footer_says_what_chance_gives_and_how_many_controls_it_takes() -> None:
    found = query_rows(board_of([0.005, 0.005], *[[0.5]] * 9), Query())
    assert in_words(found.board) == [
        "finding: 10 runs, 2 findings in 1 of them; on average at most 5% of the runs with findings have a false one "
        "(of 1: 0.05; Benjamini and Bogomolov 2014, whole board)",
        "read row by row, 2 of 11 tested measures have p <= 0.05; chance alone would give up to 0.55 on average",
        "to be found among 10 runs though no other is, a run needs 199 controls; none has fewer",
    ]
    rows = board_of(*[[0.01]] * 1, *[[0.9]] * 10)
    words = in_words(query_rows(rows, Query()).board)
    assert "11 runs, 0 findings; none stands" in words[0] and words[2].endswith(
        "a run needs 219 controls; 11 have fewer"
    )
    assert in_words(query_rows(board_of([None]), Query()).board) == [
        "finding: no run of this board can be judged beside others (1 run without an adjusted p)"
    ]


def test_the_footer_stands_below_what_shows_findings() -> None:
    found = query_rows(board_of([0.005]), Query())
    said = re.compile("[Ff]inding: 1 run, 1 finding in 1 of them")
    for columns, there in ((["value", "finding"], True), (["value"], False)):
        texts = [board.text_of(found, form, columns, "file") for form in ("markdown", "html")]
        assert [bool(said.search(text)) for text in (printed(found, 200, columns), *texts)] == [there] * 3
    assert "1 finding" not in board.csv_text(found.rows, list(SHOWN)) + board.json_text(found.rows, list(SHOWN))


def test_a_row_has_what_its_verdict_rests_on() -> None:
    record = json.loads((GOLDEN / "record.json").read_text(encoding="utf-8"))
    record["exploratory"] = "the selector saw the outcomes"
    record["identity"]["hold_out"] = 0.5
    record["measures"][0] |= {
        "n_clusters": 7, "design_effect": 1.5, "p_adjusted": 0.05, "margin": 2.0, "detectable": 3.0,
    }  # fmt: skip
    row = rows_of(RunRecord.read(record, "record.json"), PROVENANCE)[0]
    told = ("hold_out", "p_adjusted", "margin", "detectable", "n_clusters_counting", "design_effect")
    assert (row["n_clusters"], row["n_clusters_counting"]) == (record["task"]["n_clusters"], 7)
    assert [row[x] for x in told] == [0.5, 0.05, 2.0, 3.0, 7, 1.5] and row["exploratory"] is True
    assert board.cell(row, "margin") == "2.00" and board.cell(row | {"unit": "nats"}, "detectable") == "3.0000"
    record["exploratory"] = None
    assert rows_of(RunRecord.read(record, "record.json"), PROVENANCE)[0]["exploratory"] is False
