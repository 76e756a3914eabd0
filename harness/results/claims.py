"""What became of papers' claims: what ``harness claims --format json`` prints and its pages show."""

from __future__ import annotations

from typing import Literal, Self

from harness.results.on_disk import Number, OnDisk, Whole

Outcome = Literal["confirmed", "missed", "cannot be tested", "not run"]
OUTCOMES: tuple[Outcome, ...] = ("confirmed", "missed", "cannot be tested", "not run")


class ClaimedPaper(OnDisk):
    """A paper whose claims are told of."""

    name: str
    title: str
    by: str
    url: str


class Judged(OnDisk):
    """What a rule says of a number of ours, and why; ``controls``: the mean of the control sets."""

    outcome: Outcome
    why: str
    value: Number = None
    low: Number = None
    high: Number = None
    unit: str = ""
    controls: Number = None

    def says(self, outcome: Outcome, why: str) -> Self:
        """The same number with an outcome."""
        return self.model_copy(update={"outcome": outcome, "why": why})


class TestedOn(OnDisk):
    """The run, or other evidence, that a claim was tested on."""

    name: str
    folder: str
    about: str


class ClaimRow(OnDisk):
    """A claim on a model.

    ``published``: what the paper gives, for this model or for its own; ``rule``: what confirms the claim, in words.
    ``command``: what makes the run where there is none. ``known``: why it is known to be missed here.
    """

    paper: str
    claim: str
    says: str
    source: str
    model: str
    published: str
    rule: str
    judged: Judged
    tested_on: TestedOn | None = None
    command: str | None = None
    known: str | None = None

    @property
    def fails(self) -> bool:
        """Whether it is missed, and nobody knew."""
        return self.judged.outcome == "missed" and self.known is None


class ClaimTable(OnDisk):
    """Claims that runs test, those that published numbers alone answer, and how many came out how.

    ``notes``: what was passed over, in words.
    """

    papers: list[ClaimedPaper]
    models: list[str]
    tested: list[ClaimRow]
    recounted: list[ClaimRow]
    notes: list[str]

    @property
    def fails(self) -> bool:
        """Whether some claim is missed that is not known to be."""
        return any(row.fails for row in (*self.tested, *self.recounted))

    def counts(self, rows: list[ClaimRow]) -> dict[Outcome, Whole]:
        """How many of some rows have each outcome, in the order of ``OUTCOMES``."""
        return {word: sum(row.judged.outcome == word for row in rows) for word in OUTCOMES}
