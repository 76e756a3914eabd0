"""What is printed of a comparison.

After a change of the output that is meant: ``UPDATE_GOLDEN=1 python -m pytest tests/report/test_comparison.py``.
"""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
import pytest
from checkout import GOLDEN

from harness.files.store import read_json
from harness.files.terminal import Terminal
from harness.report import comparison, comparison_page
from harness.results.comparison import Comparison


@pytest.fixture
def golden() -> dict[str, Any]:
    found: dict[str, Any] = read_json(GOLDEN / "comparison.json")
    return found


def typed(found: dict[str, Any]) -> Comparison:
    return Comparison.read(found, "comparison.json")


def printed(found: dict[str, Any], width: int, everything: bool = False) -> str:
    console = Terminal(file=io.StringIO(), width=width)
    comparison.show(console, typed(found), everything)
    return "".join(line.rstrip() + "\n" for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "width"), [("wide", 130), ("narrow", 60)])
def test_the_comparison_is_printed_as_it_was(golden: dict[str, Any], name: str, width: int) -> None:
    path, text = GOLDEN / f"comparison_{name}.txt", printed(golden, width)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= width


def test_the_rest_is_shown_when_asked_for(golden: dict[str, Any]) -> None:
    assert "CK -> PK" not in printed(golden, 130) and "CK -> PK" in printed(golden, 130, everything=True)
    assert "CK -\\> PK" not in comparison_page.markdown(typed(golden)) and "CK -> PK" in comparison_page.markdown(
        typed(golden), everything=True
    )


def test_p_that_equals_alpha_is_below_it(golden: dict[str, Any]) -> None:
    """(b + 1) / (m + 1) often is 0.05 exactly, and the test is exact there."""

    def told(p: float) -> bool:
        for row in golden["measures"]:
            row["differences"][0]["p_holm"] = p if row["primary"] else None
        return "not shown to differ" in comparison.words(typed(golden))[0]

    assert not told(0.05) and told(np.nextafter(0.05, 1))


def test_the_page_is_self_contained_and_takes_text_for_what_it_is(golden: dict[str, Any]) -> None:
    golden["runs"][0]["name"] = "<script>alert(1)</script>\u202e"
    next(row for row in golden["measures"] if row["primary"])["title"] = "<b>bold</b>"
    found = comparison_page.html(typed(golden))
    assert "&lt;script&gt;alert(1)" in found and "&lt;b&gt;bold" in found and "<b>" not in found
    assert "\u202e" not in found and "<script>alert" not in found
    assert "default-src &#39;none&#39;" in found and "http" not in found.partition("<body>")[2].partition("<script>")[0]
    for sentence in comparison.words(typed(golden)):
        assert sentence.partition(";")[0][:40].replace(">", "&gt;") in found
    assert found.count("<tbody>") < comparison_page.html(typed(golden), everything=True).count("<tbody>")


def test_not_paired_is_printed_instead_of_an_interval(golden: dict[str, Any]) -> None:
    for row in golden["measures"]:
        row["differences"][0] |= {
            "paired": False,
            "low": None,
            "high": None,
            "p": None,
            "p_holm": None,
            "mcnemar": None,
        }
        row["differences"][1] = None
        row["runs"][2] = None
    for width in (60, 130):
        text = printed(golden, width)
        assert text.count("not paired") == 6 and "None" not in text and "nan" not in text
