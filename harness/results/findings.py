"""What stands of a leaderboard when all its runs are taken together: every further run is a further chance to be lucky.

Computed whenever the board is shown, over the whole board; a run that is added may take the findings of others away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.files.wording import agree, counted
from harness.statistics import ALPHA, controls_needed, selective_findings

Row = Mapping[str, Any]

DIFFERENT = ("more than random", "less than random", "opposite direction")
"""Verdicts that say that the treated units do something else than random ones."""


@dataclass(frozen=True)
class Findings:
    """A board's findings, and what they were found among.

    Attributes:
        n: runs that are counted; ``with_findings`` of them have one or more, ``findings`` in all.
        tested: their measures with an adjusted p; ``single``: those of them whose own, unadjusted p is <= alpha.
        needed: controls that a run needs to be found among ``n`` though no other is; ``short``: runs with fewer.
        exploratory, untested: runs that are left out, for that reason or for want of an adjusted p.
    """

    n: int = 0
    with_findings: int = 0
    findings: int = 0
    tested: int = 0
    single: int = 0
    needed: int = 0
    short: int = 0
    exploratory: int = 0
    untested: int = 0


def findings_of(rows: Sequence[Row]) -> tuple[list[bool | None], Findings]:
    """For each row of a board whether its measure is a finding among all its runs, and their numbers.

    None where nothing was tested: measures without an adjusted p (that are not primary, of runs without controls, of
    older schemas) and those of exploratory runs, which are left out. A measure whose own verdict says for another
    reason (a broken model, controls that do not match) that nothing can be told is none either; its run is counted, as
    if its p were 1.

    Args:
        rows: of the whole board, the newest of each setting (:func:`harness.results.leaderboard_query.newest`); never a
            selection by what
            was found.
    """
    runs: dict[str | None, list[int]] = {}
    for place, row in enumerate(rows):
        runs.setdefault(row["run_id"], []).append(place)
    exploratory = {run for run, places in runs.items() if any(rows[place]["exploratory"] for place in places)}
    families = {run: places for run, places in runs.items() if run not in exploratory}
    found = selective_findings([[_p(rows[place]) for place in places] for places in families.values()], ALPHA)
    marks: list[bool | None] = [None] * len(rows)
    for places, findings in zip(families.values(), found.findings, strict=True):
        for place, finding in zip(places, findings, strict=True):
            marks[place] = finding
    known = [row for row, mark in zip(rows, marks, strict=True) if mark is not None]
    controls = {row["run_id"]: row["n_controls"] or 0 for row in known}
    needed = controls_needed(found.n, ALPHA) if found.n else 0
    return marks, Findings(
        n=found.n,
        with_findings=found.selected,
        findings=sum(map(bool, marks)),
        tested=len(known),
        single=sum(row["p_two_sided"] is not None and row["p_two_sided"] <= ALPHA for row in known),
        needed=needed,
        short=sum(m < needed for m in controls.values()),
        exploratory=len(exploratory),
        untested=len(families) - found.n,
    )


def _p(row: Row) -> float | None:
    """The adjusted p; 1 where the run's own verdict is not that of its p."""
    p = row["p_adjusted"]
    if p is None or row["verdict"] in DIFFERENT:
        found: float | None = p
        return found
    return 1.0


def in_words(found: Findings) -> list[str]:
    """What the column ``finding`` says, and what it does not."""
    without = _without(found)
    if not found.n:
        return [f"finding: no run of this board can be judged beside others{f' ({without})' if without else ''}"]
    runs, level = counted(found.n, "run"), f"{ALPHA:.0%}"
    said = f"finding: {runs}, {counted(found.findings, 'finding')}"
    if found.with_findings:
        said += (
            f" in {found.with_findings} of them; on average at most {level} of the runs with findings have a false one "
            f"(of {found.with_findings}: {ALPHA * found.with_findings:.2g}; Benjamini and Bogomolov 2014, whole board)"
        )
    else:
        said += f"; none stands where at most {level} of the runs with findings may have a false one"
    single = (
        f"read row by row, {found.single} of {counted(found.tested, 'tested measure')} "
        f"{agree(found.single, 'has', 'have')} p <= {ALPHA:g}; chance alone would give up to "
        f"{ALPHA * found.tested:.2g} on average"
    )
    short = f"{found.short} {agree(found.short, 'has', 'have')} fewer" if found.short else "none has fewer"
    needed = f"to be found among {runs} though no other is, a run needs {found.needed} controls; {short}"
    return [said, single, needed, *([f"not among the {runs}: {without}"] if without else [])]


def _without(found: Findings) -> str:
    left = [
        f"{counted(found.exploratory, 'exploratory run')}" if found.exploratory else "",
        f"{counted(found.untested, 'run')} without an adjusted p" if found.untested else "",
    ]
    return " and ".join(filter(None, left))
