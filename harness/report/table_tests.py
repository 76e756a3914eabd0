"""The tests of a transition table as rows of text, for every reporter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from harness.files.wording import counted
from harness.report.formatting import p_value

CLASSICAL = "these take prompts for independent:"


class Row(NamedTuple):
    test: str
    found: str
    p: str


def moved(tests: Mapping[str, Any]) -> str:
    """How many prompts changed, and how many independent items moved."""
    said = f"{tests['n_changed']} of {tests['n']} changed"
    margins = tests.get("margins")
    if margins is None:
        return f"{said}."
    return f"{said}; {margins['moved']} of {counted(margins['clusters'], 'independent item')} moved on balance."


def by_items(table: Mapping[str, Any]) -> Iterator[Row]:
    """The test that keeps the prompts of an item together: of all totals, and of each."""
    margins = table["tests"].get("margins")
    if margins is None:  # a run from before there was one
        return
    yield Row(
        "equal totals, items kept whole", f"T = {margins['statistic']:.2f}, df = {margins['df']}", p_value(margins["p"])
    )
    for name, shift in zip(table["categories"], margins["shifts"], strict=True):
        t = "" if shift["t"] is None else f", t = {shift['t']:+.2f}"
        yield Row(f"total of {name} (step-down)", f"{shift['gained']:+d}{t}", p_value(shift["p_adjusted"]))


def classical(table: Mapping[str, Any]) -> Iterator[Row]:
    """Stuart-Maxwell, Bowker, and McNemar of each category."""
    tests = table["tests"]
    for key, title in (("stuart_maxwell", "Stuart-Maxwell: equal totals"), ("bowker", "Bowker: symmetry")):
        yield Row(title, f"chi2 = {tests[key]['statistic']:.2f}, df = {tests[key]['df']}", p_value(tests[key]["p"]))
    for name, moves in zip(table["categories"], tests["mcnemar"], strict=True):
        counts = f"{moves['into']} into, {moves['out']} out"
        yield Row(f"McNemar (exact): {name} against the rest", counts, f"{p_value(moves['p_holm'])} (Holm)")
