"""The list of runs in a real browser: filters, order, keys, addresses, small screens; pages under the policies.

Without a Chromium these tests are skipped.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Opened, chromium, expect

from harness.results.under_way import Step, UnderWay
from harness.view.bundle import write
from harness.view.server import Server
from harness.view.site import Site


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def address(browser: Any, reports: Path) -> Iterator[str]:
    with Server(Site(reports)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.url
        server.shutdown()


def test_runs_are_searched_filtered_and_sorted_and_the_address_keeps_it(browser: Any, address: str) -> None:
    opened = Opened(browser, address)
    page, lines = opened.page, opened.page.locator("#runs tbody tr")
    expect(lines).to_have_count(2)
    page.keyboard.press("/")
    page.keyboard.type("ZERO")
    expect(lines).to_have_count(1)
    expect(page.locator("#status")).to_contain_text("1 of 2 runs")
    page.reload()
    expect(lines).to_have_count(1)
    expect(page.locator("#filters [name=q]")).to_have_value("ZERO")
    page.click("#filters [type=reset]")
    expect(lines).to_have_count(2)
    page.select_option("#filters [name=measure]", "change of entropy")
    values = []
    for _ in range(2):  # up, then down
        page.click("#runs thead [data-sort=value]")
        values.append([float(str(x).split(" ")[0][:7]) for x in page.locator("#runs td.value").all_text_contents()])
    assert values[0] == sorted(values[0]) == values[1][::-1] and values[0][0] != values[0][1]
    page.reload()
    expect(page.locator("#runs th.value")).to_have_attribute("aria-sort", "descending")
    assert "change+of+entropy" in page.url
    page.select_option("#filters [name=intervention]", "mean")
    expect(lines).to_have_count(1)
    assert opened.trouble == []


def test_any_measure_can_be_chosen_sorted_by_and_filtered(browser: Any, address: str, reports: Path) -> None:
    opened = Opened(browser, address)
    page, lines = opened.page, opened.page.locator("#runs tbody tr")
    expect(lines).to_have_count(2)
    few = page.locator("#filters [name=measure] option").count()
    other_measure_is_shown(page)
    assert page.locator("#filters [name=measure] option").count() > few
    page.reload()
    expect(page.locator("#filters [name=measure]")).to_have_value(OTHER)
    page.click("#runs thead [data-sort=value]")
    expect(page.locator("#runs td.value").first).not_to_have_text("-")
    page.fill("#filters [name=least]", "1e9")
    expect(lines).to_have_count(0)
    page.fill("#filters [name=least]", "")
    page.fill("#filters [name=most]", "1e9")
    expect(lines).to_have_count(2)
    page.click("#filters [type=reset]")
    expect(page.locator("#filters [name=measure] option")).to_have_count(few)
    assert opened.trouble == []


OTHER = "confidence"


def other_measure_is_shown(page: Any) -> None:
    """Ask for all measures, and choose one that is not primary."""
    expect(page.locator("#runs tbody tr")).to_have_count(2)
    page.check("#filters [name=every]")
    expect(page.locator("#filters optgroup[label=others] option").first).to_be_attached()
    page.select_option("#filters [name=measure]", OTHER)
    expect(page.locator("#runs th.dots")).to_contain_text(OTHER)


def test_the_keys_lead_to_a_run_whose_page_works_under_the_policy(browser: Any, address: str, names: list[str]) -> None:
    opened = Opened(browser, f"{address}#sort=run")
    page = opened.page
    folders = page.eval_on_selector_all("#runs tbody tr", "lines => lines.map(line => line.dataset.folder)")
    for key in ("j", "j", "x", "k"):
        page.keyboard.press(key)
    assert page.locator("#ticked p").text_content().startswith(folders[1])  # type: ignore[union-attr]
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/{folders[0]}/report.html")
    page.wait_for_selector("#prompt-controls:not([hidden])")
    page.click("#theme")
    dark = page.evaluate("document.documentElement.dataset.theme")
    page.go_back()
    assert page.evaluate("document.documentElement.dataset.theme") == dark  # one choice for all pages
    assert opened.trouble == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1280])
def test_it_fits(browser: Any, address: str, width: int, scheme: str) -> None:
    opened = Opened(browser, address, width, scheme)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    unnamed = (
        "[...document.querySelectorAll('button, select, input')]"
        ".filter(x => !x.labels?.length && !x.textContent.trim() && !x.ariaLabel).length"
    )
    assert opened.page.evaluate(unnamed) == 0
    assert opened.trouble == []


def test_without_scripts_the_runs_are_linked(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("noscript a").count() == 2
    context.close()


def test_ticked_runs_are_set_side_by_side(browser: Any, address: str) -> None:
    opened = Opened(browser, address)
    page = opened.page
    for box in page.locator("#runs tbody input").all():
        box.check()
    page.reload()
    expect(page.locator("#runs tbody input:checked")).to_have_count(2)
    page.keyboard.press("c")
    page.wait_for_url("**/compare.html?run=*&run=*")
    page.wait_for_selector("#picture .dot")
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("text=All runs")
    page.wait_for_selector("#runs tbody tr")
    assert opened.trouble == []


def test_the_static_site_works_from_files(browser: Any, reports: Path, names: list[str], tmp_path: Path) -> None:
    write(Site(reports), tmp_path, [names])
    opened = Opened(browser, tmp_path / "index.html")
    page = opened.page
    page.fill("#filters [name=q]", "mean")
    expect(page.locator("#runs tbody tr")).to_have_count(1)
    assert "q=mean" in page.url
    page.click("#filters [type=reset]")
    expect(page.locator("#runs tbody tr")).to_have_count(2)
    other_measure_is_shown(page)
    for box in page.locator("#runs tbody input").all():
        box.check()
    page.click("#compare")
    page.wait_for_selector("#picture .dot")
    page.click("text=All runs")
    page.click(f"#runs a[href^='{names[0]}']")
    page.wait_for_selector("#prompt-controls:not([hidden])")
    assert opened.trouble == []


def test_what_is_under_way_is_shown_and_what_has_finished_joins_the_list(
    browser: Any, reports: Path, names: list[str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(reports, tmp_path / "reports"))
    (folder / names[1]).rename(tmp_path / names[1])
    (folder / names[1] / "unfinished").mkdir(parents=True)
    step = Step(title="12 prompts", total=12, done=3, since=time.time() - 9)
    told: dict[str, Any] = {"runs": [names[1]], "waiting": [], "command": "harness run", "steps": [step]}
    told |= {"began": time.time() - 9, "told": time.time(), "host": "another", "process": 1}
    UnderWay(**told).write(folder / names[1])
    with Server(Site(folder)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_selector("#live progress[value='3'][max='12']")
        expect(page.locator("#runs tbody tr")).to_have_count(1)
        shutil.rmtree(folder / names[1])
        (tmp_path / names[1]).rename(folder / names[1])
        page.wait_for_selector("#runs tbody tr:nth-child(2)")  # asked every two seconds
        expect(page.locator("#live")).to_be_hidden()
        server.shutdown()
    page.close()
