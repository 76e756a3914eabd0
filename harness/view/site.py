"""Which address has which page or file; everything else is not there.

Addresses are relative to where the site begins, the same from the server and in a folder: ``index.html``, and below a
run's name its own files. A file is given out only where a finished run lists it, and no link is on the way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, unquote

from harness.errors import HarnessError, suggest
from harness.files.owned import Written, path_name, within
from harness.files.store import json_bytes
from harness.report.page import html
from harness.results.folder import FILES, MARK, PAGE
from harness.view import about, policies, side_by_side, under_way
from harness.view.listing import Links, data, page
from harness.view.runs import Found, Runs

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".csv": "text/csv; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".sha256": "text/plain; charset=utf-8",
}
"""By a file's ending; others are bytes."""

LIVE, RUNS = "live.json", "runs.json"
"""Addresses that the list asks: what is under way again and again, and its data when something has changed."""

EVERY = "measures.json"
"""The list's data with all measures of all runs, which it asks for when somebody wants one that is not primary."""

COMPARE = "compare.html"
"""Sets the runs that its query names side by side."""

KEPT = 16
"""Comparisons that are kept, should they be asked for again."""


class NotThere(Exception):
    """Nothing has this address."""


@dataclass(frozen=True)
class Content:
    """What is at an address: bytes, or a file that has them; of which type; what it may load and run."""

    body: bytes | Path
    kind: str
    policy: str = policies.INERT


class Site:
    """The pages about a folder of results, made when they are asked for."""

    def __init__(self, folder: Path, title: str | None = None) -> None:
        self.folder = folder
        self.title = title or f"Runs of {folder.resolve().name}"
        self.runs = Runs(folder)
        self.every = Runs(folder, every=True)
        self._list = ("", Content(b"", TYPES[".html"]))
        self._told: dict[bool, tuple[str, Content]] = {}
        self._compared: dict[tuple[str, ...], Content] = {}
        self._comparing = threading.Lock()
        self._made: Mapping[str, Callable[[str], Content]] = {
            "": self._index,
            "index.html": self._index,
            RUNS: partial(self._data, False),
            EVERY: partial(self._data, True),
            LIVE: self._live,
            COMPARE: self._compare,
            about.ARENA: partial(self._about, about.arena),
            about.CLAIMS: partial(self._about, about.claims),
        }

    def at(self, path: str, query: str = "") -> Content:
        """What is at an address, as a browser writes it (``%20``), without the leading slash.

        Raises:
            NotThere: nothing is.
            HarnessError: it cannot be made; one sentence.
        """
        parts = [unquote(part, errors="strict") for part in path.split("/")] if path.isascii() else [""]
        if len(parts) == 1 and parts[0] in self._made:
            return self._made[parts[0]](query)
        return self._file(parts)

    def _index(self, query: str) -> Content:
        found = self.runs.now()
        if self._list[0] != found.version:
            text = page(found, self.title, self.links(found))
            self._list = found.version, Content(text.encode(), TYPES[".html"], policies.of_made(text, asks=True))
        return self._list[1]

    def links(self, found: Found) -> Links:
        """Where the list leads."""
        return Links(others=about.others(self.folder, found), compare=COMPARE, live=(LIVE, RUNS), every=EVERY)

    def _data(self, every: bool, query: str) -> Content:
        found = (self.every if every else self.runs).now()
        version, content = self._told.get(every, ("", None))
        if content is None or version != found.version:
            content = Content(json_bytes(data(found, every), None), TYPES[".json"])
            self._told[every] = found.version, content
        return content

    def _about(self, make: Callable[[Path], str], query: str) -> Content:
        text = make(self.folder)
        return Content(text.encode(), TYPES[".html"], policies.of_made(text))

    def _live(self, query: str) -> Content:
        found = self.runs.now()
        running = under_way.listed(self.folder, found.unfinished)
        return Content(json_bytes({"version": found.version, "running": running}, None), TYPES[".json"])

    def _compare(self, query: str) -> Content:
        """The runs that a query names, side by side. It takes seconds, so one is made at a time, and some are kept."""
        found = self.runs.now()
        names = parse_qs(query, errors="strict").get("run", [])
        for name in names:
            if name not in found.runs:
                raise HarnessError(f"compare: no finished run here is called {name}.{suggest(name, found.runs)}")
        with self._comparing:
            key = (found.version, *names)
            if key not in self._compared:
                text = side_by_side.page(self.folder, names)
                while len(self._compared) >= KEPT:
                    del self._compared[next(iter(self._compared))]
                self._compared[key] = Content(text.encode(), TYPES[".html"], policies.of_made(text))
            return self._compared[key]

    def _file(self, parts: list[str]) -> Content:
        """A file of a finished run."""
        try:
            run, *inside = [path_name(part, "address") for part in parts]
        except HarnessError:
            raise NotThere from None
        path = "/".join(inside)
        if run not in self.runs.now().runs or path not in files_of(self.folder / run):
            raise NotThere
        place = self.folder / run / path
        if not within(self.folder, f"{run}/{path}"):
            raise NotThere
        if path == PAGE:
            return report(place)
        if not place.is_file():
            raise NotThere
        return Content(place, TYPES.get(place.suffix, "application/octet-stream"))


def report(path: Path) -> Content:
    """A run's page: the file as it is, or where none was written, what would stand in it."""
    if path.is_file():
        text = path.read_bytes()
        return Content(text, TYPES[".html"], policies.of_report(text))
    made = html(path.parent)
    return Content(made.encode(), TYPES[".html"], policies.of_made(made))


def files_of(run: Path) -> list[str]:
    """The paths of what the harness wrote to a finished run's folder, whether or not all are there still."""
    try:
        written = Written.read(run / MARK).paths
    except HarnessError:  # damaged
        written = []
    return list(dict.fromkeys([*FILES, *written]))
