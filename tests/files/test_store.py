"""Files: written whole or not at all, as clean JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.files.store import canonical, clean, digest, read_json, write_bytes, write_json


@given(
    st.recursive(
        st.none() | st.floats() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_whatever_is_written_is_json_without_nan(value: object) -> None:
    assert json.loads(canonical(value)) == json.loads(json.dumps(clean(value), allow_nan=False))


def test_numpy_becomes_plain_json() -> None:
    assert clean({"a": np.array([1.5, np.nan]), "b": np.int64(3), 4: (np.inf,)}) == {
        "a": [1.5, None],
        "b": 3,
        "4": [None],
    }


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2.0]}) == digest({"b": [2.0], "a": 1}) != digest({"a": 1, "b": [2.5]})


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"old": True})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HarnessError, match=r"cannot write .*No space left on device.*--output_path"):
        write_json(path, {"old": False})
    assert read_json(path) == {"old": True}
    assert [x.name for x in tmp_path.iterdir()] == ["file.json"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("")
    with pytest.raises(HarnessError, match="cannot write"):
        write_bytes(tmp_path / "reports" / "x.json", b"")
