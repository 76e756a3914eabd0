"""Taking experts away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from harness.plugin import Intervention, by_layer

from .units import EXPERTS, Expert

if TYPE_CHECKING:
    import torch

    from harness.plugin import Edit, Site


@dataclass(frozen=True)
class TakeExperts:
    """Take experts away from the tokens that are routed to them; it is handed all weights of the layer."""

    layer: int
    indices: tuple[int, ...]
    weight: Literal["remove", "redistribute"]
    where: Site = EXPERTS
    reads_all: bool = True

    def apply(self, activations: torch.Tensor) -> torch.Tensor:
        from harness.model import redistributed, removed

        return (removed if self.weight == "remove" else redistributed)(activations, self.indices)


class ExpertAblation(Intervention[Expert, None]):
    """Expert ablation: tokens that are routed to the experts do without them.

    ``remove``: the experts' weights become 0 and the others stay, so that the layer's MLP writes less.
    ``redistribute``: their weight goes to the other experts that the token is routed to, in proportion to theirs, so
    that each token's weights sum to what they did; a token that is routed to taken experts alone is left without any.
    In neither is a token routed anew. What the router says stays as it is; shared experts are not touched.
    """

    name = "expert_ablation"
    site = "experts"
    needs_statistics = False
    weight: Literal["remove", "redistribute"] = Field("remove", description="what becomes of their routing weight")

    def title(self) -> str:
        return f"expert ablation ({self.weight})"

    def edits(self, units: Sequence[Expert], statistics: None) -> tuple[Edit, ...]:
        return tuple(TakeExperts(layer, tuple(some), self.weight) for layer, some in by_layer(units).items())
