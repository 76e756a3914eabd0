"""Controls that resemble the selected units, one by one, in the norm or the activity that each of them has.

In what units of a kind can be alike the kind says (:attr:`harness.conditions.units.Unit.variables`), and its site tells
the values. A selector that prefers large neurons picks neurons that would matter more than random ones whatever else
they do.
Matching takes that away: each selected neuron is replaced by one of those most like it (nearest neighbours on a log
scale, drawn at random among them). How well that worked is told by the standardised mean difference,

    SMD = (mean of the selected - mean of the controls) / sd of all that controls could be drawn from,

of which 0.1 is commonly called negligible and more than 0.25 too large (Stuart 2010, Statistical Science 25(1)).

Selected neurons are never members of matched sets, however small the pool: each would be its own nearest neighbour, and
controls would be the selected set with a few others in it. Matched sets are not drawn alike with the selected one
anyway, so that their p is as good as the match: beyond an SMD of 0.25 nothing is concluded from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.conditions.units import Site, Unit, by_layer
from harness.errors import HarnessError
from harness.files.wording import agree, counted

if TYPE_CHECKING:
    from harness.model.model import Model

LEAST, SHARE = 20, 0.05
"""A control is drawn from so many nearest neighbours, or from this share of the layer if that is more."""

LARGE_SMD = 0.25

NAMED = 3
"""Selected neurons without others like them that a sentence names."""

TRIES = 50
"""Draws for each set that is wanted; then the neighbourhoods are taken to hold no more."""


def matching_values(
    site: Site, model: Model, layers: Sequence[int], match: str, prompts: Sequence[Sequence[int]], batch_size: int
) -> dict[int, np.ndarray]:
    """What units are matched on, a logarithm, layer -> float64 [n_units].

    Where the value is 0 it is the logarithm of the smallest positive one in the layer.

    Args:
        prompts: token ids that activations are measured over.
    """
    if match != "activation":
        raw = site.matching(model, layers, match, prompts, batch_size)
    else:
        from harness.engine.activation_summaries import activation_statistics

        if not prompts:
            raise HarnessError("controls matched by activation need prompts to measure activations over.")
        raw = activation_statistics(model, prompts, list(layers), batch_size, seed=0, site=site).std
    return {layer: np.log(np.maximum(x, x[x > 0].min() if (x > 0).any() else 1.0)) for layer, x in raw.items()}


def neighbours(n_units: int) -> int:
    """From how many nearest neighbours a control is drawn."""
    return max(LEAST, round(SHARE * n_units))


def matched_sets(
    selected: Sequence[Unit],
    n: int,
    pool: Mapping[int, Sequence[int]],
    values: Mapping[int, np.ndarray],
    seed: int,
) -> list[tuple[Unit, ...]]:
    """Up to ``n`` distinct sets; fewer where the neighbourhoods hold no more. Members are sorted.

    For each set the selected neurons are gone through in a random order, and each is given one of its k nearest
    neighbours in the pool of its layer that the set does not hold yet, all with the same probability.

    Args:
        pool: layer -> indices that may be drawn, none of them selected.
        values: what to match on, layer -> [n_units].

    Raises:
        HarnessError: a layer's pool is smaller than the number of neurons selected there.
    """
    near: dict[Unit, np.ndarray] = {}
    for unit in selected:
        among = np.asarray(pool.get(unit.layer, ()), dtype=int)
        gap = np.abs(values[unit.layer][among] - values[unit.layer][unit.index])
        near[unit] = among[np.argsort(gap, kind="stable")]
    for layer, chosen in by_layer(selected).items():
        left = len(pool.get(layer, ()))
        if left < len(chosen):
            raise HarnessError(
                f"controls: {counted(len(chosen), selected[0].word)} of layer {layer} "
                f"{agree(len(chosen), 'is', 'are')} selected, and only {left} {agree(left, 'is', 'are')} left to match "
                f"{agree(len(chosen), 'it', 'them')} with."
            )
    rng = np.random.default_rng(seed)
    sets: dict[tuple[Unit, ...], None] = {}
    for _ in range(TRIES * n):
        if len(sets) == n:
            break
        sets.setdefault(_draw(selected, near, {layer: neighbours(len(x)) for layer, x in values.items()}, rng))
    return list(sets)


def _draw(
    selected: Sequence[Unit], near: Mapping[Unit, np.ndarray], k: Mapping[int, int], rng: np.random.Generator
) -> tuple[Unit, ...]:
    taken: set[Unit] = set()
    for place in rng.permutation(len(selected)):
        own = selected[int(place)]
        # The nearest that are still free: among the k nearest and as many again as are taken there are k.
        nearest = (own.beside(own.layer, i) for i in near[own][: k[own.layer] + len(taken)].tolist())
        free = [unit for unit in nearest if unit not in taken][: k[own.layer]]
        taken.add(free[int(rng.integers(len(free)))])
    return tuple(sorted(taken))


def balance(
    selected: Sequence[Unit],
    pool: Mapping[int, Sequence[int]],
    sets: Sequence[Sequence[Unit]],
    values: Mapping[int, np.ndarray],
    match: str,
) -> dict[str, Any]:
    """How alike selected neurons and controls are; JSON values only.

    ``smd_random`` is the standardised mean difference to what plain random controls would be on average, ``smd`` that
    to the matched ones (None without any, and where nothing in the pool varies and the selected ones differ);
    ``within_reach`` says of each selected neuron how many of the pool of its layer lie within one standard deviation of
    it. ``warning`` and ``blocks`` are sentences where ``smd`` is too large, else None: such controls are not like the
    selected neurons, the treated set stands out among them for what it was to be matched in, and p is invalid (random
    sets that are this far apart get p <= .05 in a quarter to a half of all cases).
    """
    variable, units, word = selected[0].variables[match], selected[0].site, selected[0].word
    sizes = {layer: len(chosen) for layer, chosen in by_layer(selected).items()}
    among = {layer: values[layer][np.asarray(pool[layer], dtype=int)] for layer in sizes}
    weight = {layer: size / len(selected) for layer, size in sizes.items()}
    own = float(np.mean([values[x.layer][x.index] for x in selected]))
    sd = float(np.sqrt(sum(weight[layer] * x.var() for layer, x in among.items())))
    random = float(sum(weight[layer] * x.mean() for layer, x in among.items()))
    drawn = [values[x.layer][x.index] for chosen in sets for x in chosen]
    before = _standardised(own - random, sd)
    after = _standardised(own - float(np.mean(drawn)), sd) if drawn else None
    reach = {str(x): int((np.abs(among[x.layer] - values[x.layer][x.index]) <= sd).sum()) for x in selected}
    large = bool(drawn) and (after is None or abs(after) > LARGE_SMD)
    apart = f"{after:+.2f} standard deviations" if after is not None else "more than any two of the others"
    told = f" (that of plain random {units} by {before:+.2f})" if before is not None else ""
    return {
        "variable": variable,
        "neighbours": neighbours(max(len(values[layer]) for layer in sizes)),
        "smd_random": None if before is None else round(before, 6),
        "smd": None if after is None else round(after, 6),
        "within_reach": reach,
        "warning": (
            f"The matched {units} are not much like the selected ones: their mean {variable} differs by "
            f"{apart}{told}; too few others are like the selected ones."
            if large
            else None
        ),
        "blocks": _blocked(apart, variable, reach, units, word) if large else None,
    }


def _standardised(difference: float, sd: float) -> float | None:
    """A difference in standard deviations; None where there is one and nothing varies."""
    return difference / sd if sd else None if difference else 0.0


def _blocked(apart: str, variable: str, reach: Mapping[str, int], units: str, word: str) -> str:
    """Why nothing can be said beside these controls, and what pool would do."""
    alone = [name for name, n in reach.items() if n == 0]
    if alone:
        them = agree(len(alone), "it", "them")
        named = ", ".join(alone[:NAMED]) + (f" and {len(alone) - NAMED} more" if len(alone) > NAMED else "")
        do = (
            f"within one standard deviation of {named} there is no other {word} to draw: leave {them} out, or select "
            f"in a layer that has more like {them}"
        )
    else:
        do = (
            f"each has others within one standard deviation ({min(reach.values())} or more), but too few of them "
            f"beyond it: select {units} nearer to the rest of their layer, or fewer of them"
        )
    return (
        f"The matched {units} are not like the selected ones: their mean {variable} differs by {apart}, where "
        f"{LARGE_SMD} is the most that can be passed over, and this alone may make the difference; {do}."
    )
