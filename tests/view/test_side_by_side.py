"""Runs side by side: the page says what `compare` finds, and which prompts are answered otherwise."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import urlencode

import pytest
import small_runs

from harness.errors import HarnessError
from harness.plugin.catalogue import catalogue
from harness.results.compare import compare
from harness.view import side_by_side
from harness.view.site import Site


def query(*names: str) -> str:
    return urlencode([("run", name) for name in names])


@pytest.fixture(scope="module")
def site(reports: Path) -> Site:
    return Site(reports)


def test_prompts_that_are_answered_otherwise_are_found(reports: Path, names: list[str]) -> None:
    found = compare([reports / name for name in names], catalogue(), 100)
    told = side_by_side.answers([reports / name for name in names], found)
    after = [small_runs.samples(reports / name, "treated") for name in names]
    differing = [a["prompt_id"] for a, b in zip(*after, strict=True) if a["answer"] != b["answer"]]
    assert [row["id"] for row in told.rows] == differing
    assert told.sentence.startswith(f"{len(differing)} of {len(after[0])} shared prompts ")
    for row in told.rows:
        shown = [next(part["after"] for part in cell if part["kind"] == "answer") for cell in row["cells"]]
        assert shown == [next(x["answer"] for x in rows if x["prompt_id"] == row["id"]) for rows in after]


def test_a_changed_answer_is_shown_with_what_it_was(reports: Path, names: list[str], tmp_path: Path) -> None:
    folders = [Path(shutil.copytree(reports / name, tmp_path / name)) for name in names]
    found = compare(folders, catalogue(), 100)
    path = folders[1] / "samples.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    before = small_runs.samples(folders[1], "baseline")[0]["answer"]
    lines[1] = lines[1].replace('"answer": ', '"answer": "<b>another</b>", "answer_was": ')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    [row] = [x for x in side_by_side.answers(folders, found).rows if "another" in str(x["cells"])]
    assert row["cells"][1][0] == {
        "kind": "answer",
        "after": "<b>another</b>",
        "moved": True,
        "before": before,
    }
    text = side_by_side.page(tmp_path, names)
    assert "&lt;b&gt;another&lt;/b&gt;" in text and "<b>another" not in text
    assert text == side_by_side.page(tmp_path, names) and str(tmp_path) not in text.partition('<section id="runs"')[0]


def test_the_site_has_the_page_of_runs_that_are_there(site: Site, names: list[str]) -> None:
    content = site.at("compare.html", query(*names))
    assert isinstance(content.body, bytes)
    text = content.body.decode()
    assert "paired: the same" in text and "change of entropy" in text and 'class="dot" style="left:' in text
    assert "'sha256-" in content.policy and "connect-src" not in content.policy
    assert site.at("compare.html", query(*names)) is content  # kept
    for wrong, sentence in (
        (names[:1], "expected 2 to 6 different runs"),
        ([], "expected 2 to 6 different runs"),
        ([names[0], names[0]], "different runs"),
        ([names[0], "small"], "no finished run here is called small."),
        ([names[0], "../etc"], "no finished run here"),
    ):
        with pytest.raises(HarnessError, match=sentence):
            site.at("compare.html", query(*wrong))


def test_marks_lie_on_the_axis_where_their_values_do(reports: Path, names: list[str]) -> None:
    found = compare([reports / name for name in names], catalogue(), 100)
    drawn = side_by_side.plots(found)
    assert len(drawn) == sum(row.primary for row in found.measures)
    for plot, row in zip(drawn, (row for row in found.measures if row.primary), strict=True):
        dots = [mark["left"] for line in plot["lines"] for mark in line["marks"] if mark["kind"] == "dot"]
        values = [run.value for run in row.runs if run is not None and run.value is not None]
        ticks = [(float(text), at) for at, text in plot["ticks"]]
        assert all(0 <= at <= 100 for at in dots)
        (x0, at0), (x1, at1) = ticks[0], ticks[-1]
        if x0 < x1:  # places are linear in values
            expected = [at0 + (x - x0) * (at1 - at0) / (x1 - x0) for x in values]
            assert dots == pytest.approx(expected, abs=0.05)
