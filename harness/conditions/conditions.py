"""Components of a model, selections of them, and the conditions under which a model is run.

A *condition* is "these components, edited like this". A run compares the untouched model (``baseline``), the selected
components under the intervention (``treated``) and the same intervention on random sets of components (controls).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeAlias

import numpy as np

from harness.conditions.positions import EVERYWHERE, Positions
from harness.errors import HarnessError
from harness.files.wording import counted, plural

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, order=True)
class _Unit:
    """Something of a layer that has a number there and a name that can be read back.

    Class attributes:
        site: what an edit of it changes. word: what it is called. written: its name, as a pattern with layer and index.
        form: its name in words, and an example. placed: what its layer and index are called in tables; there, names
            alone do not tell: as a number, "3.10" is "3.1".
    """

    layer: int
    index: int

    site: ClassVar[str]
    word: ClassVar[Literal["neuron", "head", "direction"]]
    written: ClassVar[re.Pattern[str]]
    form: ClassVar[str]
    placed: ClassVar[tuple[str, ...]] = ("layer", "index")

    @property
    def place(self) -> dict[str, int]:
        """Its layer and index, under the names of columns."""
        return dict(zip(self.placed, (self.layer, self.index), strict=False))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the name of one.

        Raises:
            HarnessError: the text is not of its form.
        """
        match = cls.written.fullmatch(text.strip())
        if match is None:
            raise HarnessError(f'"{text}" is not a {cls.word}: expected {cls.form}.')
        return cls(int(match[1]), int(match[2]))


class Neuron(_Unit):
    """One entry of an MLP's hidden state after the activation function, written ``layer.index`` ("11.2378")."""

    site = "neurons"
    word = "neuron"
    written = re.compile(r"(\d+)\.(\d+)")
    form = "layer.index, for example 11.2378"

    def __str__(self) -> str:
        return f"{self.layer}.{self.index}"


class Head(_Unit):
    """One attention head, written ``L5H1``: layer 5, head 1, both counted from 0."""

    site = "heads"
    word = "head"
    written = re.compile(r"L(\d+)H(\d+)")
    form = "L, layer, H, index, for example L5H1"
    placed = ("layer", "head")

    def __str__(self) -> str:
        return f"L{self.layer}H{self.index}"


class Direction(_Unit):
    """A direction of the residual stream after a layer, written ``D5.0``: layer 5, the selection's direction 0 there.

    A direction is no part of the model: its vector is in the selection that names it (:attr:`Selection.vectors`).
    """

    site = "directions"
    word = "direction"
    written = re.compile(r"D(\d+)\.(\d+)")
    form = "D, layer, a dot, index, for example D5.0"
    placed = ("layer",)

    def __str__(self) -> str:
        return f"D{self.layer}.{self.index}"


Unit: TypeAlias = Neuron | Head | Direction
"""What is selected and edited."""

UNITS: dict[str, type[Unit]] = {unit.word: unit for unit in (Neuron, Head, Direction)}
"""The kinds of units by the word that records have for them."""

UNIT_KEYS = frozenset({"neuron", "selected"})
"""What a row of :meth:`Selection.table` has by itself: no score may be called so."""


class Edit(Protocol):
    """A change of some neurons of one layer, a pure function of these neurons' activations.

    Pure: the same activations give the same result, whatever was seen before, at whichever position and in whichever
    batch, and the argument is left as it was. An engine decides where and how often an edit is applied: once for each
    distinct prefix that several prompts or conditions share, again when a cache is continued or a pass is repeated, to
    many prompts at once or to one. If the result depended on that, engines would disagree, a condition's effect would
    depend on its neighbours in the batch, and a run that is continued would differ from one that was not interrupted.
    Noise is drawn from a seed and the activation itself (:mod:`harness.conditions.noise`).

    Being elementwise in the activations is what lets an engine evaluate many edits of the final layer in closed form.
    An edit of something else says so in an attribute ``site`` (see :func:`site_of`).
    """

    @property
    def layer(self) -> int: ...

    @property
    def indices(self) -> tuple[int, ...]: ...

    def apply(self, activations: torch.Tensor) -> torch.Tensor:
        """New activations, shape and dtype of the given ones: [..., len(indices)]."""
        ...


@dataclass(frozen=True)
class SetNeurons:
    """Replace each neuron's activation by a constant at every position (mean, median, zero ... ablation)."""

    layer: int
    indices: tuple[int, ...]
    values: tuple[float, ...]

    site: ClassVar[str] = "neurons"

    def __post_init__(self) -> None:
        if len(self.values) != len(self.indices):  # one value would be spread over all of them
            raise HarnessError(
                f"an edit of {counted(len(self.indices), 'neuron')} of layer {self.layer} has "
                f"{counted(len(self.values), 'value')}; expected "
                "one for each."
            )

    def apply(self, activations: torch.Tensor) -> torch.Tensor:
        return activations.new_tensor(self.values).expand_as(activations)


def site_of(edit: Edit) -> str:
    """What an edit changes: "neurons", which is meant where it does not say, "heads"
    (:mod:`harness.conditions.head_edits`), or
    "directions" of the residual stream (:mod:`harness.conditions.residual_edits`).

    Raises:
        HarnessError: it names anything else.
    """
    site = getattr(edit, "site", "neurons")
    if site not in [unit.site for unit in UNITS.values()]:
        raise HarnessError(
            f'an edit of layer {edit.layer} has the site "{site}": neurons, heads and directions can be edited.'
        )
    return str(site)


