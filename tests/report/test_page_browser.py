"""The report page in a real browser: no errors, nothing loaded, filters, sorting, colours, small screens, keyboard.

Without a Chromium these tests are skipped.
"""
# fixtures of another file

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Opened, chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_opens_without_errors_and_fits(
    browser: Any,
    conflict: Path,
    induction: Path,
    width: int,
    scheme: str,
) -> None:
    for run in (conflict, induction):
        opened = Opened(browser, run / "report.html", width, scheme)
        opened.page.wait_for_timeout(300)
        assert opened.trouble == []
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        opened.page.close()


def test_prompts_are_filtered_searched_and_sorted(browser: Any, conflict: Path) -> None:
    opened = Opened(browser, conflict / "report.html")
    page = opened.page
    page.wait_for_selector("#prompt-controls:not([hidden])")
    everything = opened.status()
    page.fill("#prompt-controls [name=search]", "no prompt holds these words")
    page.wait_for_function("s => document.getElementById('prompt-status').textContent !== s", arg=everything)
    assert page.locator("#prompt-table tbody tr").count() <= 1
    page.click("#prompt-controls [type=reset]")
    page.wait_for_function("s => document.getElementById('prompt-status').textContent === s", arg=everything)
    cell = page.locator("button.cell").first
    count = int(str(cell.text_content()))
    cell.click()
    page.wait_for_function("s => document.getElementById('prompt-status').textContent !== s", arg=everything)
    assert f"of {count} " in opened.status()
    page.click("#prompt-controls [type=reset]")
    page.select_option("#prompt-controls [name=sort]", "prompt")
    texts = page.locator("#prompt-table tbody tr").all_text_contents()
    page.check("#prompt-controls [name=descending]")
    assert page.locator("#prompt-table tbody tr").all_text_contents() != texts
    assert opened.trouble == []


def test_colours_are_switched_and_kept_apart_from_meaning(browser: Any, conflict: Path) -> None:
    opened = Opened(browser, conflict / "report.html")
    colour = "getComputedStyle(document.body).backgroundColor"
    before = opened.page.evaluate(colour)
    opened.page.click("#theme")
    assert opened.page.evaluate(colour) != before
    assert opened.trouble == []


def test_everything_that_acts_can_be_reached_by_keyboard(browser: Any, conflict: Path) -> None:
    opened = Opened(browser, conflict / "report.html")
    seen = set()
    for _ in range(60):
        opened.page.keyboard.press("Tab")
        seen.add(opened.page.evaluate("document.activeElement.tagName"))
    assert {"A", "BUTTON"} <= seen
    unnamed = (
        "[...document.querySelectorAll('button, select, input')]"
        ".filter(x => !x.labels?.length && !x.textContent.trim() && !x.ariaLabel).length"
    )
    assert opened.page.evaluate(unnamed) == 0


def test_without_scripts_the_numbers_are_there(browser: Any, conflict: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((conflict / "report.html").as_uri())
    assert page.locator("#prompt-table tbody tr").count() > 0
    assert "random controls" in str(page.text_content("body"))
    context.close()


def test_the_leaderboard_page_fits_filters_and_sorts(browser: Any, conflict: Path) -> None:
    from harness.report.leaderboard import text_of
    from harness.results.leaderboard import read
    from harness.results.leaderboard_query import Query, query_rows

    path = conflict.parent / "board.html"
    found = query_rows(read(conflict.parent / "leaderboard.jsonl"), Query(primary=True))
    path.write_text(text_of(found, "html", None, "leaderboard.jsonl"), encoding="utf-8")
    for width in (360, 1280):
        opened = Opened(browser, path, width)
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.trouble == []
    rows = opened.page.locator("#board tbody tr:visible")
    everything = rows.count()
    opened.page.fill("#search", "entropy_change")
    assert 0 < rows.count() < everything
