"""What a unit of each edited neuron adds to every logit: W w_out^T, made where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from harness.engine.final_layer import FinalLayer

COLUMN_BYTES = 2**30
"""Memory for the columns of W w_out^T that are held at once; where all would need more, they are made again, a stretch
of the vocabulary at a time."""

GRAIN = 2048
"""A stretch is a multiple of so many tokens, those that the compiled loops work on together: sums over the vocabulary
are then the same however long the stretches are."""

Tokens = slice | torch.Tensor
"""A stretch of the vocabulary, or token ids [n]."""


class Columns:
    """Rows over the vocabulary, none of them held: W times each of some vectors, then given directions.

    Args:
        vectors: float32 [m, d_model].
        directions: float32 [k, d_vocab].
    """

    def __init__(self, final: FinalLayer, vectors: torch.Tensor, directions: torch.Tensor) -> None:
        self.final, self.vectors, self.directions = final, vectors, directions
        self._reach: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.vectors) + len(self.directions)

    def __getitem__(self, tokens: Tokens) -> torch.Tensor:
        """All rows at some tokens, float32 [m + k, n]."""
        return torch.cat([self.final.project(self.vectors, tokens), self.directions[:, tokens]])

    def part(self, rows: torch.Tensor) -> Columns:
        """Some of the rows, int64 [n], ascending."""
        m = len(self.vectors)
        return Columns(self.final, self.vectors[rows[rows < m]], self.directions[rows[rows >= m] - m])

    def tiles(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """All rows, a stretch of the vocabulary at a time."""
        size = max(1, COLUMN_BYTES // (4 * GRAIN * max(len(self), 1))) * GRAIN
        reach = self.vectors.new_zeros(len(self))
        for start in range(0, self.final.n_tokens, size):
            here = slice(start, min(start + size, self.final.n_tokens))
            columns = self[here]
            reach = torch.maximum(reach, reach_of(columns))
            yield here, columns
        self._reach = reach

    @property
    def reach(self) -> torch.Tensor:
        """Largest magnitude in each row; known once all of them have been made."""
        if self._reach is None:
            for _ in self.tiles():
                pass
        assert self._reach is not None
        return self._reach

    @cached_property
    def bound(self) -> torch.Tensor:
        """Bound on the reach, by the Cauchy-Schwarz inequality where it is not known."""
        if self._reach is not None:
            return self._reach
        return torch.cat([self.vectors.norm(dim=1) * self.final.longest, reach_of(self.directions)])


def reach_of(rows: torch.Tensor) -> torch.Tensor:
    """Largest magnitude in each row [m, n]."""
    if not rows.numel():
        return rows.new_zeros(len(rows))
    low, high = rows.aminmax(dim=1)
    return torch.maximum(high, -low)
