"""Single numbers at other places of a layer than its neurons, each a kind of units of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.plugin import HarnessError, Site, Unit

if TYPE_CHECKING:
    import torch

    from harness.plugin import Model


class Place(Site):
    """A place of :data:`harness.model.places.PLACES`, number by number."""

    place: ClassVar[str]

    def at(self, model: Model, layer: int, index: int) -> Unit:
        return KINDS[self.name](layer, index)

    def capture(self, model: Model, layers: Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        return model.capture_place(self.place, layers)

    def edit(
        self, model: Model, layer: int, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> AbstractContextManager[None]:
        return model.edit_place(self.place, layer, change)


class _PreActivations(Place):
    name = "pre_activations"
    place = "pre_activation"

    def count(self, model: Model, layer: int) -> int:
        return model.anatomy.d_mlp


class _Ups(_PreActivations):
    name = "ups"
    place = "up"

    def count(self, model: Model, layer: int) -> int:
        if model.mlp_blocks(layer)[1] is None:
            raise HarnessError(f"layer {layer} of {model.name} has no ups: its MLP is not gated.")
        return super().count(model, layer)


class _AttentionNeurons(Place):
    name = "attention_neurons"
    place = "heads"

    def count(self, model: Model, layer: int) -> int:
        return model.anatomy.n_heads * model.anatomy.d_head


class _Coordinates(Place):
    """Coordinates after a layer; after the last they are what the final norm reads."""

    name = "coordinates"
    place = "residual_after"
    enters: ClassVar[Literal["mlp", "residual"] | None] = "residual"

    def count(self, model: Model, layer: int) -> int:
        return model.anatomy.d_model

    def written(self, model: Model, layer: int, indices: Sequence[int] | None = None) -> torch.Tensor:
        import torch

        basis = torch.eye(model.anatomy.d_model)
        return basis if indices is None else basis[list(indices)]


class _CoordinatesBefore(_Coordinates):
    name = "coordinates_before"
    place = "residual_before"
    enters = None


class _Numbered(Unit):
    """A letter, layer, a dot, index."""

    letter: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.written = re.compile(rf"{cls.letter}(\d+)\.(\d+)")
        cls.form = f"{cls.letter}, layer, a dot, index, for example {cls.letter}5.120"

    def __str__(self) -> str:
        return f"{self.letter}{self.layer}.{self.index}"


class PreActivation(_Numbered):
    """A neuron before its activation function, ``P5.120``: of a gated MLP the gate's."""

    word = "pre-activation"
    site = "pre_activations"
    where = _PreActivations()
    letter = "P"


class Up(_Numbered):
    """What a gated MLP multiplies a neuron's activation by, ``U5.120``."""

    word = "up"
    site = "ups"
    where = _Ups()
    letter = "U"


class AttentionNeuron(_Numbered):
    """A number that the attention's output projection reads, ``A5.120``: coordinate 120 of the heads' outputs side by
    side (the attention neurons of Yu & Ananiadou 2024)."""

    word = "attention neuron"
    site = "attention_neurons"
    where = _AttentionNeurons()
    letter = "A"


class Coordinate(_Numbered):
    """A coordinate of the residual stream after a layer, ``R5.120``."""

    word = "coordinate"
    site = "coordinates"
    where = _Coordinates()
    letter = "R"


class CoordinateBefore(_Numbered):
    """A coordinate of the residual stream before a layer, ``B5.120``."""

    word = "coordinate before"
    site = "coordinates_before"
    where = _CoordinatesBefore()
    letter = "B"


KINDS: dict[str, type[_Numbered]] = {
    kind.site: kind for kind in (PreActivation, Up, AttentionNeuron, Coordinate, CoordinateBefore)
}
