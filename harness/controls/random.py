"""Control sets: what the same intervention does to other neurons, or heads, than the selected ones.

A permutation test asks whether the selected set stands out among sets that it might have been. Where the selected
units are few among those that sets are drawn from, it hardly matters that controls are drawn without them. Where they
are many it does: without 6 of 20, the selected set and its controls are pushed apart by their being complements, and
sets that were drawn at random themselves get p <= .05 in .22 to .29 of all cases (6 of 40: .10 to .16). So beyond SMALL
controls are drawn from all units, the selected ones included, and only the selected set as a whole is left out: that
set and its controls then are distinct sets drawn alike from the same units, of which any is as likely to be extreme,
and p is exact (Phipson & Smyth 2010, Statistical Applications in Genetics and Molecular Biology 9(1)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.conditions.conditions import Selection
from harness.conditions.units import Unit, by_layer
from harness.controls.matched import balance, matched_sets, matching_values
from harness.errors import HarnessError
from harness.files.wording import agree, counted, only

if TYPE_CHECKING:
    from harness.model.model import Model


SMALL = 0.01
"""Beyond this share of a group, selected units are drawn as members of controls, too."""


@dataclass(frozen=True)
class Controls:
    """Control sets, and how they were drawn.

    Attributes:
        sets: distinct sets of as many units as are selected, none of them the selected set.
        layers: what they were drawn from. match: "none", or in what they are like the selected units.
        details: ``treated_in_pool``: whether selected units may be in a set; ``candidates``: how many units sets are
            drawn from; ``among``: which units alone these are, in words, or None: all; ``blocks``: why nothing can be
            said beside these controls, or None; of matched ones how alike they are
            (:func:`harness.controls.matched.balance`). JSON values only.
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


