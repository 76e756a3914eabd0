"""The report page in a real browser: no errors, nothing loaded, filters, sorting, colours, small screens, keyboard.

Without a Chromium these tests are skipped.
"""
# fixtures of another file

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Opened, chromium, expect
from commands import Harness


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


CLIPPED = """() => [...document.querySelectorAll("main *")].filter(x => !x.closest(".scroll, .picture, svg, .more")
  && x.getBoundingClientRect().width > 0 && x.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(x => x.outerHTML.slice(0, 80))"""
"""Elements that reach beyond the window, where nothing scrolls to them."""

TEXT_OR_BOX = """x => {const range = document.createRange(); range.selectNodeContents(x);
  const box = (x.tagName === "BUTTON" ? x : range).getBoundingClientRect();
  return {left: box.left, right: box.right, top: box.top, bottom: box.bottom}}"""
"""Where the words of a heading are, or a button is."""

UNTOLD = """() => [...document.querySelectorAll(".scroll")].filter(x => x.scrollWidth > x.clientWidth + 1)
  .filter(x => !/more column/.test(x.previousElementSibling.textContent)).map(x => x.ariaLabel)"""
"""Tables that are cut at the right and do not say so."""


@pytest.mark.parametrize(("width", "least"), [(390, 540), (1280, 900)])
def test_nothing_is_clipped_and_wide_figures_can_be_read(browser: Any, conflict: Path, width: int, least: int) -> None:
    page = Opened(browser, conflict / "report.html", width).page
    assert page.evaluate(CLIPPED) == [] and page.evaluate(UNTOLD) == []
    cut = "[...document.querySelectorAll('.verdict .scroll')].filter(x => x.scrollWidth > x.clientWidth + 1).length"
    assert page.evaluate(cut) == 0, "what was found is in sight"
    rows = page.locator("#reproduce tr").evaluate_all("rows => rows.map(x => x.getBoundingClientRect().height)")
    assert max(rows) < 500, "no row is as high as a screen"
    wide = page.locator("figure.wide img")
    widths = wide.evaluate_all("images => images.map(x => x.getBoundingClientRect().width)")
    assert widths and min(widths) >= least, "text in a figure of a page's width would have less than 5 points"
    page.locator("figure.wide .zoom").first.click()
    expect(page.locator("dialog.zoomed img")).to_be_visible()
    assert page.locator("dialog.zoomed img").bounding_box()["width"] > least
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    page.close()


def test_a_brushed_stretch_of_a_control_distribution_says_how_many_controls_lie_in_it(
    browser: Any, conflict: Path
) -> None:
    page = Opened(browser, conflict / "report.html").page
    drawing = page.locator("svg.histogram").first
    drawing.scroll_into_view_if_needed()
    bars = drawing.locator(".bars rect")
    counts = bars.evaluate_all("bars => bars.map(x => Number(x.dataset.count))")
    first, last = bars.first.bounding_box(), bars.last.bounding_box()
    page.mouse.move(first["x"] + 1, first["y"])
    page.mouse.down()
    page.mouse.move(last["x"] + 1, last["y"])
    page.mouse.up()
    said = drawing.locator("xpath=following-sibling::p[@role='status']")
    assert f"{sum(counts)} of {sum(counts)} (100%)" in str(said.text_content())
    drawing.press("Escape")
    assert said.text_content() == ""
    drawing.press("ArrowRight")
    assert f": {counts[0]} of {sum(counts)} " in str(said.text_content())
    page.close()


