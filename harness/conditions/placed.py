"""Edits around others: one with positions of its own, in a condition whose other edits act elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.conditions.conditions import Condition, Edit
from harness.conditions.positions import EVERYWHERE, Positions

if TYPE_CHECKING:
    import torch


class Around:
    """Base of edits around another one (``edit``), which has whatever they do not say themselves."""

    edit: Edit

    @property
    def layer(self) -> int:
        return self.edit.layer

    @property
    def indices(self) -> tuple[int, ...]:
        return self.edit.indices

    def __getattr__(self, name: str) -> Any:  # where, reads_first, values ...
        if name.startswith("__") or name == "edit":
            raise AttributeError(name)
        return getattr(self.edit, name)


@dataclass(frozen=True)
class Placed(Around):
    """The edit, at these tokens whatever its condition says."""

    edit: Edit
    positions: Positions

    def apply(self, activations: torch.Tensor, *first: torch.Tensor | None) -> torch.Tensor:
        return self.edit.apply(activations, *first)


def positions_of(edit: Edit, condition: Condition) -> Positions:
    """Where an edit of a condition acts."""
    own = getattr(edit, "positions", None)
    found = own if isinstance(own, Positions) else condition.positions
    return EVERYWHERE if found.everywhere else found


def where_all(condition: Condition) -> Positions | None:
    """Where all of a condition's edits act; None where they act at different tokens."""
    found = {positions_of(edit, condition) for edit in condition.edits} or {EVERYWHERE}
    return found.pop() if len(found) == 1 else None
