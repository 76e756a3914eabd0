"""Where units are, as columns of their own: a table's reader may take their names for numbers, and 3.1 for 3.10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.conditions.units import Unit
from harness.errors import HarnessError
from harness.plugin.unit_kinds import kinds


def names() -> frozenset[str]:
    """Columns that hold names of units: those that are called as a kind of units is, and two more. Others may hold
    texts that only look like them: an answer, a version."""
    return frozenset({"unit", "largest change", *kinds()})


Columns = Mapping[str, Sequence[Any] | np.ndarray]


def with_places(columns: Columns) -> Columns:
    """The columns, with layer and index (heads: layer and head; directions: layer) behind every column of names.

    They are called after the column of names where the table has others of that name already. A table that has the
    same ones stays as it is, and so do columns with anything but names.
    """
    found: dict[str, Sequence[Any] | np.ndarray] = {}
    for name, values in columns.items():
        found[name] = values
        for place, numbers in _places(values).items() if name in names() else ():
            taken = place in columns or place in found
            key = f"{name} {'index' if place == name else place}" if taken else place
            if place not in columns or list(columns[place]) != numbers:
                found[key] = numbers
    return found


def _places(values: Sequence[Any] | np.ndarray) -> dict[str, list[int]]:
    """The columns that names tell; none unless all are names of one kind."""
    for kind in kinds().values() if any(isinstance(value, str) for value in values) else ():
        units = [_parsed(kind, value) for value in values]
        known = [unit.place for unit in units if unit is not None]
        if known and len(known) == len(units):
            return {column: [place[column] for place in known] for column in known[0]}
    return {}


def _parsed(kind: type[Unit], value: Any) -> Unit | None:
    try:
        return kind.parse(value) if isinstance(value, str) else None
    except HarnessError:
        return None
