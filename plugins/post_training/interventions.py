"""Interventions on directions of the residual stream: adding them, and projecting them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr

from harness.plugin import Direction, HarnessError, Intervention, by_layer

if TYPE_CHECKING:
    import numpy as np

    from harness.plugin import Edit, Selection, Unit


class DirectionIntervention(Intervention[Direction, None]):
    """Base of both: takes vectors and layers from the selection."""

    site: ClassVar[str] = "directions"
    needs_statistics: ClassVar[bool] = False
    _vectors: Mapping[Unit, Any] = PrivateAttr(default_factory=dict)
    _layers: tuple[int, ...] = PrivateAttr(())

    def prepare(self, selection: Selection) -> Self:
        prepared = self.model_copy()
        prepared._vectors = selection.vectors
        prepared._layers = tuple(sorted({unit.layer for unit in selection.candidates}))
        return prepared

    def vectors(self, directions: Sequence[Direction]) -> np.ndarray:
        """float64 [len(directions), d_model]; refuses a direction of which the selection has no vector."""
        import numpy as np

        for direction in directions:
            if direction not in self._vectors:
                raise HarnessError(f"intervention {self.name}: the selection has no vector of direction {direction}.")
        return np.array([self._vectors[direction] for direction in directions], dtype=np.float64)


class AddDirection(DirectionIntervention):
    """Each direction times a factor is added to the residual stream after its layer, at every position.

    The vector of ``difference_of_means`` is as long as the two classes' means are apart, so factor=1 moves a text by
    that distance towards the class true, factor=-1 towards false (Arditi et al. 2024: adding the refusal direction
    makes a model refuse harmless requests).
    """

    name = "add_direction"
    factor: float = Field(
        1.0, allow_inf_nan=False, description="in units of the direction's vector; negative subtracts"
    )

    def edits(self, units: Sequence[Direction], statistics: None) -> tuple[Edit, ...]:
        from harness.plugin import AddVector

        def added(layer: int, indices: Sequence[int]) -> Edit:
            total = self.factor * self.vectors([Direction(layer, index) for index in indices]).sum(axis=0)
            return AddVector(layer, tuple(indices), tuple(total.tolist()))

        return tuple(added(layer, indices) for layer, indices in by_layer(units).items())


class AblateDirection(DirectionIntervention):
    """Directions are projected out of the residual stream at every position: x - v (v . x) / |v|^2.

    After the direction's layer alone, or with layers=all after every layer that the selector has directions of: nearly
    as Arditi et al. (2024), who project it out of the embeddings and within layers, too. What is left along the
    direction is 0, which need not lie on the side of the class false.
    """

    name = "ablate_direction"
    layers: Literal["own", "all"] = Field("own", description="after the direction's own layer, or after every layer")

    def edits(self, units: Sequence[Direction], statistics: None) -> tuple[Edit, ...]:
        from harness.conditions import orthonormal
        from harness.plugin import ProjectOut

        def projection(layer: int, indices: Sequence[int], chosen: Sequence[Direction]) -> Edit:
            basis = orthonormal(self.vectors(chosen))
            return ProjectOut(layer, tuple(indices), tuple(map(tuple, basis.tolist())))

        own = by_layer(units)
        if self.layers == "all":
            return tuple(projection(layer, own.get(layer, ()), units) for layer in sorted({*self._layers, *own}))
        return tuple(projection(layer, i, [Direction(layer, index) for index in i]) for layer, i in own.items())