def too_few(m: int) -> str | None:
    """What m control sets can never show, in a sentence without its end; None where they are enough.

    The smallest p of the treated set among m + 1 is 1 / (m + 1), the smallest adjusted one, too.
    """
    from harness.statistics import ALPHA

    if 1 / (m + 1) <= ALPHA:
        return None
    least = math.ceil(1 / ALPHA) - 1
    if m == 0:
        return f"without controls there is no p, and no verdict: it takes {least} or more"
    return (
        f"with {counted(m, 'control')} no p can be below {1 / (m + 1):.2g}, so that nothing can be found to do more, "
        f"or less, than random ones (p <= {ALPHA:g}), whatever it does: it takes {least} or more"
    )


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
        match: "none": drawn uniformly; "norm", "activation" ...: like the selected units
        (:mod:`harness.controls.matched`). prompts: token ids that ``match="activation"`` measures activations over.

    Raises:
        HarnessError: fewer than ``n`` distinct sets exist, or the units' kind cannot be matched so.
    """
    check_controls(model, selection, n, match)
    if selection.parts:
        wanted = most or 0 if n is None else n
        steps = [
            draw_controls(model, part, None, wanted, match, prompts, batch_size, seed + i)
            for i, part in enumerate(selection.parts)
        ]
        return _together(steps, n, wanted, seed)
    selection, among = _live(selection, model, prompts, batch_size)
    if match != "none":
        return _matched(model, selection, n, most, match, prompts, batch_size, seed, among)
    (pool, whole), across = drawn_from(selection, model), _across(selection)
    wanted = min(most or 0, possible_controls(selection.units, pool, across)) if n is None else n
    drawn = random_controls(selection.units, wanted, pool, seed, across)
    candidates = sum(len(members) for members, _ in _groups(selection.units, pool, across))
    about = {"treated_in_pool": whole, "candidates": candidates, "blocks": None, **_told(among)}
    return Controls(tuple(drawn), tuple(sorted(pool)), details=about)


def _told(among: str | None) -> dict[str, str]:
    """Which units alone controls are drawn from, for a record."""
    return {} if among is None else {"among": among}


def _live(
    selection: Selection, model: Model, prompts: Sequence[Sequence[int]], batch_size: int
) -> tuple[Selection, str | None]:
    """The selection with a pool of units that can do anything on the prompts, and what these are, in words; as it is
    where all of them can (:meth:`harness.conditions.units.Site.live`).

    Raises:
        HarnessError: there are no prompts to find out with.
    """
    site, others = selection.units[0].where, pools(selection, model)
    found = site.live(model, sorted(others), prompts, batch_size) if any(others.values()) else None
    if found is None:
        return selection, None
    alive, said = found
    beside = selection.units[0].beside
    pool = tuple(beside(layer, i) for layer, indices in others.items() for i in indices if alive[layer][i])
    return replace(selection, pool=pool), said


def _together(steps: Sequence[Controls], n: int | None, most: int, seed: int) -> Controls:
    """Controls of a circuit, distinct: of every step one of its own sets, which may be in several of the circuit's.

    Raises:
        HarnessError: fewer than ``n`` exist.
    """
    sizes = [len(step.sets) for step in steps]
    possible = math.prod(sizes)
    if n is not None and possible < n:
        raise HarnessError(
            f"controls: {counted(n, 'set')} for the steps together {agree(n, 'was', 'were')} asked for, but the steps "
            f"have {', '.join(map(str, sizes))} of their own: ask for at most {possible}."
        )
    wanted = min(most, possible)
    rng, drawn = np.random.default_rng(seed), dict[tuple[int, ...], None]()
    # A set of each draw's own where a step has as many; of a step with fewer, any of its sets.
    for i in range(wanted if max(sizes) >= wanted else 0):
        drawn.setdefault(tuple(i if size >= wanted else int(rng.integers(size)) for size in sizes))
    while len(drawn) < wanted:
        drawn.setdefault(tuple(int(rng.integers(size)) for size in sizes))
    told = [step.details for step in steps]
    about = {
        "treated_in_pool": all(x["treated_in_pool"] for x in told),
        "candidates": sum(x["candidates"] for x in told),
        "blocks": next((x["blocks"] for x in told if x["blocks"]), None),
        **_told(next((x["among"] for x in told if x.get("among")), None)),
        "warning": " ".join(x["warning"] for x in told if x.get("warning")) or None,
    }
    sets = tuple(
        tuple(unit for step, i in zip(steps, chosen, strict=True) for unit in step.sets[i]) for chosen in drawn
    )
    layers = sorted({layer for step in steps for layer in step.layers})
    return Controls(sets, tuple(layers), steps[0].match, about)


def _matched(
    model: Model,
    selection: Selection,
    n: int | None,
    most: int | None,
    match: str,
    prompts: Sequence[Sequence[int]],
    batch_size: int,
    seed: int,
    among: str | None,
) -> Controls:
    """Control sets of units like the selected ones, which are never in them (:mod:`harness.controls.matched` says
    why)."""
    pool = pools(selection, model)
    wanted = min(most or 0, possible_controls(selection.units, pool)) if n is None else n
    units = selection.units
    values = matching_values(units[0].where, model, sorted(by_layer(units)), match, prompts, batch_size)
    drawn = matched_sets(units, wanted, pool, values, seed)
    if n is not None and len(drawn) < n:
        raise HarnessError(
            f"controls: {counted(n, 'set')} matched by {match} {agree(n, 'was', 'were')} asked for, but "
            f"{only(len(drawn), 'distinct one')} {agree(len(drawn) or 1, 'was', 'were')} found; "
            f"ask for at most {len(drawn)}."
        )
    candidates = sum(len(pool[layer]) for layer in by_layer(units))
    alike = balance(units, pool, drawn, values, match)
    about = {"treated_in_pool": False, "candidates": candidates, **_told(among), **alike}
    return Controls(tuple(drawn), tuple(sorted(pool)), match, about)


def check_controls(model: Model, selection: Selection, n: int | None, match: str) -> None:
    """Refuse ``n`` control sets that cannot be drawn, whatever the activations are.

    Raises:
        HarnessError: nothing is left to draw from, fewer than ``n`` distinct sets exist, or the units' kind cannot be
            matched so.
    """
    if selection.parts:
        for part in selection.parts:
            check_controls(model, part, min(n or 0, 1), match)
        return
    pool, unit = pools(selection, model), selection.units[0]
    if match != "none" and match not in unit.variables:
        others = f"they can be matched in {', '.join(unit.variables)}" if unit.variables else "they are not matched"
        raise HarnessError(f"controls: match={match} is not for {unit.site}: {others}; or use match=none.")
    if n and not any(pool.values()):
        raise HarnessError(
            f"controls: {counted(n, 'random set')} {agree(n, 'was', 'were')} asked for, but the selector left "
            "nothing to draw them from (its pool is empty): loosen its thresholds, or ask for no controls."
        )
    if n and match == "none":
        among, _ = drawn_from(selection, model)
        _refuse_more(n, selection.units, possible_controls(selection.units, among, _across(selection)))


def _across(selection: Selection) -> bool:
    """Whether sets are drawn across layers: heads from their selector's pool, whatever from one of other layers."""
    if selection.pool is None:
        return False
    layers = by_layer(selection.pool).keys()
    return selection.units[0].across_layers or not by_layer(selection.units).keys() <= layers


