"""What is selected and edited, and where it lives: neurons, heads, directions, and whatever kinds plugins add.

A *unit* is something of a layer that has a number there and a name that can be read back. A *site* is the place of all
units of one kind: how many a layer has, how their activations are read and written, what they write into the residual
stream, in what controls can be like them. Selectors, interventions, controls, engines and reports ask units and sites,
and know no kind by name, so that a kind of units is a plugin of one file (``harness_units()``).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from harness.errors import HarnessError
from harness.files.wording import plural

if TYPE_CHECKING:
    import torch

    from harness.model.model import Model

Change = Callable[["torch.Tensor"], "torch.Tensor"]
"""From a site's activations to new ones of the same shape."""


class Site(ABC):
    """Where the units of one kind live.

    Sites are equal where they are the same place: edits of one site and layer are made together.

    Attributes:
        name: what components say in ``site``, and reports: "neurons".
        reads_back: whether a capture inside an edit shows what the edit has made; what is encoded anew does not.
        enters: what units write into linearly, if anything: the output of the layer's MLP, before a norm behind it or a
            residual multiplier (that of its dense neurons, "mlp", or of its routed "experts"), or the residual stream
            after the layer ("residual"). Edits of such units in the last layer are evaluated in closed form, through
            :meth:`written`; None: they are made by hooks.
    """

    name: ClassVar[str]
    reads_back: ClassVar[bool] = True
    enters: ClassVar[Literal["mlp", "experts", "residual"] | None] = None

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"<{self.name}>"

    @abstractmethod
    def count(self, model: Model, layer: int) -> int | None:
        """How many units the layer has; None: there is no end of them."""

    @abstractmethod
    def at(self, model: Model, layer: int, index: int) -> Unit:
        """The unit in column ``index`` of the layer's activations."""

    @abstractmethod
    def capture(self, model: Model, layers: Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        """Within the block, ``captured[layer]`` is the activations [batch, pos, count, *shape] of the last pass; inside
        an edit the edited ones."""

    @abstractmethod
    def edit(self, model: Model, layer: int, change: Change) -> AbstractContextManager[None]:
        """Within the block, every pass goes on with what ``change`` makes of the layer's activations; where it changes
        nothing, the pass is the untouched one, bit by bit."""

    def shape(self, model: Model) -> tuple[int, ...]:
        """Of one unit's activation; a number by default."""
        return ()

    def columns(self, indices: Sequence[int]) -> Any:
        """What an edit of these units is handed of activations [batch, pos, count, *shape], as an index of axis 2."""
        return list(indices)

    def handed(self, model: Model, n: int) -> tuple[int, ...]:
        """The shape of what an edit of n units is handed, behind batch and position."""
        return (n, *self.shape(model))

    def written(self, model: Model, layer: int, indices: Sequence[int] | None = None) -> torch.Tensor:
        """What each unit adds to what it :attr:`enters` per unit of its activation, float32 [n, d_model]; of all units
        of the layer where ``indices`` is None. Sites that enter nothing have none."""
        raise HarnessError(f"{self.name} do not write into the residual stream linearly.")

    def live(
        self, model: Model, layers: Sequence[int], prompts: Sequence[Sequence[int]], batch_size: int
    ) -> tuple[dict[int, np.ndarray], str] | None:
        """Which units can do anything on the run's prompts, layer -> bool [count], and what these are, in words:
        controls are drawn among them. None: all can. Beside units that can do nothing any other would stand out."""
        return None

    def directions(self, model: Model, layer: int) -> np.ndarray:
        """What each unit writes as the residual stream sees it, float64 [count, d_model]
        (:func:`harness.model.write_directions`)."""
        from harness.model.output_weights import write_directions

        return write_directions(model, layer, self.written(model, layer))

    def matching(
        self, model: Model, layers: Sequence[int], match: str, prompts: Sequence[Sequence[int]], batch_size: int
    ) -> dict[int, np.ndarray]:
        """Each unit's value of one of its kind's ``variables``, layer -> float64 [count], none below 0: they are
        compared on a log scale. "activation", the standard deviation over the prompts, is measured for every kind whose
        activation is one number. ``prompts``: token ids of the run's prompts."""
        raise HarnessError(f"controls: match={match} is not for {self.name}; use match=none.")


ACTIVITY: Mapping[str, str] = {"activation": "log standard deviation of the activation over the prompts"}


@dataclass(frozen=True, order=True)
class Unit:
    """Something of a layer that has a number there and a name that can be read back.

    Class attributes:
        word: what it is called. site: the name of its site. one_number: whether its activation is one number, so that
            interventions that hold, clamp or scale one act on it.
        written: its name, as a pattern; no other kind's names fit it. form: its name in words, and an example.
        placed: what its layer and index are called in tables; there, names alone do not tell: as a number, "3.10" is
            "3.1".
        across_layers: whether controls are drawn from the selector's pool wherever it lies: of units that are few in a
            layer.
        variables: in what controls can be like units of this kind: ``--match`` -> what that is, in words. In activation
            all can whose activation is one number.
        where: its site; kinds whose site holds something of its own (a dictionary of latents) have it as a field.
    """

    layer: int
    index: int

    word: ClassVar[str]
    site: ClassVar[str]
    one_number: ClassVar[bool] = True
    across_layers: ClassVar[bool] = False
    written: ClassVar[re.Pattern[str]]
    form: ClassVar[str]
    placed: ClassVar[tuple[str, ...]] = ("layer", "index")
    variables: ClassVar[Mapping[str, str]] = ACTIVITY
    if TYPE_CHECKING:

        @property
        def where(self) -> Site: ...

    @property
    def place(self) -> dict[str, int]:
        """Its layer and index, under the names of columns."""
        return dict(zip(self.placed, (self.layer, self.index), strict=False))

    def beside(self, layer: int, index: int) -> Self:
        """The unit in another column of the same site."""
        return type(self)(layer, index)

    def of(self, model: Model) -> Self:
        """The unit with what only a model tells of it, where its name does not say all.

        Raises:
            HarnessError: the model has no such unit.
        """
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the name of one.

        Raises:
            HarnessError: the text is not of its form.
        """
        return cls(*cls.numbers(text))

    @classmethod
    def numbers(cls, text: str) -> tuple[int, ...]:
        """The numbers in the name of one, as its pattern has them.

        Raises:
            HarnessError: as of :meth:`parse`.
        """
        match = cls.written.fullmatch(text.strip())
        if match is None:
            raise HarnessError(f'"{text}" is not a {cls.word}: expected {cls.form}.')
        return tuple(map(int, match.groups()))


class Neurons(Site):
    """Entries of the MLPs' hidden states after the activation function: what the down projection reads."""

    name = "neurons"
    enters = "mlp"

    def count(self, model: Model, layer: int) -> int:
        return model.anatomy.d_mlps[layer]

    def at(self, model: Model, layer: int, index: int) -> Neuron:
        return Neuron(layer, index)

    def capture(self, model: Model, layers: Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        return model.capture_neurons(layers)

    def edit(self, model: Model, layer: int, change: Change) -> AbstractContextManager[None]:
        return model.edit_neurons(layer, change)

    def written(self, model: Model, layer: int, indices: Sequence[int] | None = None) -> torch.Tensor:
        found = model.w_out(layer)
        return found if indices is None else found[list(indices)]

    def matching(
        self, model: Model, layers: Sequence[int], match: str, prompts: Sequence[Sequence[int]], batch_size: int
    ) -> dict[int, np.ndarray]:
        if match != "norm":
            return super().matching(model, layers, match, prompts, batch_size)
        return {layer: np.linalg.norm(self.directions(model, layer), axis=1) for layer in layers}


class Heads(Site):
    """Outputs of the attention heads, before the output projection."""

    name = "heads"

    def count(self, model: Model, layer: int) -> int:
        return model.anatomy.n_heads

    def at(self, model: Model, layer: int, index: int) -> Head:
        return Head(layer, index)

    def capture(self, model: Model, layers: Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        return model.capture_heads(layers)

    def edit(self, model: Model, layer: int, change: Change) -> AbstractContextManager[None]:
        return model.edit_heads(layer, change)

    def shape(self, model: Model) -> tuple[int, ...]:
        return (model.anatomy.d_head,)


class Directions(Site):
    """The residual stream after a layer: an edit is handed all of it, [batch, pos, d_model]."""

    name = "directions"

    def count(self, model: Model, layer: int) -> None:
        return None

    def at(self, model: Model, layer: int, index: int) -> Direction:
        return Direction(layer, index)

    def capture(self, model: Model, layers: Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        return model.capture_residuals(layers)

    def edit(self, model: Model, layer: int, change: Change) -> AbstractContextManager[None]:
        return model.edit_residual(layer, change)

    def columns(self, indices: Sequence[int]) -> Any:
        return slice(None)

    def handed(self, model: Model, n: int) -> tuple[int, ...]:
        return (model.anatomy.d_model,)


NEURONS, HEADS, DIRECTIONS = Neurons(), Heads(), Directions()


class Neuron(Unit):
    """One entry of an MLP's hidden state after the activation function, written ``layer.index`` ("11.2378")."""

    word = "neuron"
    site = "neurons"
    where = NEURONS
    written = re.compile(r"(\d+)\.(\d+)")
    form = "layer.index, for example 11.2378"
    variables: ClassVar[Mapping[str, str]] = {"norm": "log norm of the output weights", **ACTIVITY}

    def __str__(self) -> str:
        return f"{self.layer}.{self.index}"


class Head(Unit):
    """One attention head, written ``L5H1``: layer 5, head 1, both counted from 0."""

    word = "head"
    site = "heads"
    one_number = False
    across_layers = True
    variables: ClassVar[Mapping[str, str]] = {}
    where = HEADS
    written = re.compile(r"L(\d+)H(\d+)")
    form = "L, layer, H, index, for example L5H1"
    placed = ("layer", "head")

    def __str__(self) -> str:
        return f"L{self.layer}H{self.index}"


class Direction(Unit):
    """A direction of the residual stream after a layer, written ``D5.0``: layer 5, the selection's direction 0 there.

    A direction is no part of the model: its vector is in the selection that names it
    (:attr:`harness.conditions.conditions.Selection.vectors`).
    """

    word = "direction"
    site = "directions"
    one_number = False
    variables: ClassVar[Mapping[str, str]] = {}
    where = DIRECTIONS
    written = re.compile(r"D(\d+)\.(\d+)")
    form = "D, layer, a dot, index, for example D5.0"
    placed = ("layer",)

    def __str__(self) -> str:
        return f"D{self.layer}.{self.index}"


UNITS: dict[str, type[Unit]] = {unit.word: unit for unit in (Neuron, Head, Direction)}
"""The harness's own kinds of units by the word that records have for them; plugins' kinds are in the catalogue."""


def check_units(units: Sequence[Unit], model: Model, source: str) -> None:
    """Refuse units that the model does not have or that are named twice, and a mixture of kinds.

    Raises:
        HarnessError: names ``source`` and the first offending unit.
    """
    n_layers = model.anatomy.n_layers
    for unit in units:
        word, inside = unit.word, 0 <= unit.layer < n_layers
        n = unit.where.count(model, unit.layer) if inside else None
        # Python would count negative ones from the end, and edit another unit than reports name.
        if n == 0:
            raise HarnessError(f"{source} names {word} {unit}, but layer {unit.layer} has no {plural(word)}.")
        if not inside or unit.index < 0 or (n is not None and unit.index >= n):
            raise HarnessError(
                f"{source} names {word} {unit}, but the model has layers 0 to {n_layers - 1}"
                + (_others(unit, model) if n is None else f" with {plural(word)} 0 to {n - 1} each.")
            )
    if len(set(units)) < len(units):
        twice, _ = Counter(units).most_common(1)[0]
        raise HarnessError(f"{source} names {twice.word} {twice} twice.")
    if len({type(unit) for unit in units}) > 1:
        first, second, *_ = dict.fromkeys(unit.site.replace("_", " ") for unit in units)
        raise HarnessError(f"{source} names both {first} and {second}; choose one of the two.")


def _others(unit: Unit, model: Model) -> str:
    """The end of a sentence on a unit of a layer that the model does not have."""
    n = unit.where.count(model, 0)
    return "." if n is None else f" with {plural(unit.word)} 0 to {n - 1} each."


def by_layer(units: Iterable[Unit]) -> dict[int, list[int]]:
    """Indices of the given units, grouped by layer, layers ascending."""
    grouped: dict[int, list[int]] = {}
    for unit in sorted(units, key=lambda x: x.layer):
        grouped.setdefault(unit.layer, []).append(unit.index)
    return grouped
