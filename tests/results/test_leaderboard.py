"""The leaderboard: columns of one type, filters, the newest row of each setting, exports, what it prints.

After a change of the output that is meant: ``UPDATE_GOLDEN=1 python -m pytest tests/results/test_leaderboard.py``.
"""

from __future__ import annotations

import copy
import csv
import html.parser
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkout import GOLDEN
from golden import PROVENANCE
from printed import board as printed

from harness.errors import HarnessError
from harness.report import leaderboard as board
from harness.report.parquet import parquet_bytes
from harness.results import leaderboard
from harness.results.leaderboard import COLUMNS, rows_of, typed
from harness.results.leaderboard_query import SHOWN, Filter, Query, query_rows
from harness.results.record import SCHEMA_VERSION, RunRecord

pytestmark = pytest.mark.usefixtures("blank_figures")

Harness = Callable[..., tuple[int, str, str]]


def run_rows(finished: str = PROVENANCE.finished, **changes: Any) -> list[dict[str, Any]]:
    """The rows of the golden record with some of its identity changed: ``model``, ``top``, ``limit``, ``run_id``."""
    record = json.loads((GOLDEN / "record.json").read_text(encoding="utf-8"))
    identity = record["identity"]
    identity["model"]["id"] = changes.get("model", "demo")
    identity["components"]["selector"]["params"]["top"] = changes.get("top", 6)
    identity["components"]["intervention"]["name"] = changes.get("intervention", "mean")
    identity["limit"] = changes.get("limit", 600)
    record["run_id"] = json.dumps(changes, sort_keys=True)
    return rows_of(RunRecord.read(record, "record.json"), PROVENANCE.model_copy(update={"finished": finished}))


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Three runs, the last one the newest."""
    return [
        *run_rows("2026-01-02T10:00:00Z"),
        *run_rows("2026-01-03T10:00:00Z", model="openai-community/gpt2", limit=None),
        *run_rows("2026-01-04T10:00:00Z", top=4, intervention="zero"),
    ]


@pytest.fixture
def file(rows: list[dict[str, Any]], tmp_path: Path) -> Path:
    leaderboard.append(tmp_path / "leaderboard.jsonl", rows)
    return tmp_path / "leaderboard.jsonl"


# -- rows and columns --------------------------------------------------------------------------------------------------


def test_a_row_has_every_column_in_order_and_of_its_type(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert list(row) == list(COLUMNS)
        assert typed(row) == row and all(type(typed(row)[name]) is type(row[name]) for name in row)
    assert {name for name in COLUMNS if all(row[name] is None for row in rows)} <= {
        "model_revision", "higher_is_better", "hold_out",
    }  # fmt: skip
    assert isinstance(rows[0]["wall_seconds"], float)


def mixed(n: int) -> list[dict[str, Any]]:
    """Rows with every mixture of what may be null, and whole numbers where there may be others."""
    rows = []
    for i in range(n):
        row = typed(copy.copy(run_rows()[i % 20]) | {"row_id": f"{i:04d}"})
        for j, name in enumerate(COLUMNS):
            if name not in ("row_id", "schema_version", "measure", "run_id") and (i * 7 + j * 3) % 11 == 0:
                row[name] = None
            elif COLUMNS[name] == "number" and (i + j) % 5 == 0:
                row[name] = typed({name: 3})[name]
        rows.append(row)
    return rows


def test_a_thousand_mixed_rows_load_with_datasets_and_pandas(tmp_path: Path) -> None:
    import pandas
    from datasets import Features, Value, load_dataset

    path, export = tmp_path / "leaderboard.jsonl", tmp_path / "export.json"
    base = mixed(20)
    many = [base[i % 20] | {"row_id": f"{i:04d}", "primary": True} for i in range(1000)]
    assert leaderboard.append(path, many) == 1000
    export.write_text(board.json_text(query_rows(leaderboard.read(path), Query(history=True)).rows, list(COLUMNS)))
    kinds = {"text": "string", "integer": "int64", "number": "float64", "yes/no": "bool"}
    for source in (path, export):
        data = load_dataset("json", data_files=str(source), split="train", cache_dir=str(tmp_path / "cache"))
        features: Features = data.features
        assert data.num_rows == 1000 and list(features) == list(COLUMNS)
        for name, kind in COLUMNS.items():
            if kind in kinds and any(row[name] is not None for row in many):
                wanted = "timestamp[s]" if name == "time_utc" else kinds[kind]
                assert features[name] == Value(wanted), name
        assert data[0]["neurons"] == many[0]["neurons"]
        frame = pandas.read_json(source, lines=source == path, dtype={"row_id": str})
        assert frame.shape == (1000, len(COLUMNS))
        for name, kind in COLUMNS.items():
            if kind == "number":
                assert frame[name].dtype == "float64", name
    table = pandas.read_csv(io.StringIO(board.csv_text(many, list(COLUMNS))), dtype={"row_id": str})
    assert table["value"].dtype == "float64" and table.shape == (1000, len(COLUMNS))


def test_parquet_has_the_columns_and_their_types(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    found = [typed(row) | {"finding": None} for row in mixed(20)]
    path = tmp_path / "board.parquet"
    path.write_bytes(parquet_bytes(found, list(SHOWN)))
    table = pq.read_table(path)
    assert table.to_pylist() == found
    kinds = {
        "text": "string",
        "integer": "int64",
        "number": "double",
        "yes/no": "bool",
        "list": "list<element: string>",
    }
    assert {x.name: str(x.type) for x in table.schema} == {name: kinds[kind] for name, kind in SHOWN.items()}


def test_parquet_goes_to_a_file(file: Path, tmp_path: Path, harness: Harness) -> None:
    import pyarrow.parquet as pq

    out = tmp_path / "board.parquet"
    assert harness("leaderboard", "-o", str(file), "--columns", "measure,value", "--out", str(out))[0] == 0
    assert pq.read_table(out).column_names == ["measure", "value"]
    code, _, err = harness("leaderboard", "-o", str(file), "--format", "parquet")
    assert code == 2 and "--out" in err


def test_a_run_made_again_adds_rows_only_where_its_results_changed(file: Path, rows: list[dict[str, Any]]) -> None:
    again = [row | {"time_utc": "2026-02-01T00:00:00Z", "wall_seconds": 1.0} for row in rows]
    assert leaderboard.append(file, again) == 0
    again[3]["value"] = 77.0
    assert leaderboard.append(file, again) == 1
    assert leaderboard.append(file, again) == 0
    assert leaderboard.append(file, rows) == 1  # back to what it was: that is the newest then
    found = query_rows(leaderboard.read(file), Query(primary=False))
    assert found.older == 2 and found.n == len(rows) + 2


def test_the_newest_row_of_each_setting_counts(rows: list[dict[str, Any]]) -> None:
    newer = [row | {"harness_version": "9", "run_id": "other", "time_utc": "2027-01-01T00:00:00Z"} for row in rows]
    for order in ([*rows, *newer], [*newer, *rows]):
        found = query_rows(order, Query(primary=False))
        assert found.older == len(rows) and {row["harness_version"] for row in found.rows} == {"9"}
        assert len(query_rows(order, Query(primary=False, history=True)).rows) == 2 * len(rows)
    other = [row | {"weights_sha256": "other"} for row in rows]
    assert query_rows([*rows, *other], Query(primary=False)).older == 0


def test_rows_of_another_schema_are_shown_and_counted(rows: list[dict[str, Any]]) -> None:
    old = {
        "row_id": "1",
        "schema_version": 1,
        "measure": "CKCR",
        "value": 3,
        "primary": True,
        "seed": "zero",
        "gone": 1,
    }
    found = query_rows([old, *rows], Query(measures=["CKCR"]))
    assert found.foreign == 1
    assert found.rows[-1] == {name: None for name in COLUMNS} | {
        "row_id": "1", "schema_version": 1, "measure": "CKCR", "value": 3.0, "primary": True, "finding": None,
    }  # fmt: skip
    assert "1 row is of another schema" in board.summary(found, "file")[0]
    assert any(line.split()[:6] == ["-", "-", "-", "-", "-", "3.0000"] for line in printed(found, 200).splitlines())
    assert SCHEMA_VERSION != 1


# -- which rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("model=demo", {0, 2}),
        ("model==demo", {0, 2}),
        ("model!=demo", {1}),
        ("model~GPT2$", {1}),
        ("model !~ gpt2", {0, 2}),
        ("limit=null", {1}),
        ("limit!=null", {0, 2}),
        ("limit>=600", {0, 2}),
        ("limit<600", set()),
        ("neurons=3.0", {0, 1, 2}),
        ("neurons!=3.0", set()),
        ("neurons~^3\\.", {0, 1, 2}),
        ("primary=yes", {0, 1, 2}),
        ("git_dirty=true", set()),
        ("time>2026-01-03", {1, 2}),
        ("time<=2026-01-02T10:00:00Z", {0}),
        ('selector_params~"top":4', {2}),
    ],
)
def test_filters(rows: list[dict[str, Any]], text: str, runs: set[int]) -> None:
    found = query_rows(rows, Query([Filter.parse(text)]))
    names = {"2026-01-02T10:00:00Z": 0, "2026-01-03T10:00:00Z": 1, "2026-01-04T10:00:00Z": 2}
    assert {names[row["time_utc"]] for row in found.rows} == runs


def test_measures_verdicts_and_primary(rows: list[dict[str, Any]]) -> None:
    assert {row["primary"] for row in query_rows(rows, Query()).rows} == {True}
    assert len(query_rows(rows, Query(primary=False)).rows) == len(rows)
    assert [row["measure"] for row in query_rows(rows, Query(measures=["CK_to_PK"])).rows] == ["CK_to_PK"] * 3
    verdicts = {row["verdict"] for row in rows} - {None}
    for verdict in verdicts:
        assert {row["verdict"] for row in query_rows(rows, Query(verdicts=[verdict])).rows} == {verdict}
    assert query_rows(rows, Query([Filter.parse("model=demo"), Filter.parse("limit=null")])).rows == []


@pytest.mark.parametrize("descending", [False, True])
def test_sorting_puts_null_last_and_keeps_ties_in_order(rows: list[dict[str, Any]], descending: bool) -> None:
    every = Query(primary=False, sort="value", descending=descending)
    values = [row["value"] for row in query_rows(rows, every).rows]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=descending) and None in values
    assert values == [*known, *[None] * (len(values) - len(known))]
    ties = query_rows(rows, Query(sort="metric", primary=False, descending=descending)).rows
    first = [row["time_utc"] for row in ties if row["measure"] == "CKCR"]
    assert first == sorted(first)


def test_the_newest_run_comes_first_and_the_limit_is_told(rows: list[dict[str, Any]]) -> None:
    found = query_rows(rows, Query(limit=2))
    assert [row["intervention"] for row in found.rows] == ["zero", "zero"] and found.cut == 16
    assert [row["measure"] for row in found.rows] == [row["measure"] for row in rows if row["primary"]][:2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sort", "vlaue"], '--sort: "vlaue" is no column of the leaderboard. Did you mean "value"?'),
        (["--where", "modle=x"], '--where: "modle" is no column of the leaderboard. Did you mean "model"?'),
        (["--where", "model"], '--where: "model" is no condition; write column'),
        (["--where", "value>much"], '--where: value is a number, and "much" is none.'),
        (["--where", "primary=perhaps"], "--where: primary is true or false"),
        (["--where", "limit>null"], "null has no order"),
        (["--where", "model~("], '"(" is no regular expression'),
        (["--columns", "model,velue"], '--columns: "velue" is no column of the leaderboard. Did you mean "value"?'),
        (["--measure", "CKRC"], '--measure: "CKRC" is no measure of the leaderboard. Did you mean "CKCR"?'),
        (["--verdict", "inconclusiv"], '--verdict: "inconclusiv" is no verdict. Did you mean "inconclusive"?'),
        (
            ["--format", "cvs"],
            '--format: expected one of table, csv, markdown, json, html, parquet, got "cvs". Did you mean "csv"?',
        ),
    ],
)
def test_mistakes_are_one_sentence(harness: Harness, file: Path, arguments: list[str], said: str) -> None:
    code, out, err = harness("leaderboard", "-o", file, *arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and said in err and err.count("\n") == 1


def test_a_missing_leaderboard_is_named(harness: Harness, tmp_path: Path) -> None:
    code, _, err = harness("leaderboard", "-o", tmp_path)
    assert code == 2 and f"{tmp_path / 'leaderboard.jsonl'}: cannot be read" in err


def test_a_filter_that_nothing_meets_says_what_is_near(harness: Harness, file: Path) -> None:
    code, out, err = harness("leaderboard", "-o", file, "--where", "task=knowledge_conflit")
    assert (code, out) == (0, "")
    assert f"0 of {len(leaderboard.read(file))} rows of {file}" in err
    assert 'no row has task "knowledge_conflit". Did you mean "knowledge_conflict"?' in err


# -- what it prints and writes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "width"), [("wide", 180), ("narrow", 60)])
def test_the_table_is_as_it_was(rows: list[dict[str, Any]], name: str, width: int) -> None:
    path, text = GOLDEN / f"leaderboard_{name}.txt", printed(query_rows(rows, Query()), width)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= width


def test_what_tells_rows_apart_is_shown_and_what_does_not_is_said_once(rows: list[dict[str, Any]]) -> None:
    text = printed(query_rows(rows, Query()), 200)
    assert "entropy:top=4" in text and "entropy:top=6" in text and "limit" in text and "seed" not in text
    assert text.count("knowledge_conflict") == 1
    one = printed(query_rows(rows, Query([Filter.parse("limit=null")])), 200)
    assert "entropy:" not in one and one.splitlines()[0].endswith("selector entropy, intervention mean")
    named = printed(query_rows(rows, Query()), 200, ["task", "seed", "value"])
    assert named.count("knowledge_conflict") == 18 and named.split()[:3] == ["task", "seed", "value"]


def test_data_formats_have_all_columns_unrounded(harness: Harness, file: Path, rows: list[dict[str, Any]]) -> None:
    code, out, err = harness("leaderboard", "-o", file.parent, "--all", "--format", "json", "--sort", "row_id")
    assert (code, err) == (0, "")
    assert [{x: row[x] for x in COLUMNS} for row in json.loads(out)] == sorted(rows, key=lambda row: row["row_id"])
    code, out, _ = harness("leaderboard", "-o", file, "--measure", "CKCR", "--format", "csv", "--sort", "time")
    table = list(csv.DictReader(io.StringIO(out)))
    wanted = [row for row in rows if row["measure"] == "CKCR"]
    assert list(table[0]) == list(SHOWN) == [*COLUMNS, "finding"]
    assert [float(row["value"]) for row in table] == [row["value"] for row in wanted]
    assert table[0]["neurons"].split() == wanted[0]["neurons"] and table[1]["limit"] == ""


def test_markdown_escapes_what_would_break_it(rows: list[dict[str, Any]]) -> None:
    rows[0]["model"] = "a|b_c\nd"
    lines = board.markdown(rows[:2], ["model", "measure", "value"]).splitlines()
    assert lines[:2] == ["| model | measure | value |", "| :-- | :-- | --: |"]
    assert lines[2] == "| a\\|b\\_c d | CK\\_to\\_PK | 0.00% |"


@pytest.mark.parametrize(
    ("name", "start"),
    [("b.csv", "row_id,"), ("b.md", "| model |"), ("b.json", "[\n{"), ("b.html", "<!doctype"), ("b.txt", "task ")],
)
def test_the_ending_of_the_file_says_in_which_format(harness: Harness, file: Path, name: str, start: str) -> None:
    out = file.parent / name
    code, printed_, err = harness("leaderboard", "-o", file, "--out", out)
    assert (code, printed_) == (0, "") and f"wrote {out}" in err
    text = out.read_text(encoding="utf-8")
    assert text.startswith(start) and text.endswith("\n")
    assert harness("leaderboard", "-o", file, "--out", out)[0] == 0 and out.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", ["b.xlsx", "b.jsn", "b.pdf"])
def test_an_ending_of_no_format_is_refused_and_nothing_is_written(harness: Harness, file: Path, name: str) -> None:
    out = file.parent / name
    code, _, err = harness("leaderboard", "-o", file, "--out", out)
    assert code == 2 and f'--out: expected an ending of .csv, .md, .json, .html, .txt, .parquet, got "{name}".' in err
    assert not out.exists()
    assert harness("leaderboard", "-o", file, "--out", out, "--format", "csv")[0] == 0


class Page(html.parser.HTMLParser):
    """Rows of the page's table, and everything that its elements refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[tuple[str, str | None]] = []
        self.addresses: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.addresses += [str(found[name]) for name in ("src", "href", "srcset", "action") if name in found]
        self.scripts += tag == "script"
        self.open.append(tag)
        if tag == "td":
            self.cells.append(("", found.get("data-value")))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            text, value = self.cells[-1]
            self.cells[-1] = (text + data, value)


