"""The corpus that every Python brings along."""

from __future__ import annotations

import sys

import pytest

from harness.builtin.python_docs import PythonDocs, prose
from harness.errors import HarnessError


def test_it_is_prose_of_many_topics() -> None:
    documents = list(PythonDocs().documents())
    words = sum(len(text.split()) for text in documents)
    assert len(documents) > 50 and words > 20_000
    assert not any("::=" in line and line.startswith(" ") for text in documents for line in text.splitlines())
    assert PythonDocs().data_digest() == PythonDocs().data_digest() and documents == list(PythonDocs().documents())


def test_headings_code_and_grammar_are_left_out() -> None:
    heading, grammar = 'The "pass" statement\n********************', '   pass_stmt ::= "pass"\n   again'
    topic = f"{heading}\n\n{grammar}\n\nIt does\nnothing.  At all.\n\n\nSo be it\nfor now.\n"
    assert prose(topic) == "It does nothing. At all.\nSo be it for now."


def test_a_python_without_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(HarnessError, match=r"corpus python_docs: this Python comes without .* name another corpus"):
        list(PythonDocs().documents())
