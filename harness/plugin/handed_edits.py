"""What interventions hand over: edits of exactly the units that were asked for, which must be pure functions.

Engines evaluate an edit as often as suits them, on prompts divided as they like, in closed form or in hooks. An edit
that gives something else for the same activations would make every number of a run a matter of luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.conditions.conditions import SetNeurons, site_of
from harness.conditions.head_edits import AttendFirst, SetHeads
from harness.conditions.placed import Around, Placed
from harness.conditions.residual_edits import AddVector, ProjectOut
from harness.plugin.handed import a, expect, refuse, whole

if TYPE_CHECKING:
    from harness.conditions.conditions import Edit
    from harness.conditions.units import Unit
    from harness.model.model import Model
    from harness.plugin.components import Intervention

PURE = frozenset({SetNeurons, SetHeads, AttendFirst, AddVector, ProjectOut})
"""The harness's own edits, which cannot be otherwise."""


def checked(found: Any, units: Sequence[Unit], model: Model, who: str) -> None:
    """Refuse what is no tuple of edits that together treat each of ``units`` once and nothing else."""
    expect(isinstance(found, tuple), who, f"returned {a(found)}, expected a tuple of edits")
    for edit in found:
        fine = whole(getattr(edit, "layer", None)) and isinstance(getattr(edit, "indices", None), tuple)
        fine = fine and all(whole(index) for index in edit.indices) and callable(getattr(edit, "apply", None))
        expect(fine, who, f"gave {a(edit)} among the edits: an edit has layer, indices (a tuple) and apply()")
        site = site_of(edit)
        fine = any(unit.where == site for unit in units)
        expect(fine, who, f"gave an edit of {site.name} for {units[0].site}: an edit's where is that of its units")
    edited = [site_of(edit).at(model, edit.layer, index) for edit in found for index in edit.indices]
    if len(edited) != len(units) or set(edited) != set(units):
        missing, more = ([x for x in a if x not in b] for a, b in ((units, set(edited)), (edited, set(units))))
        why = f"left out {missing[0]}" if missing else f"edited {more[0]}, too" if more else "edited one of them twice"
        refuse(who, f"{why}, of {len(units)} {units[0].site} that it was to edit")


class WatchedEdit(Around):
    """An edit of a plugin as the engines see it: what ``apply`` gives is looked at before it is used.

    Its first call is made twice, and so are the second, the fourth, the eighth ...: of many calls that costs little,
    and finds an edit that goes astray later, too.
    """

    def __init__(self, edit: Edit, intervention: Intervention) -> None:
        self.edit, self.intervention, self.calls = edit, intervention, 0

    def __hash__(self) -> int:
        return hash(self.edit)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WatchedEdit) and bool(self.edit == other.edit)

    def apply(self, activations: torch.Tensor, *first: torch.Tensor | None) -> torch.Tensor:
        """New activations; see :class:`harness.conditions.conditions.Edit`.

        Raises:
            PluginError: it raises something, gives another shape or type, writes into what it is given, or gives
                something else for the same activations.
        """
        self.calls += 1
        if self.calls & (self.calls - 1):
            return self._once(activations, *first)
        given = activations.clone()
        found = self._once(activations, *first)
        who = self._who()
        expect(same(activations, given), who, "writes into its argument; return a new tensor")
        expect(
            same(found, self._once(given, *first)),
            who,
            "gives something else when it is applied again to the same activations: an edit is a pure function of "
            "them; for random changes see the intervention noise",
        )
        return found

    def _who(self) -> str:
        from harness.plugin.border import owner

        return f"{owner(self.intervention)}: apply() of its edit of layer {self.layer}"

    def _once(self, activations: torch.Tensor, *first: torch.Tensor | None) -> torch.Tensor:
        from harness.plugin.border import asking

        with asking(self.intervention, "apply()"):
            found = self.edit.apply(activations, *first)
        if not isinstance(found, torch.Tensor):
            refuse(self._who(), f"returned {a(found)}, expected a tensor")
        if found.shape != activations.shape or found.dtype != activations.dtype:
            refuse(
                self._who(),
                f"returned {tuple(found.shape)} {found.dtype} for {tuple(activations.shape)} {activations.dtype}; "
                "shape and type stay as they are",
            )
        return found


def watched(edit: Edit, intervention: Intervention) -> Edit:
    """The edit, watched unless it is one of the harness's own kinds."""
    kind = type(edit.edit) if isinstance(edit, Placed) else type(edit)
    return edit if kind in PURE else WatchedEdit(edit, intervention)


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors of one shape are equal, bit by bit, NaN where the other is."""
    return bool(torch.equal(first, second) or ((first == second) | (first.isnan() & second.isnan())).all())


@torch.no_grad()
def same_edits(first: Sequence[Edit], second: Sequence[Edit], model: Model, who: str) -> None:
    """Refuse edits that were asked for twice and are not the same functions, or that are not finite."""
    random = "draws something anew each time: draw with a seed that is a parameter"
    expect([(x.layer, x.indices) for x in first] == [(x.layer, x.indices) for x in second], who, random)
    for edit, again in zip(first, second, strict=True):
        given = _trial(edit, model)
        options = [given[:, :1]] if getattr(edit, "reads_first", False) else []
        found = edit.apply(given, *options)
        finite = bool(torch.isfinite(found).all())
        expect(finite, who, f"gave an edit of layer {edit.layer} that makes ordinary activations NaN or infinite")
        expect(same(found, again.apply(given, *options)), who, random)


def handed_shape(edit: Edit, model: Model) -> tuple[int, ...]:
    """The shape of what an edit is handed, behind batch and position."""
    site, n = site_of(edit), len(edit.indices)
    if getattr(edit, "reads_all", False):
        n = site.count(model, edit.layer) or n
    return site.handed(model, n)


def _trial(edit: Edit, model: Model) -> torch.Tensor:
    """Ordinary activations that an edit is tried on: [2, 3, ...]."""
    values = np.random.default_rng(0).normal(size=(2, 3, *handed_shape(edit, model)))
    return torch.tensor(values, dtype=model.dtype, device=model.device)
