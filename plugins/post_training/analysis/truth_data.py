"""Data sets of true and false statements, and which statement negates which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.plugin import HarnessError

from .labelled_texts import data_set_name, read_statements
from .probes import Activations

NEGATED = "neg_"
"""What the name of a data set begins with whose statements negate those of another."""


@dataclass(frozen=True, eq=False)
class TruthData:
    """Statements of several data sets, one after another.

    Attributes:
        names: of the data sets. texts: [n]. label: bool [n]. dataset: int [n], place in ``names``.
        group: int [n]: a statement and its negation are of one.
        twin: int [n], the row of the negation; -1 where there is none.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    label: np.ndarray
    dataset: np.ndarray
    group: np.ndarray
    twin: np.ndarray

    @property
    def families(self) -> dict[str, np.ndarray]:
        """Data sets without their negations as keys, and which statements belong to one or the other, bool [n]."""
        own = np.array([name.removeprefix(NEGATED) for name in self.names])
        return {name: (own == name)[self.dataset] for name in dict.fromkeys(own.tolist())}

    @property
    def negated(self) -> np.ndarray:
        """Whether a statement's data set is one of negations, bool [n]."""
        found: np.ndarray = np.array([name.startswith(NEGATED) for name in self.names])[self.dataset]
        return found

    def after(self, residual: np.ndarray) -> Activations:
        """The statements with a layer's residual stream [n, d_model]."""
        return Activations(residual.astype(np.float64), self.label, self.dataset, self.negated, self.twin)


def load_truth(paths: Sequence[str | Path]) -> TruthData:
    """Tables of statements and labels; each is a data set by its file's name, ``neg_NAME`` the negation of ``NAME``.

    Raises:
        HarnessError: a file is wrong, two have one name, a data set has one label only, or a negation does not fit.
    """
    found = {}
    for path in paths:
        name = data_set_name(path)
        if name in found:
            raise HarnessError(f"two files are called {Path(path).name}; a data set is known by its name.")
        found[name] = read_statements(path)
        if len({label for _, label in found[name]}) < 2:
            raise HarnessError(f"{path}: expected true statements and false ones.")
    names = tuple(found)
    start = dict(zip(names, np.cumsum([0, *(len(rows) for rows in found.values())]).tolist(), strict=False))
    label = np.array([label for rows in found.values() for _, label in rows])
    dataset = np.repeat(np.arange(len(names)), [len(rows) for rows in found.values()])
    group, twin = np.arange(len(label)), np.full(len(label), -1)
    for name, rows in found.items():
        other = NEGATED + name
        if other not in found:
            continue
        if len(found[other]) != len(rows) or any(a == b for (_, a), (_, b) in zip(rows, found[other], strict=True)):
            raise HarnessError(f"{other} does not negate {name} row by row: their labels have to be opposite.")
        here = start[name] + np.arange(len(rows))
        twin[here] = start[other] + np.arange(len(rows))
        group[twin[here]] = here
    texts = tuple(text for rows in found.values() for text, _ in rows)
    return TruthData(names, texts, label, dataset, group, twin)
