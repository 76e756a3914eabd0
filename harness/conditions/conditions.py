"""Selections of units, and the conditions under which a model is run.

A *condition* is "these components, edited like this". A run compares the untouched model (``baseline``), the selected
components under the intervention (``treated``) and the same intervention on random sets of components (controls).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np

from harness.conditions.positions import EVERYWHERE, Positions
from harness.conditions.units import DIRECTIONS, HEADS, NEURONS, Site, Unit
from harness.errors import HarnessError
from harness.files.wording import counted

if TYPE_CHECKING:
    import torch


UNIT_KEYS = frozenset({"neuron", "selected"})
"""What a row of :meth:`Selection.table` has by itself: no score may be called so."""


class Edit(Protocol):
    """A change of some units of one layer, a pure function of these units' activations.

    Pure: the same activations give the same result, whatever was seen before, at whichever position and in whichever
    batch, and the argument is left as it was. An engine decides where and how often an edit is applied: once for each
    distinct prefix that several prompts or conditions share, again when a cache is continued or a pass is repeated, to
    many prompts at once or to one. If the result depended on that, engines would disagree, a condition's effect would
    depend on its neighbours in the batch, and a run that is continued would differ from one that was not interrupted.
    Noise is drawn from a seed and the activation itself (:mod:`harness.conditions.noise`).

    Being elementwise in the activations is what lets an engine evaluate many edits of the final layer in closed form.
    An edit of something else than neurons says so in an attribute ``where``, the site (see :func:`site_of`). One with
    an attribute ``reads_all`` that is true is handed the activations of all units of the layer, and returns as many.
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
    """Replace each neuron's activation by a constant at every position (mean, median, zero ... ablation), or that of
    any units whose activation is one number."""

    layer: int
    indices: tuple[int, ...]
    values: tuple[float, ...]
    where: Site = NEURONS

    def __post_init__(self) -> None:
        if len(self.values) != len(self.indices):  # one value would be spread over all of them
            raise HarnessError(
                f"an edit of {counted(len(self.indices), 'neuron')} of layer {self.layer} has "
                f"{counted(len(self.values), 'value')}; expected "
                "one for each."
            )

    def apply(self, activations: torch.Tensor) -> torch.Tensor:
        return activations.new_tensor(self.values).expand_as(activations)


def site_of(edit: Edit) -> Site:
    """What an edit changes: what it says in ``where``, or by the name of one of the harness's own sites in ``site``;
    neurons, where it says nothing.

    Raises:
        HarnessError: it names anything else.
    """
    where = getattr(edit, "where", None)
    if isinstance(where, Site):
        return where
    named, own = getattr(edit, "site", NEURONS.name), {site.name: site for site in (NEURONS, HEADS, DIRECTIONS)}
    if named not in own:
        raise HarnessError(
            f'an edit of layer {edit.layer} has the site "{named}": expected {", ".join(own)}, or the site itself in '
            "an attribute where."
        )
    return own[named]


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
        parts: of a circuit, the selections of its steps, whose units one after the other are this one's.
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
    parts: tuple[Selection, ...] = ()

    @property
    def word(self) -> str:
        """What one of its units is called; "unit" where they are of several kinds."""
        words = {unit.word for unit in self.units}
        return words.pop() if len(words) == 1 else "unit"

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