@dataclass(frozen=True, eq=False)
class Frozen:
    """What keeps the untouched model's value while edits of the last layer's neurons act: direct effects.

    Attributes:
        what: "final_norm" (the final norm divides by the untouched model's denominator: DE_LN of Stolfo et al. 2024,
            eq. 6) or "unigram" (the logits keep the untouched model's component along log p_freq: DE_freq, eq. 8).
        counts: [d_vocab], counts or probabilities of the tokens, all positive; with "unigram" only.
    """

    what: Literal["final_norm", "unigram"]
    counts: np.ndarray | None = None


Role: TypeAlias = Literal["baseline", "treated", "control", "alone"]
"""The untouched model; the selection under the intervention; a control set under it; a set that a task asks for."""


@dataclass(frozen=True)
class Condition:
    """A name and the edits that are made together in one pass of the model; no edits is the untouched model.

    Attributes:
        positions: the tokens at which the edits act.
        frozen: what does not follow the edits, or None.
        units: what the condition is about; for tasks that look at them without editing.
        role: what the condition is in its run.
    """

    name: str
    edits: tuple[Edit, ...] = ()
    positions: Positions = EVERYWHERE
    frozen: Frozen | None = None
    units: tuple[Unit, ...] = ()
    role: Role = "treated"

    @property
    def shown(self) -> bool:
        """Whether people see what it answers: the untouched model, and the selected units under the intervention."""
        return self.role in ("baseline", "treated")

    @property
    def untouched(self) -> bool:
        """Whether nothing is edited, whatever its role."""
        return not self.edits


BASELINE = Condition("baseline", role="baseline")


End: TypeAlias = Literal["high", "low"]
"""Of a score: the end at which units are out of the ordinary."""


@dataclass(frozen=True)
class Selection:
    """What a selector chose, and why.

    Attributes:
        units: the chosen neurons, heads or directions, in the order of the selector's preference.
        scores: a column for each score over *all* candidates (``{"rho": [d_mlp], ...}``), for tables and figures.
        candidates: the units that the rows of ``scores`` describe.
        rule: one sentence that says how the choice was made, with every threshold that was in force.
        details: anything else worth recording (weight pre-processing, singular values ...), JSON values only.
        pool: what controls are drawn from; None: all others of the same layers.
        vectors: of directions, those of the pool included: float64 [d_model] each.
        special: which end of a score ("high" or "low") sets apart what the selector looks for; reports say which of the
            chosen are ordinary in it (:mod:`harness.plugin.standing`).
    """

    units: tuple[Unit, ...]
    rule: str
    candidates: tuple[Unit, ...] = ()
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    pool: tuple[Unit, ...] | None = None
    vectors: Mapping[Unit, np.ndarray] = field(default_factory=dict)
    special: Mapping[str, End] = field(default_factory=dict)

    def table(self) -> list[dict[str, Any]]:
        """One row per candidate: its name, layer and index, whether it was selected, its scores.

        A layer or index is called ``neuron layer`` where a score has the shorter name.
        """
        chosen = set(self.units)
        columns = {name: np.asarray(values, dtype=float).tolist() for name, values in self.scores.items()}
        return [
            {
                "neuron": str(unit),
                **{f"neuron {x}" if x in columns else x: number for x, number in unit.place.items()},
                "selected": unit in chosen,
            }
            | {name: values[row] for name, values in columns.items()}
            for row, unit in enumerate(self.candidates)
        ]


def score_names(row: Mapping[str, Any]) -> list[str]:
    """The scores among the columns of a row of :meth:`Selection.table`, whose unit has a name of ours."""
    kind = next(unit for unit in UNITS.values() if unit.written.fullmatch(row["neuron"]))
    places = {f"neuron {x}" if f"neuron {x}" in row else x for x in kind.placed}
    return [name for name in row if name not in UNIT_KEYS | places]


def check_selection(units: Sequence[Unit], n_layers: int, d_mlp: int, n_heads: int, source: str) -> None:
    """Refuse an empty selection, and what :func:`check_units` refuses.

    Raises:
        HarnessError: names the selector (``source``) and the first offending unit.
    """
    if not units:
        raise HarnessError(f"{source} selected no neuron: loosen its thresholds (see `harness list` for them).")
    check_units(units, n_layers, d_mlp, n_heads, source)


def check_units(units: Sequence[Unit], n_layers: int, d_mlp: int, n_heads: int, source: str) -> None:
    """Refuse units that the model does not have or that are named twice, and a mixture of kinds.

    Raises:
        HarnessError: names ``source`` and the first offending unit.
    """
    for unit in units:
        word, n = unit.word, {"neurons": d_mlp, "heads": n_heads}.get(unit.site)
        # Python would count negative ones from the end, and edit another unit than reports name.
        if not 0 <= unit.layer < n_layers or unit.index < 0 or (n is not None and unit.index >= n):
            raise HarnessError(
                f"{source} names {word} {unit}, but the model has layers 0 to {n_layers - 1}"
                + ("." if n is None else f" with {plural(word)} 0 to {n - 1} each.")
            )
    if len(set(units)) < len(units):
        twice, _ = Counter(units).most_common(1)[0]
        raise HarnessError(f"{source} names {twice.word} {twice} twice.")
    if len({type(unit) for unit in units}) > 1:
        first, second, *_ = dict.fromkeys(unit.site for unit in units)
        raise HarnessError(f"{source} names both {first} and {second}; choose one of the two.")


def by_layer(units: Iterable[Unit]) -> dict[int, list[int]]:
    """Indices of the given units, grouped by layer, layers ascending."""
    grouped: dict[int, list[int]] = {}
    for unit in sorted(units, key=lambda x: x.layer):
        grouped.setdefault(unit.layer, []).append(unit.index)
    return grouped
