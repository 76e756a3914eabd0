"""Pages about a folder as a whole, where it has what they are about: selectors compared, and papers' claims."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from harness.errors import HarnessError
from harness.files.owned import within
from harness.view.runs import Found

ARENA, CLAIMS = "arena.html", "claims.html"

ROWS = ("arena/arena.jsonl", "arena.jsonl")
"""Where `harness arena` leaves its rows in a folder of results, and where its own folder has them."""


def others(folder: Path, found: Found) -> tuple[tuple[str, str], ...]:
    """The pages that there are, (title, address)."""
    pages = [("Selectors compared", ARENA)] if rows_of_arena(folder) else []
    if _named_by_claims() & {row["run"] for rows in found.runs.values() for row in rows[:1]}:
        pages.append(("Papers' claims", CLAIMS))
    return tuple(pages)


def rows_of_arena(folder: Path) -> Path | None:
    """The file with the arena's rows, no link."""
    return next((folder / path for path in ROWS if within(folder, path) and (folder / path).is_file()), None)


def arena(folder: Path) -> str:
    """The arena's board.

    Raises:
        HarnessError: there is none, or a row of it is none.
    """
    from harness.report.arena import page
    from harness.results.arena import read

    path = rows_of_arena(folder)
    if path is None:
        raise HarnessError(f"{folder}: there are no rows of the arena; harness arena makes some.")
    return page(read([path]), path.relative_to(folder).as_posix())


def claims(folder: Path) -> str:
    """Which claims of papers the folder's runs confirm.

    Raises:
        HarnessError: a plugin's register of claims is wrong.
    """
    from harness.plugin.catalogue import catalogue
    from harness.report.claims import html
    from harness.running.claims import papers, registry_of_claims, table_of

    known = registry_of_claims(None)
    return html(table_of(papers(catalogue(), known), catalogue(), known, folder))


@cache
def _named_by_claims() -> frozenset[str]:
    """The names of runs that some claim is tested by; none where the claims cannot be read."""
    from harness.plugin.catalogue import catalogue
    from harness.running.claims import papers, registry_of_claims

    try:
        return frozenset(run for paper in papers(catalogue(), registry_of_claims(None)) for run in paper.specs)
    except HarnessError:  # asked for by itself, it says why
        return frozenset()
