"""The console report of a fixed record, as golden text: wide, narrow, and with what can be missing missing.

After a change that is meant: ``UPDATE_GOLDEN=1 python -m pytest tests/report/test_console.py``, and read what differs.
"""

from __future__ import annotations

import copy
import json
import os
import re
from typing import Any

import pytest
from checkout import GOLDEN, ROOT
from printed import printed

from harness.report.certainty import certainty
from harness.report.formatting import undefined
from harness.results.record import RunRecord
from harness.statistics import VERDICTS


@pytest.fixture
def record() -> dict[str, Any]:
    return json.loads((GOLDEN / "record.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "width"), [("wide", 120), ("narrow", 60)])
def test_report_is_as_it_was(record: dict[str, Any], name: str, width: int) -> None:
    path, text = GOLDEN / f"report_{name}.txt", printed(record, width)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= width


def test_colour_changes_nothing_but_colour(record: dict[str, Any]) -> None:
    coloured = printed(record, 120, force_terminal=True, color_system="truecolor")
    assert "\x1b[" in coloured
    bare = "".join(line.rstrip() + "\n" for line in re.sub(r"\x1b\[[0-9;]*m", "", coloured).splitlines())
    assert bare == printed(record, 120)


def test_every_line_of_the_report_is_explained(record: dict[str, Any]) -> None:
    """The documentation has a section for every section, and names every primary measure and verdict."""
    page = (ROOT / "docs" / "reading-a-report.md").read_text(encoding="utf-8")
    for title in (
        "Prompts",
        "Selected neurons",
        "Before and after",
        "How sure this can be",
        "Effects beside the random controls",
        "Verdicts",
    ):
        assert f"\n## {title}\n" in page and title in printed(record, 120)
    for step in record["task"]["steps"]:
        assert f"*{step['name']}*" in page or step["name"] == "facts"
    for word in VERDICTS:
        assert f"*{word}*" in page
    for measure in record["measures"]:
        if measure["primary"] and "conversion" not in measure["title"]:
            assert f"*{measure['title']}*" in page, measure["title"]


def test_a_broken_model_and_no_controls_are_said(record: dict[str, Any]) -> None:
    broken = copy.deepcopy(record)
    broken["broken"] = "92% of the treated answers come from neither"
    for measure in broken["measures"]:
        if measure["primary"]:
            measure |= {"verdict": "model broken", "verdict_sentence": "Not interpreted."}
        measure |= {"controls": None, "p_two_sided": None, "p_holm": None}
        measure["effects"] = dict.fromkeys(measure["effects"])
    for table in broken["tables"]:
        table["control_mean"] = None
    broken["controls"]["n"] = 0
    text = printed(broken, 120)
    assert "Model broken: 92% of the treated answers come from neither." in text
    assert not re.search(r"\b(None|nan|inf)\b", text)


def test_resamples_without_a_value_are_said(record: dict[str, Any]) -> None:
    """An interval of 783 of 2,000 resamples is not one of 2,000."""
    for measure in record["measures"]:
        measure |= dict.fromkeys(("ci_undefined", "difference_undefined"), 0)
    assert undefined(RunRecord.read(record, "record.json")) == "" and "resamples, those without" not in printed(
        record, 200
    )
    first, second, third = record["measures"][:3]
    first |= {"title": "A", "ci_undefined": 3, "difference_undefined": 5}
    second |= {"title": "B", "ci_undefined": 1217}
    third |= {"ci_undefined": 9, "ci_low": None, "difference_low": None}  # no interval is shown
    said = "of at most 2,000 resamples, those without a value are left out of the interval: A, 5; B, 1,217"
    assert undefined(RunRecord.read(record, "record.json")) == said
    assert f"Note: {said}." in printed(record, 200)


def test_long_names_are_whole(record: dict[str, Any]) -> None:
    """A name without spaces that does not fit in its column is continued, in every table."""
    name = "change_of_" + 9 * "a_very_long_name_"
    measure = next(x for x in record["measures"] if x["primary"])
    measure["title"] = name
    text = printed(record, 120)
    assert "\u2026" not in text
    assert "".join(line[2:30].strip() for line in text.splitlines() if "_" in line[2:30]).count("change_of_a_very") >= 2


def test_one_primary_measure_is_no_family(record: dict[str, Any]) -> None:
    for size, end in ((1, "alpha = 0.05."), (2, "alpha = 0.05, over 2 primary measures together.")):
        record["family"] |= {"size": size}
        assert any(said.endswith(end) for said in certainty(RunRecord.read(record, "record.json")).sentences)
