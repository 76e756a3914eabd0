"""Control sets: what the same intervention does to other neurons, or heads, than the selected ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.conditions import Head, Selection, Unit, by_layer
from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.model import Model


@dataclass(frozen=True)
class Controls:
    """Control sets, and how they were drawn.

    Attributes:
        sets: distinct sets of as many units as are selected, none of them selected.
        layers: what they were drawn from. match: "none", "norm" or "activation".
        details: of the matching; JSON values only.
    """

    sets: tuple[tuple[Unit, ...], ...]
    layers: tuple[int, ...]
    match: str = "none"
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As the result record holds it."""
        return {
            "n": len(self.sets),
            "match": self.match,
            "layers": list(self.layers),
            "details": dict(self.details),
            "sets": [[str(unit) for unit in units] for units in self.sets],
        }


def draw_controls(
    model: Model,
    selection: Selection,
    n: int | None,
    most: int | None,
    match: str,
    prompts: Sequence[Sequence[int]],
    batch_size: int,
    seed: int,
) -> Controls:
    """``n`` control sets; where it is None, ``most`` or as many as there are.

    Raises:
        HarnessError: fewer than ``n`` distinct sets exist.
    """
    pool = pools(selection, model)
    if n is None:
        n = min(most or 0, possible_controls(selection.neurons, pool))
    return Controls(tuple(random_controls(selection.neurons, n, pool, seed)), tuple(sorted(pool)))


def pools(selection: Selection, model: Model) -> dict[int, list[int]]:
    """What controls are drawn from, layer -> indices: the selection's own pool, or the rest of its layers."""
    chosen = by_layer(selection.neurons)
    heads = isinstance(selection.neurons[0], Head)
    n = model.anatomy.n_heads if heads else model.anatomy.d_mlp
    among = {layer: list(range(n)) for layer in chosen} if selection.pool is None else by_layer(selection.pool)
    return {layer: sorted(set(indices) - set(chosen.get(layer, ()))) for layer, indices in among.items()}


def possible_controls(selected: Sequence[Unit], pool: Mapping[int, Sequence[int]]) -> int:
    """How many distinct sets :func:`random_controls` can draw from."""
    sizes = {layer: len(chosen) for layer, chosen in by_layer(selected).items()}
    if set(sizes) <= set(pool):
        return math.prod(math.comb(len(pool[layer]), k) for layer, k in sizes.items())
    return math.comb(sum(map(len, pool.values())), len(selected))


def random_controls(
    selected: Sequence[Unit], n: int, pool: Mapping[int, Sequence[int]], seed: int
) -> list[tuple[Unit, ...]]:
    """``n`` distinct random sets of the pool, as many neurons in each layer as are selected there.

    Where the pool lies in other layers than the selection (baseline heads), only the total number is matched. Sets are
    drawn uniformly; their members are sorted, so that equal sets are equal tuples.

    Raises:
        HarnessError: the pool does not hold that many distinct sets.
    """
    unit = type(selected[0])
    sizes = {layer: len(chosen) for layer, chosen in by_layer(selected).items()}
    groups = [([unit(layer, i) for i in pool.get(layer, ())], k) for layer, k in sizes.items()]
    if not set(sizes) <= set(pool):
        groups = [([unit(layer, i) for layer, indices in pool.items() for i in indices], len(selected))]
    possible = possible_controls(selected, pool)
    if possible < n:
        raise HarnessError(
            f"controls: {n} random sets of {len(selected)} {unit.__name__.lower()}s were asked for, but without the "
            f"selected ones only {possible} distinct sets exist; ask for at most {possible}."
        )
    rng = np.random.default_rng(seed)
    sets: dict[tuple[Unit, ...], None] = {}
    while len(sets) < n:
        drawn = (
            members[int(place)]
            for members, k in groups
            for place in np.sort(rng.choice(len(members), size=k, replace=False))
        )
        sets.setdefault(tuple(drawn))
    return list(sets)
