"""Control sets: what the same intervention does to other neurons, or heads, than the selected ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.conditions import Head, Neuron, Selection, Unit, by_layer
from harness.errors import HarnessError
from harness.matching import Match, balance, matched_sets, matching_values
from harness.wording import agree, counted, only

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
    """``n`` control sets; where it is None, ``most`` or as many as there are, which may be none.

    Args:
        match: "none": drawn uniformly; "norm" or "activation": like the selected neurons (:mod:`harness.matching`).
        prompts: token ids that ``match="activation"`` measures activations over.

    Raises:
        HarnessError: fewer than ``n`` distinct sets exist, or heads or directions are to be matched.
    """
    check_controls(model, selection, n, match)
    pool, across = pools(selection, model), _across(selection)
    wanted = min(most or 0, possible_controls(selection.neurons, pool, across)) if n is None else n
    layers = tuple(sorted(pool))
    if match == "none":
        return Controls(tuple(random_controls(selection.neurons, wanted, pool, seed, across)), layers)
    neurons = [unit for unit in selection.neurons if isinstance(unit, Neuron)]
    kind: Match = "norm" if match == "norm" else "activation"
    values = matching_values(model, sorted(by_layer(neurons)), kind, prompts, batch_size)
    matched = matched_sets(neurons, wanted, pool, values, seed)
    if n is not None and len(matched) < n:
        raise HarnessError(
            f"controls: {counted(n, 'set')} matched by {match} {agree(n, 'was', 'were')} asked for, but "
            f"{only(len(matched), 'distinct one')} {agree(len(matched) or 1, 'was', 'were')} found; "
            f"ask for at most {len(matched)}."
        )
    return Controls(tuple(matched), layers, match, balance(neurons, pool, matched, values, kind))


def check_controls(model: Model, selection: Selection, n: int | None, match: str) -> None:
    """Refuse ``n`` control sets that cannot be drawn, whatever the activations are.

    Raises:
        HarnessError: nothing is left to draw from, fewer than ``n`` distinct sets exist, or heads or directions are to
            be matched.
    """
    pool, site = pools(selection, model), selection.neurons[0].site
    if match != "none" and site != "neurons":
        raise HarnessError(f"controls: match={match} is for neurons; {site} are drawn from their pool: use match=none.")
    if n and not any(pool.values()):
        raise HarnessError(
            f"controls: {counted(n, 'random set')} {agree(n, 'was', 'were')} asked for, but the selector left "
            "nothing to draw them from (its pool is empty): loosen its thresholds, or ask for no controls."
        )
    if n and match == "none":
        _refuse_more(n, selection.neurons, possible_controls(selection.neurons, pool, _across(selection)))


def _across(selection: Selection) -> bool:
    """Whether sets are drawn across layers: heads are, from their selector's pool."""
    return selection.pool is not None and isinstance(selection.neurons[0], Head)


def _refuse_more(n: int, selected: Sequence[Unit], possible: int) -> None:
    if possible < n:
        raise HarnessError(
            f"controls: {counted(n, 'random set')} of {counted(len(selected), selected[0].word)} "
            f"{agree(n, 'was', 'were')} asked for, but without the selected ones "
            f"{only(possible, 'distinct set')} {agree(possible or 1, 'exists', 'exist')}; ask for at most {possible}."
        )


def pools(selection: Selection, model: Model) -> dict[int, list[int]]:
    """What controls are drawn from, layer -> indices: the selection's own pool, or the rest of its layers."""
    chosen = by_layer(selection.neurons)
    # Of directions there is no end: those that controls are drawn from are in the selection's pool.
    n = {"neurons": model.anatomy.d_mlp, "heads": model.anatomy.n_heads}.get(selection.neurons[0].site, 0)
    among = {layer: list(range(n)) for layer in chosen} if selection.pool is None else by_layer(selection.pool)
    return {layer: sorted(set(indices) - set(chosen.get(layer, ()))) for layer, indices in among.items()}


def _groups(selected: Sequence[Unit], pool: Mapping[int, Sequence[int]], across: bool) -> list[tuple[list[Unit], int]]:
    """What a set is made of: (units, how many of them), for each layer or, ``across`` layers, all at once."""
    unit = type(selected[0])
    sizes = {layer: len(chosen) for layer, chosen in by_layer(selected).items()}
    if across or not set(sizes) <= set(pool):
        return [([unit(layer, i) for layer, indices in pool.items() for i in indices], len(selected))]
    return [([unit(layer, i) for i in pool[layer]], k) for layer, k in sizes.items()]


def possible_controls(selected: Sequence[Unit], pool: Mapping[int, Sequence[int]], across: bool = False) -> int:
    """How many distinct sets :func:`random_controls` can draw from."""
    return math.prod(math.comb(len(members), k) for members, k in _groups(selected, pool, across))


def random_controls(
    selected: Sequence[Unit], n: int, pool: Mapping[int, Sequence[int]], seed: int, across: bool = False
) -> list[tuple[Unit, ...]]:
    """``n`` distinct random sets of the pool, as many neurons in each layer as are selected there.

    With ``across``, and where the pool does not cover the selection's layers, only the total number is matched:
    baseline heads are chosen by what they do, and few of them lie in one layer. Sets are drawn uniformly; their members
    are sorted, so that equal sets are equal tuples.

    Raises:
        HarnessError: the pool does not hold that many distinct sets.
    """
    groups = _groups(selected, pool, across)
    _refuse_more(n, selected, possible_controls(selected, pool, across))
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
