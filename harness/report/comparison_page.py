"""A comparison of runs as a page: Markdown, or HTML that is self-contained as a run's own page is."""

from __future__ import annotations

from typing import Any

from harness import __version__
from harness.files import harmless
from harness.report.comparison import NAMES, explained, lines_of, selected, short, words
from harness.report.page_assets import assets
from harness.results.comparison import Comparison


def markdown(found: Comparison, everything: bool = False) -> str:
    """The comparison as a Markdown page; ``everything``: also the measures that are not primary."""
    environment = harmless.markdown_environment()
    environment.filters |= {"short": short, "code": harmless.markdown_code}
    return environment.get_template("comparison.md.j2").render(context_of(found, everything)).strip() + "\n"


def html(found: Comparison, everything: bool = False) -> str:
    """The comparison as one web page: it opens from a file, offline, and loads nothing from anywhere."""
    environment = harmless.html_environment()
    environment.filters["short"] = short
    context = context_of(found, everything) | assets() | {"version": __version__}
    return environment.get_template("comparison.html.j2").render(context).strip() + "\n"


def context_of(found: Comparison, everything: bool = False) -> dict[str, Any]:
    """What templates show of a comparison."""
    tables = []
    for primary in (True, False) if everything else (True,):
        rows = [row for row in found.measures if row.primary == primary]
        if rows:
            tables.append(
                {
                    "title": "Measures" if primary else "The rest, p without correction for their number",
                    "columns": [name if primary else name.replace("p Holm", "p") for name in NAMES],
                    "measures": [{"title": row.title, "lines": list(lines_of(row, found))} for row in rows],
                }
            )
    return {
        "runs": found.runs,
        "differing": found.differing,
        "selections": [selected(pair) for pair in found.selections],
        "pairs": found.pairs,
        "tables": tables,
        "explained": explained(found),
        "words": words(found),
    }
