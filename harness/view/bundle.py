"""The same as a static site: files with relative links, for any web server, GitHub Pages, a Space, or to open as files.

Nothing is computed where it is served, so comparisons are those that were asked for, and nothing is under way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from harness.errors import HarnessError, suggest
from harness.files.owned import Written, within
from harness.files.store import canonical
from harness.report.page import html
from harness.report.publishing import publish
from harness.results.folder import MARK, PAGE, RECORD
from harness.view import about, side_by_side
from harness.view.listing import Links, page
from harness.view.runs import Found
from harness.view.site import Site

WRITTEN = ".harness-site.sha256"
"""What we wrote to the folder of a site, with its digests."""

FOLDERS = ("figures/", "tables/")
"""Of a run's files its page and record are in a site, and what is in these; the others are for programs, and large."""

MADE: Mapping[str, Callable[[Path], str]] = {about.ARENA: about.arena, about.CLAIMS: about.claims}


class Files(Mapping[str, bytes]):
    """The files of a site by their paths, each read or made when it is asked for: together they may be large."""

    def __init__(self, sources: Mapping[str, Callable[[], bytes]]) -> None:
        self._sources = sources

    def __getitem__(self, path: str) -> bytes:
        return self._sources[path]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def write(site: Site, to: Path, compared: Sequence[Sequence[str]] = ()) -> list[str]:
    """Write a site to a folder, beside what is there; of an earlier site what is no longer there is removed.

    Args:
        compared: sets of runs (folders) that are set side by side.

    Returns:
        Files of an earlier site that would be removed, but were changed since: they are kept.

    Raises:
        HarnessError: the site is to lie in the folder of results, a run is not there, or a file is in the way that we
            did not write.
    """
    if to.resolve() == site.folder.resolve():
        raise HarnessError(f"--bundle: {to} is the folder of results itself; name another one.")
    found = site.runs.now()
    sources = dict(files_of(site.folder, found))
    sets = []
    for names in compared:
        text = side_by_side.page(site.folder, [_called(name, found) for name in names])
        chosen = tuple(_called(name, found) for name in names)
        address = f"compare-{hashlib.sha256(canonical(chosen).encode()).hexdigest()[:12]}.html"
        sources[address] = partial(text.encode)
        sets.append((chosen, address))
    pages = about.others(site.folder, found)
    for _, address in pages:
        sources[address] = partial(MADE[address](site.folder).encode)
    links, every = Links(others=pages, compared=tuple(sets)), site.every.now()
    sources["index.html"] = partial(page(found, site.title, links, every).encode)
    return publish(to, WRITTEN, Files(sources), whole=True)


def files_of(folder: Path, found: Found) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The files of runs that a site has, (path, what gives it)."""
    for name in found.runs:
        run = folder / name
        inside = [path for path in Written.read(run / MARK).paths if path.startswith(FOLDERS)]
        for path in (RECORD, *inside):
            if within(folder, f"{name}/{path}") and (run / path).is_file():
                yield f"{name}/{path}", (run / path).read_bytes
        written = within(folder, f"{name}/{PAGE}") and (run / PAGE).is_file()
        yield f"{name}/{PAGE}", (run / PAGE).read_bytes if written else partial(_made, run)


def _made(run: Path) -> bytes:
    return html(run).encode()


def _called(name: str, found: Found) -> str:
    """The folder of a run that is named by its folder, a path to it, or its name where it is the only one.

    Raises:
        HarnessError: there is none, or several; names the nearest.
    """
    last = Path(name).name
    if last in found.runs:
        return last
    named = [folder for folder, rows in found.runs.items() if rows[0]["run"] == name]
    if len(named) == 1:
        return named[0]
    near = f" There are: {', '.join(named)}." if named else suggest(name, found.runs)
    raise HarnessError(f"--compare: no finished run here is called {name}.{near}")
