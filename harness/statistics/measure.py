"""Measures: functions of sums over prompts, for every condition. Most are ratios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from harness.errors import HarnessError
from harness.files.wording import counted
from harness.statistics.blocks import Each, at, blocks

CHANGE = 1e-6
"""What a prompt contributes has changed if it differs by more than this, in its unit and as a share: outcomes are
float32, and less is rounding."""


BASELINE, TREATED, CONTROLS = 0, 1, slice(2, None)
"""The rows of a measure's arrays: the untouched model, the treated one, the control sets."""


def differs(values: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Where values are not the baseline's, rounding aside; the shapes broadcast."""
    if values.dtype.kind in "bui" and baseline.dtype.kind in "bui":
        return np.asarray(values != baseline)
    return np.asarray(np.abs(values - baseline) > CHANGE * (1 + np.abs(baseline)))


def finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def known_values(values: np.ndarray) -> np.ndarray:
    """The values that are not NaN."""
    values = np.asarray(values, dtype=np.float64)
    found: np.ndarray = values[~np.isnan(values)]
    return found


@dataclass(frozen=True)
class Tally:
    """What is summed over prompts, for every condition [n_conditions]: numerators, denominators, prompts that changed.

    ``shared``: whether all conditions but the untouched one have the treated one's denominators.
    """

    events: np.ndarray
    trials: np.ndarray
    changed: np.ndarray
    shared: bool


class Roles:
    """Values of a measure by what the conditions are: the untouched model, the treated one, control sets."""

    @property
    def values(self) -> np.ndarray:
        """Value of every condition [n_conditions]; NaN where undefined."""
        raise NotImplementedError

    @property
    def baseline(self) -> float:
        return float(self.values[BASELINE])

    @property
    def treated(self) -> float:
        return float(self.values[TREATED])

    @property
    def controls(self) -> np.ndarray:
        """Values under the m control sets [m]."""
        return self.values[CONTROLS]


@dataclass(frozen=True, eq=False)
class Measure(Roles):
    """A ratio of sums over prompts, for every condition: value[c] = scale * sum(numerator[c]) / sum(denominator[c]).

    A share counts prompts in the numerator and those it is a share of in the denominator; a mean has 1 for every prompt
    in the denominator. Rows are in the order of an outcome's conditions: baseline, treated, controls. In a measure of
    change, the baseline row is the baseline compared with itself.

    Attributes:
        numerator: [n_conditions, n_prompts] of booleans or numbers, summed in float64; ignored where the denominator
            is 0. Of an :class:`~harness.statistics.blocks.Each` (``outcomes.each``) a few conditions are made at once.
        denominator: [n_conditions, n_prompts] of booleans or numbers, not negative; may be a broadcast view, or Each.
        unit: "%", "nats" or "share".
        primary: belongs to the family over which p-values are adjusted, and gets a verdict.
        null: the value that means no effect.
        specific: it is what a change of temperature leaves of a change; the verdict says what that means.

    Raises:
        HarnessError: an entry is not finite; names the measure and the condition.
    """

    name: str
    title: str
    unit: str
    numerator: np.ndarray | Each
    denominator: np.ndarray | Each
    scale: float = 1.0
    higher_is_better: bool | None = None
    primary: bool = False
    null: float = 0.0
    description: str = ""
    specific: bool = False
    few = False

    def __post_init__(self) -> None:
        given = self.numerator, self.denominator
        numerator, denominator = (x if isinstance(x, Each) else np.asarray(x) for x in given)
        if numerator.ndim != 2 or numerator.shape != denominator.shape or len(numerator) < 2:
            raise ValueError(
                f"measure {self.name!r}: numerator {numerator.shape} and denominator {denominator.shape} must have one "
                "shape [n_conditions, n_prompts] with at least 2 conditions (baseline, treated)"
            )
        object.__setattr__(self, "numerator", numerator)
        object.__setattr__(self, "denominator", denominator)
        if not self.made_in_blocks:
            mended = [countable(self.name, numerator[x], denominator[x], x.start) for x in self.blocks]
            if any(x.base is not numerator for x in mended):
                object.__setattr__(self, "numerator", np.concatenate(mended))

    @property
    def made_in_blocks(self) -> bool:
        """Whether its numbers are made when they are asked for."""
        return isinstance(self.numerator, Each) or isinstance(self.denominator, Each)

    @property
    def blocks(self) -> list[slice]:
        """Its conditions, a few at a time."""
        return list(blocks(*self.numerator.shape))

    def parts(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Numerators and denominators of some conditions [len, n_prompts].

        Raises:
            HarnessError: an entry that is made now is not finite.
        """
        numerator, denominator = self.numerator[rows], self.denominator[rows]
        if self.made_in_blocks:
            numerator = countable(self.name, numerator, denominator, rows.start)
        return numerator, denominator

    def row(self, condition: int) -> tuple[np.ndarray, np.ndarray]:
        """Numerators and denominators of one condition [n_prompts]."""
        numerator, denominator = self.parts(slice(condition, condition + 1))
        return numerator[0], denominator[0]

    def some(self, conditions: list[int]) -> Measure:
        """The same of some conditions, the first of which is the untouched one."""
        return replace(self, numerator=self.numerator[conditions], denominator=self.denominator[conditions])

    def over(self, prompts: Sequence[int] | np.ndarray) -> Measure:
        """The same over some of its prompts, by place."""
        return replace(self, numerator=at(self.numerator, prompts), denominator=at(self.denominator, prompts))

    @cached_property
    def tally(self) -> Tally:
        """What there is of every condition."""
        n = len(self.numerator)
        events, trials, changed, shared = np.empty(n), np.empty(n), np.empty(n, int), True
        before, treated = self.row(BASELINE), self.row(TREATED)[1]
        for rows in self.blocks:
            numerator, denominator = self.parts(rows)
            events[rows], trials[rows] = (x.sum(axis=1, dtype=np.float64) for x in (numerator, denominator))
            changed[rows] = (differs(numerator, before[0]) | (denominator != before[1])).sum(axis=1)
            shared = shared and bool((denominator[max(TREATED - rows.start, 0) :] == treated).all())
        return Tally(events, trials, changed, shared)

    @cached_property
    def values(self) -> np.ndarray:
        """Value of every condition [n_conditions]; NaN where the denominator is 0."""
        return ratio(self.tally.events, self.tally.trials, self.scale)

    @property
    def changed(self) -> np.ndarray:
        """Number of prompts that contribute otherwise than under the baseline [n_conditions]."""
        return self.tally.changed

    @property
    def counting(self) -> np.ndarray:
        """Which prompts count under treatment: bool [n_prompts]."""
        return np.asarray(self.row(TREATED)[1] > 0)

    @property
    def is_count(self) -> bool:
        """Whether the treated value is a number of events among a number of trials."""
        events, trials = self.row(TREATED)
        whole = (events % 1 == 0).all() and (trials % 1 == 0).all()
        return (
            self.unit in ("%", "share")
            and self.scale > 0
            and bool(whole and (events >= 0).all() and (events <= trials).all())
        )


def countable(measure: str, numerator: np.ndarray, denominator: np.ndarray, first: int) -> np.ndarray:
    """The numerators of some conditions [len, n_prompts], the ``first`` one on, with 0 where the denominator is 0.

    Raises:
        HarnessError: an entry that counts is not finite, or a denominator is negative.
    """
    wrong = ~(np.isfinite(denominator) & (denominator >= 0))
    refuse(measure, wrong, "a denominator that is negative or not finite", first)
    finite = np.isfinite(numerator)
    if not finite.all():
        refuse(measure, ~finite & (denominator != 0), "a value that is not finite (NaN or infinite)", first)
        numerator = np.where(finite, numerator, 0.0)
    if ((denominator == 0) & (numerator != 0)).any():
        numerator = np.where(denominator == 0, 0, numerator)
    return numerator


def refuse(measure: str, wrong: np.ndarray, what: str, first: int = 0) -> None:
    """Raise for the first condition that has a wrong entry.

    Args:
        wrong: bool [len, n_prompts], of conditions from the ``first`` one on.
    """
    if wrong.any():
        row = int(np.flatnonzero(wrong.any(axis=1))[0])
        place, n = row + first, counted(int(wrong[row].sum()), "prompt")
        name = ("baseline", "treated")[place] if place < 2 else f"control-{place - 2:04d}"
        raise HarnessError(f'measure "{measure}": {what} in condition {name}, {n}.')


def ratio(numerator: np.ndarray, denominator: np.ndarray, scale: float) -> np.ndarray:
    """scale * numerator / denominator, NaN where the denominator is 0; the two shapes broadcast."""
    found: np.ndarray = scale * np.divide(numerator, np.where(denominator == 0, np.nan, denominator))
    return found


@dataclass(frozen=True, eq=False)
class Functional(Roles):
    """A measure that is no ratio: value[c] = function(sums of the terms over prompts), for every condition.

    Correlations, calibration errors and areas under curves are of this kind (:mod:`harness.statistics.functionals`).
    Being functions of sums, they are resampled over prompts as ratios are.

    Attributes:
        terms: [n_conditions, n_prompts, n_terms] of numbers, summed in float64 over prompts; an array, or Each.
        function: takes sums [..., n_terms], returns values [...]; NaN where undefined.
        few: there are so many terms that only the first conditions are resampled (:mod:`harness.statistics.bootstrap`).
        other attributes: as those of :class:`Measure`.

    Raises:
        HarnessError: a term is not finite; names the measure and the condition.
    """

    name: str
    title: str
    unit: str
    terms: np.ndarray | Each
    function: Callable[[np.ndarray], np.ndarray]
    higher_is_better: bool | None = None
    primary: bool = False
    null: float = 0.0
    description: str = ""
    specific: bool = False
    few: bool = False
    is_count = False

    def __post_init__(self) -> None:
        if self.terms.ndim != 3 or len(self.terms) < 2:
            raise ValueError(f"measure {self.name!r}: terms {self.terms.shape} must be [>= 2, n_prompts, n_terms]")
        if not isinstance(self.terms, Each):
            for rows in self.blocks:
                self._finite(self.terms[rows], rows.start)

    def _finite(self, terms: np.ndarray, first: int) -> np.ndarray:
        refuse(self.name, ~np.isfinite(terms).all(axis=2), "a value that is not finite (NaN or infinite)", first)
        return terms

    @property
    def blocks(self) -> list[slice]:
        """Its conditions, a few at a time."""
        n_conditions, n_prompts, n_terms = self.terms.shape
        return list(blocks(n_conditions, n_prompts * n_terms))

    def parts(self, rows: slice) -> np.ndarray:
        """Terms of some conditions [len, n_prompts, n_terms].

        Raises:
            HarnessError: a term that is made now is not finite.
        """
        terms = self.terms[rows]
        return self._finite(terms, rows.start) if isinstance(self.terms, Each) else terms

    def row(self, condition: int) -> np.ndarray:
        """Terms of one condition [n_prompts, n_terms]."""
        found: np.ndarray = self.parts(slice(condition, condition + 1))[0]
        return found

    def some(self, conditions: list[int]) -> Functional:
        """The same of some conditions, the first of which is the untouched one."""
        return replace(self, terms=self.terms[conditions])

    def over(self, prompts: Sequence[int] | np.ndarray) -> Functional:
        """The same over some of its prompts, by place."""
        return replace(self, terms=at(self.terms, prompts))

    @cached_property
    def values(self) -> np.ndarray:
        """Value of every condition [n_conditions]; NaN where undefined."""
        return self.function(np.concatenate([self.parts(x).sum(axis=1, dtype=np.float64) for x in self.blocks]))

    @cached_property
    def changed(self) -> np.ndarray:
        """Number of prompts that contribute otherwise than under the baseline [n_conditions]."""
        before = self.row(BASELINE)
        found = [differs(self.parts(x), before).any(axis=2).sum(axis=1) for x in self.blocks]
        return np.concatenate(found)

    @property
    def counting(self) -> np.ndarray:
        """Which prompts count under treatment: bool [n_prompts]."""
        found: np.ndarray = (self.row(TREATED) != 0).any(axis=1)
        return found


@dataclass(frozen=True, eq=False)
class Aggregated(Roles):
    """A measure of all prompts at once that is no function of sums (F1, BLEU): value[c] = function(items of c).

    It is resampled by calling the function again, so a few hundred times only (:mod:`harness.statistics.bootstrap`).

    Attributes:
        codes: [n_conditions, n_prompts], place in ``items`` of what each prompt gives; -1 where it gives nothing.
        function: takes a list of items, returns a number.
        change: the value is the difference to the baseline's.
        other attributes: as those of :class:`Measure`.
    """

    name: str
    title: str
    unit: str
    codes: np.ndarray
    items: Sequence[Any]
    function: Callable[[list[Any]], float]
    change: bool = False
    higher_is_better: bool | None = None
    primary: bool = False
    null: float = 0.0
    description: str = ""
    specific = False
    is_count = False
    few = True

    def value(self, row: int, prompts: np.ndarray) -> float:
        """The value of one condition over some prompts, by place, repeated ones counted as often; NaN if undefined."""

        def of(row: int) -> float:
            codes = self.codes[row, prompts]
            try:
                return float(self.function([self.items[code] for code in codes if code >= 0]))
            except (ArithmeticError, LookupError, ValueError):  # no items, or none of a kind that it takes
                return float("nan")

        return of(row) - of(BASELINE) if self.change else of(row)

    def some(self, conditions: list[int]) -> Aggregated:
        """The same of some conditions, the first of which is the untouched one."""
        return replace(self, codes=self.codes[conditions])

    def over(self, prompts: Sequence[int] | np.ndarray) -> Aggregated:
        """The same over some of its prompts, by place."""
        return replace(self, codes=self.codes[:, prompts])

    @cached_property
    def values(self) -> np.ndarray:
        """Value of every condition [n_conditions]; NaN where undefined."""
        everywhere = np.arange(self.codes.shape[1])
        return np.array([self.value(row, everywhere) for row in range(len(self.codes))])

    @property
    def changed(self) -> np.ndarray:
        """Number of prompts that contribute otherwise than under the baseline [n_conditions]."""
        found: np.ndarray = (self.codes != self.codes[BASELINE]).sum(axis=1)
        return found

    @property
    def counting(self) -> np.ndarray:
        """Which prompts count under treatment: bool [n_prompts]."""
        return np.asarray(self.codes[TREATED] >= 0)


AnyMeasure: TypeAlias = Measure | Functional | Aggregated