def _refuse_more(n: int, selected: Sequence[Unit], possible: int) -> None:
    if possible < n:
        raise HarnessError(
            f"controls: {counted(n, 'random set')} of {counted(len(selected), selected[0].word)} "
            f"{agree(n, 'was', 'were')} asked for, but beside the selected one "
            f"{only(possible, 'distinct set')} {agree(possible or 1, 'exists', 'exist')}; ask for at most {possible}."
        )


def pools(selection: Selection, model: Model) -> dict[int, list[int]]:
    """Other units than the selected ones, layer -> indices: of the selection's own pool, or the rest of its layers."""
    chosen = by_layer(selection.units)
    # Of directions there is no end: those that controls are drawn from are in the selection's pool.
    site, own = selection.units[0].where, selection.pool
    among = {x: list(range(site.count(model, x) or 0)) for x in chosen} if own is None else by_layer(own)
    return {layer: sorted(set(indices) - set(chosen.get(layer, ()))) for layer, indices in among.items()}


def drawn_from(selection: Selection, model: Model) -> tuple[dict[int, list[int]], bool]:
    """What random sets are drawn from, layer -> indices, and whether the selected units are among it.

    They are where they are more than SMALL of a group that sets are drawn from: see above. They are not where one unit
    is selected, which alone is the selected set, and not among directions that a selector made to compare its own with
    (under shuffled labels, say): these are no directions that it might have chosen.
    """
    pool, across, selected = pools(selection, model), _across(selection), selection.units
    endless = selected[0].where.count(model, selected[0].layer) is None
    foreign = endless and not set(selected) & set(selection.pool or ())
    if len(selected) == 1 or foreign or not any(pool.values()):
        return pool, False
    both = {layer: list(indices) for layer, indices in pool.items()}
    for layer, indices in by_layer(selected).items():
        both[layer] = sorted({*both.get(layer, ()), *indices})
    small = any(k > SMALL * len(members) for members, k in _groups(selected, both, across))
    return (both, True) if small else (pool, False)


def _groups(selected: Sequence[Unit], pool: Mapping[int, Sequence[int]], across: bool) -> list[tuple[list[Unit], int]]:
    """What a set is made of: (units, how many of them), for each layer or, ``across`` layers, all at once."""
    unit = selected[0].beside
    sizes = {layer: len(chosen) for layer, chosen in by_layer(selected).items()}
    if across or not set(sizes) <= set(pool):
        return [([unit(layer, i) for layer, indices in pool.items() for i in indices], len(selected))]
    return [([unit(layer, i) for i in pool[layer]], k) for layer, k in sizes.items()]


def possible_controls(selected: Sequence[Unit], pool: Mapping[int, Sequence[int]], across: bool = False) -> int:
    """How many distinct sets :func:`random_controls` can draw from, which the selected one is not among."""
    groups = _groups(selected, pool, across)
    itself = set(selected) <= {unit for members, _ in groups for unit in members}
    return math.prod(math.comb(len(members), k) for members, k in groups) - itself


def random_controls(
    selected: Sequence[Unit], n: int, pool: Mapping[int, Sequence[int]], seed: int, across: bool = False
) -> list[tuple[Unit, ...]]:
    """``n`` distinct random sets of the pool, as many neurons in each layer as are selected there.

    With ``across``, and where the pool does not cover the selection's layers, only the total number is matched:
    baseline heads are chosen by what they do, and few of them lie in one layer. Sets are drawn uniformly, without the
    selected one where the pool holds it; their members are sorted, so that equal sets are equal tuples.

    Raises:
        HarnessError: the pool does not hold that many distinct sets.
    """
    groups = _groups(selected, pool, across)
    _refuse_more(n, selected, possible_controls(selected, pool, across))
    rng, itself = np.random.default_rng(seed), set(selected)
    sets: dict[tuple[Unit, ...], None] = {}
    while len(sets) < n:
        drawn = tuple(
            members[int(place)]
            for members, k in groups
            for place in np.sort(rng.choice(len(members), size=k, replace=False))
        )
        if set(drawn) != itself:
            sets.setdefault(drawn)
    return list(sets)
