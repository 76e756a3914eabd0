"""Interventions on directions of the residual stream: adding them, and projecting them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, field_validator

from harness.plugin import AnyLayers, Direction, HarnessError, Intervention, by_layer, layers_in

if TYPE_CHECKING:
    import numpy as np

    from harness.plugin import Edit, Model, Selection, Unit

MOST_LAYERS = 10**6
"""More than any model has."""


class DirectionIntervention(Intervention[Direction, None]):
    """Base of both: takes vectors and layers from the selection."""

    site: ClassVar[str] = "directions"
    needs_statistics: ClassVar[bool] = False
    layers: Literal["own", "all"] | AnyLayers = Field(
        "own",
        description="after the direction's own layer, after every layer that the selector has directions of, or after "
        "each of these: 8-12, [8-12,15]",
    )
    _vectors: Mapping[Unit, Any] = PrivateAttr(default_factory=dict)
    _layers: tuple[int, ...] = PrivateAttr(())

    @field_validator("layers")
    @classmethod
    def _from_the_front(cls, layers: Any) -> Any:
        if any(isinstance(layer, int) and layer < 0 for layer in (layers if isinstance(layers, tuple) else (layers,))):
            raise ValueError("layers count from the front here, as those of directions do")
        return layers

    def check(self, model: Model) -> None:
        if not isinstance(self.layers, str):
            layers_in(self.layers, model.anatomy.n_layers, f"intervention {self.name}: layers")

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

    def by_layers(
        self, units: Sequence[Direction], edit: Callable[[int, Sequence[int], Sequence[Direction]], Edit]
    ) -> tuple[Edit, ...]:
        """``edit(layer, indices of its own units, directions that are edited after it)`` of each layer that is edited,
        ascending. A layer of a unit that ``layers`` leaves out has an edit that changes nothing: it names the unit."""
        from harness.plugin import AddVector

        own = by_layer(units)
        if self.layers == "own":
            return tuple(edit(layer, i, [Direction(layer, index) for index in i]) for layer, i in own.items())
        if isinstance(self.layers, str):
            named = {*self._layers, *own}
        else:
            named = {*layers_in(self.layers, MOST_LAYERS, self.name)}
        nothing = (0.0,) * len(self.vectors(units)[0])
        return tuple(
            edit(layer, own.get(layer, ()), units) if layer in named else AddVector(layer, tuple(own[layer]), nothing)
            for layer in sorted(named | {*own})
        )


class AddDirection(DirectionIntervention):
    """Each direction times a factor is added to the residual stream after its layer, or after each of several.

    The vector of ``difference_of_means`` is as long as the two classes' means are apart, so factor=1 moves a text by
    that distance towards the class true, factor=-1 towards false (Arditi et al. 2024: adding the refusal direction
    makes a model refuse harmless requests).
    """

    name = "add_direction"
    later = frozenset({"layers"})
    factor: float = Field(
        1.0, allow_inf_nan=False, description="in units of the direction's vector; negative subtracts"
    )

    def edits(self, units: Sequence[Direction], statistics: None) -> tuple[Edit, ...]:
        from harness.plugin import AddVector

        def added(layer: int, indices: Sequence[int], chosen: Sequence[Direction]) -> Edit:
            total = self.factor * self.vectors(chosen).sum(axis=0)
            return AddVector(layer, tuple(indices), tuple(total.tolist()))

        return self.by_layers(units, added)


class AblateDirection(DirectionIntervention):
    """Directions are projected out of the residual stream: x - v (v . x) / |v|^2.

    After the direction's layer alone, after each of several, or with layers=all after every layer that the selector has
    directions of: nearly as Arditi et al. (2024), who project it out of the embeddings and within layers, too. What is
    left along the direction is 0, which need not lie on the side of the class false.
    """

    name = "ablate_direction"

    def edits(self, units: Sequence[Direction], statistics: None) -> tuple[Edit, ...]:
        from harness.conditions import orthonormal
        from harness.plugin import ProjectOut

        def projection(layer: int, indices: Sequence[int], chosen: Sequence[Direction]) -> Edit:
            basis = orthonormal(self.vectors(chosen))
            return ProjectOut(layer, tuple(indices), tuple(map(tuple, basis.tolist())))

        return self.by_layers(units, projection)
