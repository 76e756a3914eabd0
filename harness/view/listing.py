"""The page that lists the runs of a folder: what it shows, as data that its script filters, sorts and draws.

Without scripts it is a list of links.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from harness import __version__
from harness.files import harmless
from harness.report.formatting import between, p_value
from harness.report.leaderboard import cell, cells
from harness.report.page import VERDICTS
from harness.report.page_assets import assets
from harness.report.page_data import rounded
from harness.results.findings import findings_of, in_words
from harness.results.leaderboard import typed
from harness.results.leaderboard_query import newest
from harness.view.policies import policy
from harness.view.runs import Found, Row

COMPONENTS = ("model", "task", "selector", "intervention")

NUMBERS = ("value", "ci_low", "ci_high", "control_mean", "control_q05", "control_q95", "p_adjusted")
"""Of each measure of a run, as numbers, in this order; then its texts (:func:`_measure`)."""

SEARCHED = 40
"""Units of a run that the search looks at."""


@dataclass(frozen=True)
class Links:
    """Where the page leads, beside runs: titles and relative addresses.

    Attributes:
        others: pages about the folder, (title, address).
        compare: the address of the page that sets runs side by side, named by ``run`` in its query; "" where there is
            none, and ``compared`` has the sets of runs (folders) that there is one of.
        live: addresses that are asked again and again: of what is under way, and of :func:`data`; None: neither.
        every: the address of :func:`data` with all measures; "" where the page has them in it, or nobody has.
    """

    others: tuple[tuple[str, str], ...] = ()
    compare: str = ""
    compared: tuple[tuple[tuple[str, ...], str], ...] = ()
    live: tuple[str, str] | None = None
    every: str = ""


def data(found: Found, every: bool = False) -> dict[str, Any]:
    """``measures`` of all runs (title, unit, in how many runs, whether it is primary in one), ``verdicts`` with their
    signs, and ``runs``, each with its measures as arrays (:data:`NUMBERS`, then value, interval, p and verdict as text,
    and whether it is a finding).

    Args:
        every: all measures that were found; otherwise the primary ones.
    """
    runs = [rows for rows in found.runs.values() if rows]
    told = cells([typed(rows[0]) for rows in runs], COMPONENTS)
    board = newest([dict(row) | {"folder": name} for name, rows in found.runs.items() for row in rows])
    marks, board_findings = findings_of(board)
    marked = {(row["folder"], row["metric"], row["measure"]) for row, mark in zip(board, marks, strict=True) if mark}
    measures: dict[tuple[Any, Any], dict[str, Any]] = {}
    listed = []
    for (name, rows), components in zip(found.runs.items(), told, strict=True):
        own = {}
        for row in (row for row in rows if every or row["primary"]):
            key = (row["metric"], row["measure"])
            new = {"title": row["title"], "unit": row["unit"], "n": 0, "primary": 0, "i": len(measures)}
            about = measures.setdefault(key, new)
            about["n"] += 1
            about["primary"] |= bool(row["primary"])
            own[about["i"]] = _measure(row, (name, *key) in marked)
        listed.append(_run(name, rows[0], components) | {"measures": own})
    return {
        "version": found.version,
        "measures": [{x: about[x] for x in ("title", "unit", "n", "primary")} for about in measures.values()],
        "verdicts": {word: {"style": style, "sign": sign} for word, (_, style, sign, _) in VERDICTS.items()},
        "runs": listed,
        "notes": [*found.notes, *(in_words(board_findings) if board else [])],
    }


def _run(name: str, row: Row, components: Sequence[str]) -> dict[str, Any]:
    units = row["neurons"] or []
    return {
        "folder": name,
        "name": row["run"] or name,
        **dict(zip(COMPONENTS, components, strict=True)),
        "time": row["time_utc"],
        "prompts": row["n_prompts"],
        "controls": row["n_controls"],
        "seed": row["seed"],
        "units": " ".join(units[:SEARCHED]),
        "n_units": len(units),
        "exploratory": bool(row["exploratory"]),
    }


def _measure(row: Row, finding: bool) -> list[Any]:
    numbers = rounded([float("nan") if row[x] is None else row[x] for x in NUMBERS])  # type: ignore[arg-type]
    unit = row["unit"] or ""
    interval, p = between(row["ci_low"], row["ci_high"], unit), p_value(row["p_adjusted"])
    return [*numbers, cell(row, "value"), interval, p, row["verdict"] or "", int(finding)]


def page(found: Found, title: str, links: Links, every: Found | None = None) -> str:
    """The list as one HTML page; the same bytes whenever the runs are the same.

    Args:
        every: the same runs with all their measures, where the page shall have them in it.
    """
    ours = assets()
    scripts = [*map(str, ours["scripts"]), template("list.js"), *([template("live.js")] if links.live else [])]
    shown = data(found)
    content = {
        "title": title,
        "version": __version__,
        "policy": policy(scripts, asks=links.live is not None),
        "style": Markup("\n".join((ours["style"], template("plot.css"), template("list.css")))),
        "scripts": [Markup(script) for script in scripts],
        "runs": shown["runs"],
        "others": links.others,
        "data": _embedded(shown),
        "every": None if every is None else _embedded(data(every, every=True)),
        "links": _embedded({x: getattr(links, x) for x in ("compare", "compared", "live", "every")}),
    }
    return harmless.html_environment("harness.view").get_template("list.html.j2").render(content).strip() + "\n"


def _embedded(value: Any) -> Markup:
    """JSON inside of a page: nothing in it ends the element, begins another one, or turns the direction of writing."""
    text = harmless.plain(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
    return Markup(text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}))


def template(name: str) -> str:
    """The text of a file that pages carry with them."""
    return (files("harness.view") / "templates" / name).read_text(encoding="utf-8")