def test_the_page_stands_alone_and_escapes(rows: list[dict[str, Any]]) -> None:
    wicked = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    rows[0]["model"] = rows[1]["model"] = wicked
    found = query_rows(rows, Query(primary=False))
    text = board.page(found, ["model", "measure", "value", "verdict"], "reports/<b>.jsonl")
    page = Page()
    page.feed(text)
    assert page.scripts == 1 and page.addresses == [] and "onerror=alert" not in re.sub(r"&lt;.*?&gt;", "", text)
    assert not re.search(r"https?:|@import|url\(", text)
    assert len(page.cells) == 4 * len(rows)
    shown = [cell for cell, _ in page.cells[0::4]]
    assert shown.count(wicked) == 2
    numbers = [value for _, value in page.cells[2::4]]
    assert [float(x) if x else None for x in numbers] == [row["value"] for row in found.rows]  # type: ignore[arg-type]
    assert text == board.page(found, ["model", "measure", "value", "verdict"], "reports/<b>.jsonl")


def test_a_line_that_is_no_row_is_refused(file: Path) -> None:
    n = len(file.read_text().splitlines())
    file.write_text(file.read_text() + "[]\n")
    with pytest.raises(HarnessError, match=f"line {n + 1}: this is not a leaderboard row"):
        leaderboard.read(file)
