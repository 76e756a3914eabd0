"""Components of a model, selections of them, and the conditions under which a model is run.

A *condition* is "these components, edited like this". A run compares the untouched model (``baseline``), the selected
components under the intervention (``treated``) and the same intervention on random sets of components (controls).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from harness.errors import HarnessError

if TYPE_CHECKING:
    import torch

_NEURON = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, order=True)
class Neuron:
    """One entry of an MLP's hidden state after the activation function, written ``layer.index`` ("11.2378")."""

    layer: int
    index: int

    @classmethod
    def parse(cls, text: str) -> Neuron:
        """Read ``"11.2378"``.

        Raises:
            HarnessError: the text is not of the form ``layer.index``.
        """
        match = _NEURON.fullmatch(text.strip())
        if match is None:
            raise HarnessError(f'"{text}" is not a neuron: expected layer.index, for example 11.2378.')
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.layer}.{self.index}"


class Edit(Protocol):
    """A change of some neurons of one layer, a pure function of these neurons' activations.

    Being elementwise in the activations is what lets an engine evaluate many edits of the final layer in closed form.
    An edit of something else says so in an attribute ``site`` (see :func:`site_of`).
    """

    @property
    def layer(self) -> int: ...

    @property
    def indices(self) -> tuple[int, ...]: ...

    def apply(self, activations: torch.Tensor) -> torch.Tensor:
        """New activations, shape and dtype of the given ones: [..., len(indices)]."""
        ...


@dataclass(frozen=True)
class SetNeurons:
    """Replace each neuron's activation by a constant at every position (mean, median, zero ... ablation)."""

    layer: int
    indices: tuple[int, ...]
    values: tuple[float, ...]

    site: ClassVar[str] = "neurons"

    def apply(self, activations: torch.Tensor) -> torch.Tensor:
        return activations.new_tensor(self.values).expand_as(activations)


def site_of(edit: Edit) -> str:
    """What an edit changes: "neurons", which is meant where it does not say, or "heads" (:mod:`harness.heads`).

    Raises:
        HarnessError: it names anything else.
    """
    site = getattr(edit, "site", "neurons")
    if site not in ("neurons", "heads"):
        raise HarnessError(f'an edit of layer {edit.layer} has the site "{site}": neurons and heads can be edited.')
    return str(site)


@dataclass(frozen=True)
class Condition:
    """A name and the edits that are made together in one pass of the model; no edits is the untouched model."""

    name: str
    edits: tuple[Edit, ...] = ()


BASELINE = Condition("baseline")


@dataclass(frozen=True)
class Selection:
    """What a selector chose, and why.

    Attributes:
        neurons: the chosen neurons, in the order of the selector's preference.
        scores: per-neuron columns over *all* candidates (``{"rho": [d_mlp], ...}``), for tables and figures.
        candidates: the neurons that the rows of ``scores`` describe.
        rule: one sentence that says how the choice was made, with every threshold that was in force.
        details: anything else worth recording (weight pre-processing, singular values ...), JSON values only.
    """

    neurons: tuple[Neuron, ...]
    rule: str
    candidates: tuple[Neuron, ...] = ()
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def table(self) -> list[dict[str, Any]]:
        """One row per candidate: its name, whether it was selected, its scores."""
        chosen = set(self.neurons)
        columns = {name: np.asarray(values, dtype=float).tolist() for name, values in self.scores.items()}
        return [
            {"neuron": str(neuron), "selected": neuron in chosen}
            | {name: values[row] for name, values in columns.items()}
            for row, neuron in enumerate(self.candidates)
        ]


def check_selection(neurons: Sequence[Neuron], n_layers: int, d_mlp: int, source: str) -> None:
    """Refuse an empty selection, neurons that the model does not have, and neurons named twice.

    Raises:
        HarnessError: names the selector (``source``) and the first offending neuron.
    """
    if not neurons:
        raise HarnessError(f"{source} selected no neuron: loosen its thresholds (see `harness list` for them).")
    for neuron in neurons:
        if neuron.layer >= n_layers or neuron.index >= d_mlp:
            raise HarnessError(
                f"{source} names neuron {neuron}, but the model has layers 0 to {n_layers - 1} "
                f"with neurons 0 to {d_mlp - 1} each."
            )
    if len(set(neurons)) < len(neurons):
        twice = next(neuron for neuron in neurons if list(neurons).count(neuron) > 1)
        raise HarnessError(f"{source} names neuron {twice} twice.")


def possible_controls(selected: Sequence[Neuron], d_mlp: int) -> int:
    """How many distinct sets :func:`random_controls` can draw from."""
    return math.prod(math.comb(d_mlp - len(chosen), len(chosen)) for chosen in by_layer(selected).values())


def random_controls(selected: Sequence[Neuron], n: int, d_mlp: int, seed: int) -> list[tuple[Neuron, ...]]:
    """``n`` distinct random sets that mirror ``selected``: as many neurons in each layer, none of the selected ones.

    Sets are drawn uniformly; their members are sorted, so that equal sets are equal tuples.

    Raises:
        HarnessError: the layer does not hold that many distinct sets.
    """
    per_layer = by_layer(selected)
    pools = {layer: np.setdiff1d(np.arange(d_mlp), chosen) for layer, chosen in per_layer.items()}
    possible = possible_controls(selected, d_mlp)
    if possible < n:
        raise HarnessError(
            f"controls: {n} random sets of {len(selected)} neurons were asked for, but without the selected neurons "
            f"only {possible} distinct sets exist; ask for at most {possible}."
        )
    rng = np.random.default_rng(seed)
    sets: dict[tuple[Neuron, ...], None] = {}
    while len(sets) < n:
        drawn = (
            Neuron(layer, int(index))
            for layer, chosen in per_layer.items()
            for index in np.sort(rng.choice(pools[layer], size=len(chosen), replace=False))
        )
        sets.setdefault(tuple(drawn))
    return list(sets)


def by_layer(neurons: Iterable[Neuron]) -> dict[int, list[int]]:
    """Indices of the given neurons, grouped by layer, layers ascending."""
    grouped: dict[int, list[int]] = {}
    for neuron in sorted(neurons, key=lambda x: x.layer):
        grouped.setdefault(neuron.layer, []).append(neuron.index)
    return grouped
