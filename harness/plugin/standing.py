"""Where selected units stand among the others of their layer, and which of them are ordinary there.

A rule may choose units that lack what their kind is known for: a threshold on one score says nothing of another. So a
selector says which end of which score sets apart what it looks for
(:attr:`harness.conditions.conditions.Selection.special`), and every report says where the chosen ones stand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.conditions.conditions import Selection
from harness.errors import PluginError, suggest
from harness.files.wording import agree, the

OUTER = 75.0
"""A score is out of the ordinary beyond so many percent of the others, on the side that the selector looks for: the
quarter that Du et al. (2025) take the largest norms from."""

LEAST = 20
"""Among fewer others than this nothing is called ordinary."""

NAMED = 12
"""So many ordinary units are named in a sentence."""

ENDS = ("high", "low")

P_VALUE = re.compile(r"p(_.*)?")
"""What a score that is a p-value is called: it says itself how far out it is, and has no percentile."""

PERCENTILE = "_percentile"
"""What a score's name is followed by where a record says how many percent of the others score lower."""


@dataclass(frozen=True)
class Standing:
    """Of one selected unit: ``percentiles``, by score, the percent of the other candidates of its layer that score
    lower (ties count half); ``ordinary``: the scores in which it is not what the selector looks for."""

    percentiles: dict[str, float]
    ordinary: tuple[str, ...]


def check_special(selection: Selection, source: str) -> None:
    """Refuse ends of scores that there are not.

    Raises:
        PluginError: names the selector (``source``) and the score.
    """
    for name, end in selection.special.items():
        if name not in selection.scores:
            known = ", ".join(selection.scores) or "none"
            raise PluginError(
                f'{source}: special names the score "{name}", which there is not.{suggest(name, selection.scores)} '
                f"There are: {known}."
            )
        if end not in ENDS:
            raise PluginError(f'{source}: special of the score "{name}" is {end!r}; expected "high" or "low".')


def standings(selection: Selection) -> list[Standing]:
    """Where each selected unit stands, p-values aside; without scores, or outside the candidates, nowhere."""
    rows = {unit: row for row, unit in enumerate(selection.candidates)}
    layers = np.array([unit.layer for unit in selection.candidates], dtype=int)
    found = []
    for unit in selection.units:
        row = rows.get(unit)
        if row is None:
            found.append(Standing({}, ()))
            continue
        others = np.flatnonzero(layers == unit.layer)
        others = others[others != row]
        of = {
            name: _percentile(np.asarray(column, float), row, others)
            for name, column in selection.scores.items()
            if not P_VALUE.fullmatch(name)
        }
        percentiles = {name: percent for name, percent in of.items() if percent is not None}
        found.append(Standing(percentiles, _ordinary(selection, percentiles) if len(others) >= LEAST else ()))
    return found


def _percentile(column: np.ndarray, row: int, others: np.ndarray) -> float | None:
    """Percent of the others that lie below; None where it, or every other one, has no value."""
    values = column[others]
    values = values[~np.isnan(values)]
    if not len(values) or np.isnan(column[row]):
        return None
    below, equal = int((values < column[row]).sum()), int((values == column[row]).sum())
    return 100 * (below + equal / 2) / len(values)


def _ordinary(selection: Selection, percentiles: dict[str, float]) -> tuple[str, ...]:
    special = {name: end for name, end in selection.special.items() if name in percentiles}
    return tuple(
        name
        for name, end in special.items()
        if (percentiles[name] if end == "high" else 100 - percentiles[name]) < OUTER
    )


def warning(selection: Selection, found: Sequence[Standing]) -> str | None:
    """A sentence about the selected units that are ordinary; None where none is."""
    odd = [(unit, standing) for unit, standing in zip(selection.units, found, strict=True) if standing.ordinary]
    if not odd:
        return None
    n, k, word = len(selection.units), len(odd), selection.units[0].word
    told = [
        f"{unit} ({', '.join(f'{name} above {standing.percentiles[name]:.0f}%' for name in standing.ordinary)})"
        for unit, standing in odd
    ]
    more = f", and {k - NAMED} more" if k > NAMED else ""
    which = the(n, f"selected {word}") if k == n else f"{k} of {the(n, f'selected {word}')}"
    return (
        f"{which[:1].upper()}{which[1:]} {agree(k, 'is', 'are')} ordinary among the others of "
        f"{agree(k, 'its', 'their')} layer: {', '.join(told[:NAMED])}{more}. What is sought has {_sought(selection)}"
    )


def _sought(selection: Selection) -> str:
    """The ends in words: rho and norm above 75% or more, logit_var above 25% or less of them."""
    told = []
    for end, limit in (("high", f"above {OUTER:.0f}% or more"), ("low", f"above {100 - OUTER:.0f}% or less")):
        names = [name for name, of in selection.special.items() if of == end]
        if names:
            told.append(f"{' and '.join(names)} {limit}")
    return ", ".join(told) + " of them"
