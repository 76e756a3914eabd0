"""Neurons of routed experts, and experts, as kinds of units.

Both have an activation of one number: a neuron's hidden state times its expert's routing weight, and the routing weight
itself; both are 0 where a token is not routed to the expert. An expert that no token of a run's prompts is routed to
does nothing there, nor do its neurons: beside random sets of such units anything would look as if it mattered. So
controls are drawn among those that have routing mass on the prompts, the sum of an expert's weights over their tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from harness.plugin import HarnessError, Site, Unit

if TYPE_CHECKING:
    import numpy as np
    import torch

    from harness.plugin import Model

Change = Callable[["torch.Tensor"], "torch.Tensor"]


class ExpertNeurons(Site):
    """Neurons of the routed experts of a layer; those of one expert are neighbours."""

    name = "expert_neurons"
    enters = "experts"

    def count(self, model: Model, layer: int) -> int:
        experts = model.anatomy.experts[layer]
        return 0 if experts is None else experts.n_experts * experts.d_expert

    def at(self, model: Model, layer: int, index: int) -> ExpertNeuron:
        return ExpertNeuron(layer, index, model.experts(layer).d_expert)

    def capture(self, model: Model, layers: Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        return model.capture_experts(layers)

    def edit(self, model: Model, layer: int, change: Change) -> AbstractContextManager[None]:
        return model.edit_experts(layer, change)

    def written(self, model: Model, layer: int, indices: Sequence[int] | None = None) -> torch.Tensor:
        return model.expert_out(layer, indices)

    def live(
        self, model: Model, layers: Sequence[int], prompts: Sequence[Sequence[int]], batch_size: int
    ) -> tuple[dict[int, np.ndarray], str]:
        return {layer: mass > 0 for layer, mass in self._masses(model, layers, prompts, batch_size).items()}, LIVE

    def matching(
        self, model: Model, layers: Sequence[int], match: str, prompts: Sequence[Sequence[int]], batch_size: int
    ) -> dict[int, np.ndarray]:
        import numpy as np

        if match not in ("norm", "routing", "reach"):
            return super().matching(model, layers, match, prompts, batch_size)
        norms = {layer: np.linalg.norm(self.directions(model, layer), axis=1) for layer in layers}
        if match == "norm":
            return norms
        masses = self._masses(model, layers, prompts, batch_size)
        return masses if match == "routing" else {layer: masses[layer] * norms[layer] for layer in layers}

    def _masses(
        self, model: Model, layers: Sequence[int], prompts: Sequence[Sequence[int]], batch_size: int
    ) -> dict[int, np.ndarray]:
        """The routing mass of each neuron's expert."""
        found = routing_mass(model, layers, prompts, batch_size)
        return {layer: mass.repeat(model.experts(layer).d_expert) for layer, mass in found.items()}


