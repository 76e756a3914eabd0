"""JSON lines: the bytes that are written, and which line an error names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.files.json import parse_lines
from harness.files.store import jsonl_bytes, read_jsonl

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(st.text(), VALUES, max_size=3), max_size=3)
"""Small: what is drawn is nearly all that the test costs."""


@given(ROWS)
def test_a_row_is_one_line_as_json_writes_it(rows: list[dict[str, object]]) -> None:
    try:
        expected = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    except UnicodeEncodeError:
        with pytest.raises(UnicodeEncodeError):
            jsonl_bytes(rows)
        return
    assert jsonl_bytes(rows) == expected
    assert [row for _, row in parse_lines(expected.decode(), "rows")] == rows


def test_what_is_no_number_is_null() -> None:
    assert jsonl_bytes([{"a": float("nan")}, {"a": [float("inf")]}]) == b'{"a": null}\n{"a": [null]}\n'


def test_lines_have_their_numbers() -> None:
    text = '{"a": "x\u2028y"}\r\n\n  \n[1]\nnull'
    assert list(parse_lines(text, "rows")) == [(1, {"a": "x\u2028y"}), (4, [1]), (5, None)]
    assert list(parse_lines("", "rows")) == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "rows, line 3: this is not valid JSON (Expecting property name"),
        ("[" * 100_000, "rows, line 3: this is not valid JSON (it is nested too deeply)."),
        (r'"\ud800"', r"rows, line 3: it holds '\ud800', which is half a character."),
    ],
)
def test_an_error_names_the_line(line: str, sentence: str) -> None:
    with pytest.raises(HarnessError) as error:
        list(parse_lines(f"1\n\n{line}\n2\n", "rows"))
    assert str(error.value).startswith(sentence)


def test_our_rows_are_objects(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n[1]\n', encoding="utf-8")
    with pytest.raises(HarnessError, match=r"rows\.jsonl, line 2: expected an object, got \[1\]\.$"):
        read_jsonl(path)
