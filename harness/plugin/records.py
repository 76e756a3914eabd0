"""What flows between the stages of a run: prompts, outcomes, measurements."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from harness.errors import HarnessError

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from harness.conditions.conditions import Condition, Role, Selection
    from harness.plugin.joining import Joined
    from harness.statistics import AnyMeasure, Each, TableTests


NAME = re.compile(r"[A-Za-z0-9_-]+")
"""What tables and figures may be called: their names are those of files."""


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        id: unique in the run, and stable between runs.
        text: what the model reads, before special tokens.
        tokens: the token ids that the model reads, special tokens included.
        cluster: prompts that share it are not independent (three prompts of one fact) and are resampled together.
        fields: whatever the task wants to remember; JSON values only.
        spans: tokens (start, stop) of parts that the task names, where an intervention acts at some of them; the run
            fills them in (:meth:`harness.plugin.Task.named_spans`), and they are not kept.
    """

    id: str
    text: str
    tokens: tuple[int, ...]
    cluster: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {x.name: getattr(self, x.name) for x in fields(self) if x.name != "spans"}

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
    """A task's prompts.

    Attributes:
        prompts: what is run under every condition.
        steps: how they were made. details: anything worth recording about them, JSON values only.
        held_out: prompts that selectors look at instead, and that nothing is evaluated on; none: they look at
            ``prompts``.
    """

    prompts: tuple[Prompt, ...]
    steps: tuple[Step, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    held_out: tuple[Prompt, ...] = ()


@dataclass(frozen=True)
class Series:
    """Values by token, for a few conditions or neurons.

    Attributes:
        rows: what the rows are: names of conditions, or of neurons.
        values: float32 [len(rows), N, longest], by prompt and token; NaN where there is none.
    """

    rows: tuple[str, ...]
    values: np.ndarray

    def __getitem__(self, row: str) -> np.ndarray:
        """The values of one row [N, longest]."""
        found: np.ndarray = self.values[self.rows.index(row)]
        return found

    def only(self, *rows: str) -> Series:
        """Some of its rows."""
        return Series(rows, self.values[[self.rows.index(row) for row in rows]])


@dataclass(frozen=True)
class Alone:
    """Outcomes of further sets that were treated beside the selection (each neuron on its own ...).

    Attributes:
        units: the S sets, as text ("3.17", "L2H1+L2H3").
        values: named arrays of shape [S, N].
    """

    units: tuple[str, ...] = ()
    values: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        """The array called ``name`` [S, N, ...]."""
        return self.values[name]


@dataclass(frozen=True)
class Rows:
    """What was observed under the conditions of one role, by name: a part of each array of :class:`Outcomes`.

    Attributes:
        rows: which rows of the arrays: one, or those of several conditions.
    """

    outcomes: Outcomes
    rows: int | slice | tuple[int, ...]

    def __getitem__(self, name: str) -> np.ndarray:
        """The part of the array called ``name``: [N, ...] of one condition, [m, N, ...] of several.

        Raises:
            HarnessError: the task did not observe it.
        """
        from harness.plugin.joining import as_slice

        array: np.ndarray = self.outcomes[name][as_slice(self.rows) if isinstance(self.rows, tuple) else self.rows]
        return array


@dataclass(frozen=True)
class Outcomes:
    """What was observed for every condition and prompt.

    ``outcomes["entropy"]`` has a row for each condition; :attr:`baseline`, :attr:`treated` and :attr:`controls` give
    those of one role: ``outcomes.treated["entropy"] - outcomes.baseline["entropy"]``.

    Attributes:
        conditions: what the rows are, each with its role; baseline and treated come first.
        prompts: the N prompts.
        values: named arrays of shape [len(conditions), N], or [len(conditions), N, k] for k numbers each.
        answers: generated texts of those conditions that are :attr:`~harness.plugin.Condition.shown`, in their order.
        categories: for an integer array of ``values``, the names of its codes; -1 is none of them.
        series: values by token, of some conditions.
        found: those arrays whose categories are what turned up: joined parts have them in order, without unused ones.
        details: what the task tells its metrics about all of this, JSON values only.
        alone: outcomes of the task's further sets. selection: what was selected. The run fills in both.
    """

    conditions: tuple[Condition, ...]
    prompts: tuple[Prompt, ...]
    values: Mapping[str, np.ndarray]
    answers: tuple[tuple[str, ...], ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    series: Mapping[str, Series] = field(default_factory=dict)
    found: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    alone: Alone = field(default_factory=Alone)
    selection: Selection | None = None

    def __post_init__(self) -> None:
        shape = (len(self.conditions), len(self.prompts))
        for name, array in self.values.items():
            if array.shape[:2] != shape or array.ndim > 3:
                raise ValueError(f"outcome {name!r} has shape {array.shape}, expected {shape}")

    def __getitem__(self, name: str) -> np.ndarray:
        """The array called ``name`` [n_conditions, n_prompts, ...].

        Raises:
            HarnessError: the task did not observe it (a metric that does not fit the task).
        """
        if name not in self.values:
            raise HarnessError(
                f'a metric wants the outcome "{name}", which this task does not observe; '
                f"it observes {', '.join(sorted(self.values))}."
            )
        return self.values[name]

    def rows(self, *roles: Role) -> tuple[int, ...]:
        """The rows of the conditions that have one of these roles."""
        return tuple(row for row, condition in enumerate(self.conditions) if condition.role in roles)

    @property
    def baseline(self) -> Rows:
        """Outcomes of the untouched model: ``outcomes.baseline["entropy"]`` [N]."""
        return self._only("baseline")

    @property
    def treated(self) -> Rows:
        """Outcomes of the selection under the intervention: ``outcomes.treated["entropy"]`` [N]."""
        return self._only("treated")

    @property
    def controls(self) -> Rows:
        """Outcomes of the m control sets: ``outcomes.controls["entropy"]`` [m, N]."""
        return self.of("control")

    def of(self, *roles: Role) -> Rows:
        """Outcomes of all conditions that have one of these roles."""
        return Rows(self, self.rows(*roles))

    def each(self, function: Callable[[Rows], np.ndarray]) -> Each:
        """An array [n_conditions, n_prompts, ...] for a measure, that is made of a few conditions at a time: a run of
        many prompts never holds it.

        ``outcomes.each(lambda seen: seen["entropy"] - before)``, where ``before`` is ``outcomes.baseline["entropy"]``.

        Args:
            function: takes what was observed under some conditions, gives a row for each of them, which depends on no
                other but the baseline's and the treated one's. It is called again whenever its numbers are needed.
        """
        from harness.statistics import Each

        return Each(len(self.conditions), lambda rows: np.asarray(function(Rows(self, rows))))

    def _only(self, role: Role) -> Rows:
        rows = self.rows(role)
        if len(rows) != 1:
            raise HarnessError(f"expected 1 condition of the role {role} among these outcomes, got {len(rows)}.")
        return Rows(self, rows[0])

    @property
    def clusters(self) -> np.ndarray:
        """Cluster number of every prompt [N]."""
        return np.unique([prompt.cluster for prompt in self.prompts], return_inverse=True)[1]

    @classmethod
    def join(cls, parts: Sequence[Outcomes]) -> Outcomes:
        """Put consecutive parts of one run together. What a part did not observe is NaN there, or no category."""
        unread = cls.unread(parts)
        return replace(unread, values={name: array[:] for name, array in unread.values.items()})

    @classmethod
    def unread(cls, parts: Sequence[Outcomes]) -> Outcomes:
        """The same, whose values are read from the parts when their rows are asked for
        (:class:`harness.plugin.joining.Joined`): nothing but :meth:`split` and :meth:`arrays` is asked of it."""
        from harness.plugin.joining import joined_series, joined_values

        first = parts[0]
        values, categories = joined_values(parts)
        return cls(
            conditions=first.conditions,
            prompts=tuple(prompt for part in parts for prompt in part.prompts),
            values=cast(dict[str, np.ndarray], values),
            answers=tuple(
                tuple(answer for part in parts for answer in part.answers[row]) for row in range(len(first.answers))
            ),
            categories=categories,
            found=tuple(dict.fromkeys(name for part in parts for name in part.found)),
            details={key: value for part in parts for key, value in part.details.items()},
            series={
                name: Series(series.rows, joined_series([part.series[name] for part in parts]))
                for name, series in first.series.items()
            },
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that is numbers, by name, for a file."""
        return {
            **self.values,
            **{f"alone {name}": array for name, array in self.alone.values.items()},
            **{f"series {name}": series.values for name, series in self.series.items()},
        }

    def split(self, selection: Selection) -> Outcomes:
        """The same with the conditions of the role "alone" moved to ``alone``, under the names of their units."""
        alone = list(self.rows("alone"))
        if not alone:
            return replace(self, selection=selection)
        rest = [row for row, condition in enumerate(self.conditions) if condition.role != "alone"]
        return replace(
            self,
            conditions=tuple(self.conditions[row] for row in rest),
            values={name: _only(array, rest) for name, array in self.values.items()},
            alone=Alone(
                tuple("+".join(map(str, self.conditions[row].units)) for row in alone),
                {name: _only(array, alone) for name, array in self.values.items()},
            ),
            selection=selection,
        )


def _only(array: np.ndarray | Joined, rows: list[int]) -> np.ndarray:
    """Some rows of an array; of one that is not read yet, they are not read either."""
    return array[rows] if isinstance(array, np.ndarray) else cast(np.ndarray, array.only(rows))


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
class Frame:
    """A table of columns of equal length, written as CSV and, while it is short, shown in reports."""

    name: str
    title: str
    columns: Mapping[str, Sequence[Any] | np.ndarray]


@dataclass(frozen=True)
class PublishedNeurons:
    """Neurons of one model that a paper lists, to be chosen by name (``neurons:published=NAME``).

    Attributes:
        name: of the list: what users type.
        neurons: "layer.index" of each, ascending as in the paper.
        what: what one of them is called ("entropy neuron").
        by: authors and year, as in "published by Tighidet et al. (2025)".
    """

    name: str
    neurons: tuple[str, ...]
    what: str
    by: str


@dataclass(frozen=True)
class Matrix:
    """How papers show a frame that has a row for each cell of a square table (:attr:`Metric.layouts`).

    Attributes:
        name: what its files are called, after the run.
        caption: LaTeX, without a full stop: what rows, columns and numbers are.
        row, column: the frame's columns that say where a cell stands.
        row_label, column_label: what stands before rows and columns, with ``{}`` for the category.
        share, count: what a cell shows: a number with two digits, and a whole one in brackets.
        mean, error: what stands beneath it, of the controls.
    """

    name: str
    caption: str
    row: str
    column: str
    row_label: str
    column_label: str
    share: str
    count: str
    mean: str
    error: str


@dataclass(frozen=True)
class Figure:
    """A figure and the data it shows: written as PNG, SVG and CSV of one name.

    Attributes:
        name: of its files: letters, digits, ``-`` and ``_``.
        title: one sentence that says what is to be seen, for captions.
        data: columns of equal length: everything that is drawn.
        draw: draws onto an empty matplotlib figure; the style is set around it (:mod:`harness.report.figure_files`).
        size: width and height in inches; 3.35 is a column of a two-column paper, 6.9 a page.
    """

    name: str
    title: str
    data: Mapping[str, Sequence[Any] | np.ndarray]
    draw: Callable[[Canvas], None]
    size: tuple[float, float] = (3.35, 2.6)


@dataclass(frozen=True)
class Measurement:
    """What a metric found: measures (functions of sums over prompts), tables, figures, remarks in words."""

    measures: tuple[AnyMeasure, ...] = ()
    tables: tuple[Table, ...] = ()
    frames: tuple[Frame, ...] = ()
    figures: tuple[Figure, ...] = ()
    remarks: tuple[str, ...] = ()
    broken: str | None = None
    """A reason to distrust everything: the treated model no longer does the task at all."""


def per_prompt(values: np.ndarray, prompt: np.ndarray, n: int) -> np.ndarray:
    """Sums over the tokens of each prompt, float64 [..., n].

    Args:
        values: [..., n_tokens]. prompt: [n_tokens], the prompt of each token, in 0 to n - 1.
    """
    found: np.ndarray = values @ (prompt[:, None] == np.arange(n)).astype(np.float64)
    return found