def test_one_score_is_drawn_against_its_rank_and_a_point_tells_what_tables_say_of_it(
    browser: Any, induction: Path, tmp_path: Path
) -> None:
    import json
    import shutil

    from harness.report.page import write_page

    folder = shutil.copytree(induction, tmp_path / "run")
    rows = [json.loads(line) for line in (folder / "neurons.jsonl").read_text().splitlines()]
    kept = [{key: row[key] for key in ("neuron", "selected", "rho")} for row in rows]
    (folder / "neurons.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in kept))
    record = json.loads((folder / "result.json").read_text())
    chosen = next(row["neuron"] for row in rows if row["selected"])
    words = {"neuron": chosen, "promoted": "dusk  dawn"}
    record["frames"].append({"name": "tokens", "title": "tokens", "n": 1, "rows": [words]})
    (folder / "result.json").write_text(json.dumps(record))
    opened = Opened(browser, write_page(folder))
    page = opened.page
    page.wait_for_selector("#scatter:not([hidden])")
    assert page.locator("#scatter [name=x] option").all_text_contents() == ["rank by rho", "rho"]
    page.fill("#scatter [name=find]", chosen)
    assert "promoted: dusk  dawn" in str(page.locator("#scatter .status").text_content())
    assert opened.trouble == []


def test_prompts_are_filtered_searched_and_sorted(browser: Any, conflict: Path) -> None:
    opened = Opened(browser, conflict / "report.html")
    page = opened.page
    page.wait_for_selector("#prompt-controls:not([hidden])")
    everything = str(opened.status().text_content())
    page.fill("#prompt-controls [name=search]", "no prompt holds these words")
    expect(opened.status()).not_to_have_text(everything)
    assert page.locator("#prompt-table tbody tr").count() <= 1
    page.click("#prompt-controls [type=reset]")
    expect(opened.status()).to_have_text(everything)
    cell = page.locator("button.cell").first
    count = int(str(cell.text_content()))
    cell.click()
    expect(opened.status()).to_contain_text(f"of {count} ")
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
    head = opened.page.locator("#board thead th", has_text="value").first
    verdict = opened.page.locator("#board thead th", has_text="verdict").bounding_box()
    assert verdict["x"] + verdict["width"] < 1280 and head.bounding_box()["x"] < 1280  # what a row says is in sight
    assert "in all rows: " in str(opened.page.text_content("main"))
    phone = Opened(browser, path, 390).page
    assert not phone.locator("#filters").is_visible()
    shown = phone.locator("#board tbody td[data-label=verdict]").first.bounding_box()
    assert shown["y"] < 800, "the first row's verdict is on the first screen of a phone"
    phone.close()
    rows = opened.page.locator("#board tbody tr:visible")
    everything = rows.count()
    opened.page.fill("#search", "entropy_change")
    assert 0 < rows.count() < everything


def test_the_page_of_claims_says_the_outcome_on_a_phone(browser: Any, harness: Harness, tmp_path: Path) -> None:
    path = tmp_path / "claims.html"
    assert harness("claims", "--paper", "tighidet2025", "-o", tmp_path / "none", "--out", path)[0] in (0, 1)
    opened = Opened(browser, path, 390)
    row = opened.page.locator("table.claims tbody tr").first
    says, outcome = (row.locator(x).bounding_box() for x in ("th", "td[data-label=outcome]"))
    assert outcome["x"] + outcome["width"] <= 390 and 0 <= outcome["y"] - says["y"] < 200
    assert opened.page.evaluate(CLIPPED) == [] and opened.trouble == []
    opened.page.close()


def test_the_arenas_page_has_its_tables_first_and_whole(browser: Any, tmp_path: Path) -> None:
    from checkout import ROOT

    from harness.report import arena
    from harness.results.arena import read

    path = tmp_path / "arena.html"
    path.write_text(arena.page(read([ROOT / "reports" / "reference" / "arena" / "arena.jsonl"]), "arena.jsonl"))
    for width in (390, 1200):
        opened = Opened(browser, path, width)
        page = opened.page
        assert page.evaluate("document.documentElement.scrollWidth") <= width and opened.trouble == []
        assert page.evaluate(CLIPPED) == [] and page.evaluate(UNTOLD) == []
        title, button = (page.locator(x).evaluate(TEXT_OR_BOX) for x in ("h1", "#theme"))
        assert title["right"] <= button["left"] or title["top"] >= button["bottom"], "the title is in sight"
        assert page.locator("table").first.bounding_box()["y"] < page.locator("#legend").bounding_box()["y"]
    cut = "[...document.querySelectorAll('.scroll')].filter(x => x.scrollWidth > x.clientWidth + 1).length"
    assert page.evaluate(cut) == 0, "all columns are in sight at 1200 pixels"
