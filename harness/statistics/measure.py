"""Measures: functions of sums over prompts, for every condition. Most are ratios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from harness.errors import HarnessError
from harness.files.wording import counted

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
            is 0.
        denominator: [n_conditions, n_prompts] of booleans or numbers, not negative; may be a broadcast view.
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
    numerator: np.ndarray
    denominator: np.ndarray
    scale: float = 1.0
    higher_is_better: bool | None = None
    primary: bool = False
    null: float = 0.0
    description: str = ""
    specific: bool = False
    few = False

    def __post_init__(self) -> None:
        numerator, denominator = np.asarray(self.numerator), np.asarray(self.denominator)
        if numerator.ndim != 2 or numerator.shape != denominator.shape or len(numerator) < 2:
            raise ValueError(
                f"measure {self.name!r}: numerator {numerator.shape} and denominator {denominator.shape} must have one "
                "shape [n_conditions, n_prompts] with at least 2 conditions (baseline, treated)"
            )
        refuse(
            self.name, ~(np.isfinite(denominator) & (denominator >= 0)), "a denominator that is negative or not finite"
        )
        finite = np.isfinite(numerator)
        if not finite.all():
            refuse(self.name, ~finite & (denominator != 0), "a value that is not finite (NaN or infinite)")
            numerator = np.where(finite, numerator, 0.0)
        if ((denominator == 0) & (numerator != 0)).any():
            numerator = np.where(denominator == 0, 0, numerator)
        object.__setattr__(self, "numerator", numerator)
        object.__setattr__(self, "denominator", denominator)

    @cached_property
    def values(self) -> np.ndarray:
        """Value of every condition [n_conditions]; NaN where the denominator is 0."""
        events, trials = (array.sum(axis=1, dtype=np.float64) for array in (self.numerator, self.denominator))
        return ratio(events, trials, self.scale)

    @property
    def changed(self) -> np.ndarray:
        """Number of prompts that contribute otherwise than under the baseline [n_conditions]."""
        different = differs(self.numerator, self.numerator[BASELINE])
        found: np.ndarray = (different | (self.denominator != self.denominator[BASELINE])).sum(axis=1)
        return found

    @property
    def counting(self) -> np.ndarray:
        """Which prompts count under treatment: bool [n_prompts]."""
        return np.asarray(self.denominator[TREATED] > 0)

    @property
    def is_count(self) -> bool:
        """Whether the treated value is a number of events among a number of trials."""
        events, trials = self.numerator[TREATED], self.denominator[TREATED]
        whole = (events % 1 == 0).all() and (trials % 1 == 0).all()
        return (
            self.unit in ("%", "share")
            and self.scale > 0
            and bool(whole and (events >= 0).all() and (events <= trials).all())
        )


def refuse(measure: str, wrong: np.ndarray, what: str) -> None:
    """Raise for the first condition that has a wrong entry; wrong: bool [n_conditions, n_prompts]."""
    if wrong.any():
        row = int(np.flatnonzero(wrong.any(axis=1))[0])
        name = ("baseline", "treated")[row] if row < 2 else f"control-{row - 2:04d}"
        raise HarnessError(
            f'measure "{measure}": {what} in condition {name}, {counted(int(wrong[row].sum()), "prompt")}.'
        )


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
        terms: [n_conditions, n_prompts, n_terms] of numbers, summed in float64 over prompts.
        function: takes sums [..., n_terms], returns values [...]; NaN where undefined.
        few: there are so many terms that only the first conditions are resampled (:mod:`harness.statistics.bootstrap`).
        other attributes: as those of :class:`Measure`.

    Raises:
        HarnessError: a term is not finite; names the measure and the condition.
    """

    name: str
    title: str
    unit: str
    terms: np.ndarray
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
        refuse(self.name, ~np.isfinite(self.terms).all(axis=2), "a value that is not finite (NaN or infinite)")

    @cached_property
    def values(self) -> np.ndarray:
        """Value of every condition [n_conditions]; NaN where undefined."""
        return self.function(self.terms.sum(axis=1, dtype=np.float64))

    @property
    def changed(self) -> np.ndarray:
        """Number of prompts that contribute otherwise than under the baseline [n_conditions]."""
        found: np.ndarray = differs(self.terms, self.terms[BASELINE]).any(axis=2).sum(axis=1)
        return found

    @property
    def counting(self) -> np.ndarray:
        """Which prompts count under treatment: bool [n_prompts]."""
        found: np.ndarray = (self.terms[TREATED] != 0).any(axis=1)
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
