"""What `harness view` takes of a folder of a thousand runs.

    python benchmarks/view.py               # 1,000 runs; a Chromium is timed where Playwright finds one
    python benchmarks/view.py --runs 100    # quicker

The runs are copies of one small run, with other names and values; their leaderboard is as long as if they were made.
Wall time is what somebody waits for, on a machine that others use, too; time of the processor is what it takes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.plugin.catalogue import catalogue
from harness.results.folder import MARK, PROVENANCE, RECORD, read_provenance, read_record
from harness.results.leaderboard import rows_of
from harness.running.execute import execute, plan
from harness.running.spec import RunSpec
from harness.running.telling import Telling
from harness.view.server import Server
from harness.view.site import EVERY, LIVE, Site

MEASURE = "confidence"
"""One that is not primary, which the browser is asked to show."""


def folder_of(runs: int, folder: Path) -> None:
    """Copies of a run, and their leaderboard."""
    spec = {"name": "run", "task": "knowledge_conflict", "selector": "entropy", "intervention": "mean"}
    made = execute(
        plan(RunSpec.model_validate({**spec, "controls": 19, "limit": 40, "resamples": 100}), catalogue()),
        folder / "one",
        Telling(),
        "a benchmark",
    )
    record, about = read_record(made.path), read_provenance(made.path)
    rows, text, rng = rows_of(record, about), (made.path / RECORD).read_text(encoding="utf-8"), np.random.default_rng(0)
    (folder / "all").mkdir()
    with (folder / "all" / "leaderboard.jsonl").open("w", encoding="utf-8") as board:
        for n in range(runs):
            run_id = f"{n:064x}"[::-1]
            path = folder / "all" / f"run-{run_id[:8]}"
            path.mkdir()
            (path / RECORD).write_text(text.replace(record.run_id, run_id), encoding="utf-8")
            for name in (PROVENANCE, MARK):
                shutil.copy(made.path / name, path)
            for row in rows:
                value = None if row["value"] is None else row["value"] + float(rng.normal())
                own = {"run_id": run_id, "row_id": f"{n}-{row['measure']}", "value": value}
                board.write(json.dumps(row | own) + "\n")


@contextlib.contextmanager
def timed(what: str, note: Callable[[], str] = str) -> Iterator[None]:
    """Say what the block took, by the wall and of this process's processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what}: {wall:6.2f} s, of the processor {cpu:6.2f} s {note()}", flush=True)


def asked(site: Site) -> None:
    """What a browser asks the server for, without a browser."""
    sizes: list[int] = []

    def at(path: str) -> None:
        body = site.at(path).body
        sizes.append(len(body) if isinstance(body, bytes) else 0)

    def size() -> str:
        return f"({sizes[-1] / 1e6:.2f} MB)"

    for path, what in (("", "the list"), (LIVE, "what is under way"), (EVERY, "all measures")):
        for when in ("first", "again"):
            with timed(f"{what}, {when}", size):
                at(path)


def browsed(site: Site) -> None:
    """A Chromium on this machine: from the address to the first rows; all rows; all measures."""
    try:
        from playwright import sync_api
    except ImportError:
        print("Playwright is not installed: no browser is timed")
        return
    named = os.environ.get("HARNESS_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with Server(site) as server, sync_api.sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            browser = playwright.chromium.launch(executable_path=named, args=["--no-sandbox", "--no-zygote"])
        except sync_api.Error as error:
            print(f"no Chromium here: {str(error).splitlines()[0]}")
            return
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        metrics = page.context.new_cdp_session(page)
        metrics.send("Performance.enable", {"timeDomain": "threadTicks"})  # of the processor, not of the wall

        def busy() -> float:
            found: dict[str, Any] = {x["name"]: x["value"] for x in metrics.send("Performance.getMetrics")["metrics"]}
            return float(found["TaskDuration"])

        def shown(what: str, act: Callable[[], object], until: str, new: bool = False) -> None:
            wall, cpu = time.perf_counter(), 0.0 if new else busy()  # of a new page it counts anew
            act()
            page.wait_for_selector(until, state="attached")
            wall, cpu = time.perf_counter() - wall, busy() - cpu
            print(f"Chromium, {what}: {wall:6.2f} s, of the processor of its main thread {cpu:6.2f} s", flush=True)

        n = len(site.runs.now().runs)
        first, last = (f"#runs tbody tr:nth-child({x})" for x in (min(n, 100), n))
        for when in ("first", "again"):
            shown(f"first rows, {when}", lambda: page.goto(server.url, wait_until="commit"), first, new=True)
        shown("all rows", lambda: None, last)
        shown("all measures", lambda: page.check("#filters [name=every]"), "#filters optgroup[label=others] option")
        shown("another measure", lambda: page.select_option("#filters [name=measure]", MEASURE), last)
        server.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        with timed(f"{given.runs} folders are written"):
            folder_of(given.runs, Path(place))
        folder = Path(place) / "all"
        size = (folder / "leaderboard.jsonl").stat().st_size
        print(f"leaderboard: {size / 1e6:.0f} MB; load of the machine {os.getloadavg()[0]:.1f}")
        site = Site(folder)
        asked(site)
        browsed(site)


if __name__ == "__main__":
    main()
