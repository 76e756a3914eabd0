"""The tests of a transition table as rows of text, for every reporter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from harness.files.wording import counted
from harness.report.formatting import p_value
from harness.results.record import Table, TableTests

CLASSICAL = "these take prompts for independent:"


class Row(NamedTuple):
    test: str
    found: str
    p: str


def moved(tests: TableTests) -> str:
    """How many prompts changed, and how many independent items moved."""
    said, margins = f"{tests.n_changed} of {tests.n} changed", tests.margins
    if margins is None:
        return f"{said}."
    return f"{said}; {margins.moved} of {counted(margins.clusters, 'independent item')} moved on balance."


def by_items(table: Table, tests: TableTests) -> Iterator[Row]:
    """The test that keeps the prompts of an item together: of all totals, and of each."""
    margins = tests.margins
    if margins is None:  # a run from before there was one
        return
    yield Row("equal totals, items kept whole", f"T = {margins.statistic:.2f}, df = {margins.df}", p_value(margins.p))
    for name, shift in zip(table.categories, margins.shifts, strict=True):
        t = "" if shift.t is None else f", t = {shift.t:+.2f}"
        yield Row(f"total of {name} (step-down)", f"{shift.gained:+d}{t}", p_value(shift.p_adjusted))


def classical(table: Table, tests: TableTests) -> Iterator[Row]:
    """Stuart-Maxwell, Bowker, and McNemar of each category."""
    for test, title in (
        (tests.stuart_maxwell, "Stuart-Maxwell: equal totals"), (tests.bowker, "Bowker: symmetry")
    ):  # fmt: skip
        yield Row(title, f"chi2 = {test.statistic:.2f}, df = {test.df}", p_value(test.p))
    for name, moves in zip(table.categories, tests.mcnemar, strict=True):
        counts = f"{moves.into} into, {moves.out} out"
        yield Row(f"McNemar (exact): {name} against the rest", counts, f"{p_value(moves.p_holm)} (Holm)")
