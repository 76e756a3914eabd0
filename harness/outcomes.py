"""What flows between the stages of a run: prompts, outcomes, measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.statistics import Measure, TableTests


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        id: unique in the run, and stable between runs.
        text: what the model reads, before special tokens.
        tokens: the token ids that the model reads, special tokens included.
        cluster: prompts that share it are not independent (three prompts of one fact) and are resampled together.
        fields: whatever the task wants to remember; JSON values only.
    """

    id: str
    text: str
    tokens: tuple[int, ...]
    cluster: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Prompt:
        return cls(**{**row, "tokens": tuple(row["tokens"])})


@dataclass(frozen=True)
class Step:
    """One step of a task's preparation: how many items it left, and what it did, in words."""

    name: str
    kept: int
    dropped: int
    why: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Prepared:
    """A task's prompts, the steps that led to them, and anything worth recording about them (JSON values only)."""

    prompts: tuple[Prompt, ...]
    steps: tuple[Step, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcomes:
    """What was observed for every condition and prompt.

    Attributes:
        conditions: names of the conditions; row 0 is ``baseline``, row 1 ``treated``, the others are controls.
        prompts: the N prompts.
        values: named arrays of shape [len(conditions), N].
        answers: generated texts of the first rows of ``conditions`` (baseline and treated): [<= 2][N].
        categories: for an integer array of ``values``, the names of its codes.
    """

    conditions: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    values: Mapping[str, np.ndarray]
    answers: tuple[tuple[str, ...], ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.conditions), len(self.prompts))
        for name, array in self.values.items():
            if array.shape != shape:
                raise ValueError(f"outcome {name!r} has shape {array.shape}, expected {shape}")

    def __getitem__(self, name: str) -> np.ndarray:
        """The array called ``name`` [n_conditions, n_prompts].

        Raises:
            HarnessError: the task did not observe it (a metric that does not fit the task).
        """
        if name not in self.values:
            raise HarnessError(
                f'a metric wants the outcome "{name}", which this task does not observe; '
                f"it observes {', '.join(sorted(self.values))}."
            )
        return self.values[name]

    @property
    def clusters(self) -> np.ndarray:
        """Cluster number of every prompt [N]."""
        return np.unique([prompt.cluster for prompt in self.prompts], return_inverse=True)[1]

    @classmethod
    def join(cls, parts: Sequence[Outcomes]) -> Outcomes:
        """Put consecutive parts of one run together."""
        first = parts[0]
        return cls(
            conditions=first.conditions,
            prompts=tuple(prompt for part in parts for prompt in part.prompts),
            values={name: np.concatenate([part.values[name] for part in parts], axis=1) for name in first.values},
            answers=tuple(
                tuple(answer for part in parts for answer in part.answers[row]) for row in range(len(first.answers))
            ),
            categories=first.categories,
        )


@dataclass(frozen=True)
class Table:
    """A table of counts for the report: rows before, columns after."""

    name: str
    title: str
    categories: tuple[str, ...]
    treated: np.ndarray
    """[k, k] counts under the treated condition."""
    controls: np.ndarray
    """[n_controls, k, k] counts under each control."""
    tests: TableTests | None = None


@dataclass(frozen=True)
class Measurement:
    """What a metric found: measures (ratios of sums over prompts), tables of counts, remarks in words."""

    measures: tuple[Measure, ...]
    tables: tuple[Table, ...] = ()
    remarks: tuple[str, ...] = ()
    broken: str | None = None
    """A reason to distrust everything: the treated model no longer does the task at all."""