class Experts(Site):
    """Whole routed experts of a layer; an edit changes the weights with which tokens are routed to them."""

    name = "experts"

    def count(self, model: Model, layer: int) -> int:
        experts = model.anatomy.experts[layer]
        return 0 if experts is None else experts.n_experts

    def at(self, model: Model, layer: int, index: int) -> Expert:
        return Expert(layer, index)

    def capture(self, model: Model, layers: Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        return model.capture_routing(layers)

    def edit(self, model: Model, layer: int, change: Change) -> AbstractContextManager[None]:
        return model.edit_routing(layer, change)

    def live(
        self, model: Model, layers: Sequence[int], prompts: Sequence[Sequence[int]], batch_size: int
    ) -> tuple[dict[int, np.ndarray], str]:
        return {layer: mass > 0 for layer, mass in routing_mass(model, layers, prompts, batch_size).items()}, LIVE

    def matching(
        self, model: Model, layers: Sequence[int], match: str, prompts: Sequence[Sequence[int]], batch_size: int
    ) -> dict[int, np.ndarray]:
        if match != "routing":
            return super().matching(model, layers, match, prompts, batch_size)
        return routing_mass(model, layers, prompts, batch_size)


LIVE = "of experts that tokens of the prompts are routed to"
"""Which units controls are drawn among, in words."""

NEURONS_OF_EXPERTS, EXPERTS = ExpertNeurons(), Experts()


UNKNOWN = 1 << 32
"""Stands for how many neurons an expert has, as long as only a name is known."""


@dataclass(frozen=True, eq=False)
class ExpertNeuron(Unit):
    """A neuron of a routed expert, ``E7.3.120``: layer 7, expert 3, neuron 120 of it.

    ``index`` is its column among all neurons of the layer's experts, expert * width + neuron; of one that was read from
    a name, which does not say ``width``, :meth:`of` makes the unit of a model.
    """

    width: int = UNKNOWN

    word = "expert neuron"
    site = "expert_neurons"
    where = NEURONS_OF_EXPERTS
    written = re.compile(r"E(\d+)\.(\d+)\.(\d+)")
    form = "E, layer, expert, neuron, for example E7.3.120"
    placed = ("layer", "expert", "index")
    variables: ClassVar[Mapping[str, str]] = {
        "norm": "log norm of the output weights",
        "routing": "log routing mass of the expert on the prompts",
        "reach": "log of the expert's routing mass on the prompts times the norm of the output weights",
        **Unit.variables,
    }

    @property
    def name(self) -> tuple[int, int, int]:
        """Layer, expert, and neuron of it."""
        return (self.layer, *divmod(self.index, self.width))

    @property
    def place(self) -> dict[str, int]:
        return dict(zip(self.placed, self.name, strict=True))

    def __str__(self) -> str:
        return "E" + ".".join(map(str, self.name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExpertNeuron) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __lt__(self, other: Unit) -> bool:
        return isinstance(other, ExpertNeuron) and self.name < other.name

    @classmethod
    def parse(cls, text: str) -> Self:
        layer, expert, neuron = cls.numbers(text)
        return cls(layer, expert * UNKNOWN + neuron)

    def beside(self, layer: int, index: int) -> Self:
        return type(self)(layer, index, self.width)

    def of(self, model: Model) -> Self:
        layer, expert, neuron = self.name
        if not 0 <= layer < model.anatomy.n_layers:
            return self  # there is no such layer, as everybody will say
        found = model.experts(layer)
        if expert >= found.n_experts or neuron >= found.d_expert:
            raise HarnessError(
                f"there is no expert neuron {self} in {model.name}: layer {layer} has {found.n_experts} experts of "
                f"{found.d_expert} neurons, each counted from 0."
            )
        return type(self)(layer, expert * found.d_expert + neuron, found.d_expert)


class Expert(Unit):
    """A routed expert, ``E7.3``: layer 7, expert 3. Its activation is the weight that tokens are routed to it with."""

    word = "expert"
    site = "experts"
    where = EXPERTS
    written = re.compile(r"E(\d+)\.(\d+)")
    form = "E, layer, a dot, expert, for example E7.3"
    placed = ("layer", "expert")
    variables: ClassVar[Mapping[str, str]] = {
        "routing": "log routing mass on the prompts",
        "activation": "log standard deviation of the routing weight over the prompts",
    }

    def __str__(self) -> str:
        return f"E{self.layer}.{self.index}"


def routing_mass(
    model: Model, layers: Sequence[int], prompts: Sequence[Sequence[int]], batch_size: int
) -> dict[int, np.ndarray]:
    """Sum of each expert's routing weights over the tokens of the prompts, layer -> float64 [n_experts]; a weight below
    0 counts as large as it is.

    Raises:
        HarnessError: there are no prompts, or a layer has no experts.
    """
    import numpy as np

    if not prompts:
        raise HarnessError("controls of experts need prompts, on which it is seen what tokens are routed to.")
    found = {layer: np.zeros(model.experts(layer).n_experts) for layer in layers}
    for start in range(0, len(prompts), batch_size):
        batch = model.pad([list(tokens) for tokens in prompts[start : start + batch_size]])
        with model.capture_routing(layers) as weights, model.without_logits():
            model.forward(batch)
        real = batch.attention_mask.bool()
        for layer in layers:
            mine = weights[layer][real.to(weights[layer].device)]
            found[layer] += mine.double().abs().sum(0).cpu().numpy()
    return found
