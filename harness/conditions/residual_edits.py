"""Conditions that edit the residual stream after a layer: a vector is added, or directions are projected out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from harness.conditions.units import DIRECTIONS, Site
from harness.errors import HarnessError
from harness.files.wording import counted

if TYPE_CHECKING:
    import torch

DEPENDENT = 1e-6
"""Vectors that span less than this beside the longest of them span nothing more."""


@dataclass(frozen=True)
class AddVector:
    """Add one vector to the residual stream after a layer, at every position: x + v.

    Attributes:
        indices: which of the layer's directions it is for.
        vector: v [d_model].
    """

    layer: int
    indices: tuple[int, ...]
    vector: tuple[float, ...]

    where: ClassVar[Site] = DIRECTIONS

    def apply(self, residual: torch.Tensor) -> torch.Tensor:
        """New residual stream, shape and dtype of the given one: [batch, pos, d_model]."""
        return residual + _rows(self.layer, (self.vector,), residual)[0].to(residual)


@dataclass(frozen=True)
class ProjectOut:
    """Project directions out of the residual stream after a layer, at every position: x - B^T B x.

    Attributes:
        indices: which of the layer's directions it is for; none in a layer that others' directions are taken out of.
        basis: B [n, d_model], orthonormal rows (:func:`orthonormal`).
    """

    layer: int
    indices: tuple[int, ...]
    basis: tuple[tuple[float, ...], ...]

    where: ClassVar[Site] = DIRECTIONS

    def apply(self, residual: torch.Tensor) -> torch.Tensor:
        """New residual stream, shape and dtype of the given one: [batch, pos, d_model]."""
        x = residual.float()
        for b in _rows(self.layer, self.basis, residual):
            x = x - (x * b).sum(-1, keepdim=True) * b
        return x.to(residual)


def _rows(layer: int, vectors: tuple[tuple[float, ...], ...], residual: torch.Tensor) -> torch.Tensor:
    """The vectors, float32 [n, d_model] on the residual's device; refuses another width than the model's."""
    import torch

    rows = torch.tensor(vectors, dtype=torch.float32, device=residual.device)
    if rows.shape[1] != residual.shape[-1]:
        raise HarnessError(
            f"a direction of layer {layer} has {counted(rows.shape[1], 'number')}, but the model's residual stream has "
            f"{residual.shape[-1]}."
        )
    return rows


def orthonormal(vectors: np.ndarray) -> np.ndarray:
    """Orthonormal rows [rank, d_model] that span the vectors [n, d_model]."""
    _, sizes, rows = np.linalg.svd(np.asarray(vectors, dtype=np.float64), full_matrices=False)
    return np.asarray(rows[sizes > DEPENDENT * sizes[0]])
