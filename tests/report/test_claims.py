"""What is shown of claims.

After a change of the output that is meant: ``UPDATE_GOLDEN=1 python -m pytest tests/report/test_claims.py``.
"""

from __future__ import annotations

import io
import os
from typing import Any

import pytest
from checkout import GOLDEN

from harness.files.terminal import Terminal
from harness.report import claims
from harness.results.claims import ClaimTable

SOURCES = [
    {"name": "nobody2020", "title": "Loud Neurons", "by": "Nobody 2020", "url": "https://example.org/1"},
    {"name": "other2021", "title": "Quiet Neurons", "by": "Other 2021", "url": "https://example.org/2"},
]


def row(claim: str, model: str, judged: dict[str, Any], paper: str = "nobody2020", **more: Any) -> dict[str, Any]:
    given = {"paper": paper, "claim": claim, "says": f"Neurons are {claim}.", "source": "figure 1", "model": model,
             "published": "gpt2: 3.15%", "rule": "more than random"}  # fmt: skip
    return {**given, "judged": judged, **more}


def found() -> ClaimTable:
    run = {"name": "copying", "folder": "reports/copying-1", "about": "1,767 prompts, 199 control sets"}
    ours = {"value": 3.2, "low": 2.1, "high": 4.5, "unit": "%", "controls": 0.42}
    tested = [
        row("loud", "demo", {"outcome": "confirmed", "why": "more than random", **ours}, tested_on=run),
        row("loud", "gpt2", {"outcome": "not run", "why": ""}, command="harness run copying --model gpt2"),
        row("big", "demo", {"outcome": "missed", "why": "less than random: 3.2% of them", **ours}, tested_on=run),
        row("big", "gpt2", {"outcome": "missed", "why": "the value is below 5", **ours}, tested_on=run,
            known="the paper says so"),
        row("quiet", "demo", {"outcome": "cannot be tested", "why": "inconclusive: half would take --limit 900",
                              "value": -0.01, "low": -0.02, "high": 0.01, "unit": "nats"}, "other2021", published=""),
    ]  # fmt: skip
    counted = {"outcome": "missed", "why": "the published number is their PKCR", "value": 0.0399, "unit": "%"}
    recounted = [row("counted", "gpt2", counted, "other2021", known="a slip", published="0.0188")]
    return ClaimTable.read(
        {"papers": SOURCES, "models": ["demo", "gpt2"], "tested": tested, "recounted": recounted, "notes": []}, "claims"
    )


def printed(width: int) -> str:
    console = Terminal(file=io.StringIO(), width=width)
    claims.show(console, found())
    return "".join(line.rstrip() + "\n" for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["claims.md", "claims_wide.txt", "claims_narrow.txt"])
def test_claims_are_shown_as_they_were(name: str) -> None:
    widths = {"claims_wide.txt": 140, "claims_narrow.txt": 60}
    path, text = GOLDEN / name, printed(widths[name]) if name in widths else claims.markdown(found())
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert name not in widths or max(map(len, text.splitlines())) <= widths[name]


def test_outcomes_are_counted_in_words() -> None:
    assert claims.summary(found()) == (
        "5 claims tested by runs: 1 confirmed, 2 missed, 1 cannot be tested, 1 not run; 1 claim answered by published "
        "numbers: 1 missed. 2 of the missed ones were known to be."
    )


def test_the_page_is_self_contained_and_takes_text_for_what_it_is() -> None:
    data = found().to_dict()
    data["tested"][0]["says"] = "<script>alert(1)</script>\u202e"
    page = claims.html(ClaimTable.read(data, "claims"))
    body = page.partition("<body>")[2].partition("<script>")[0]
    assert "&lt;script&gt;alert(1)" in page and "<script>alert" not in page and "\u202e" not in page
    assert "default-src &#39;none&#39;" in page and 'src="' not in body and 'href="http' not in body
    for word in ("confirmed", "missed", "cannot be tested", "not run"):
        assert f">{word}</span>" in body
    assert body.count("<section") == 3 and body.count("<tr>") == 3 + 6
    assert "<code>harness run copying --model gpt2</code>" in body
