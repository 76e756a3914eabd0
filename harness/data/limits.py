"""Which items of a table a limit takes: those of a lower limit are among those of a higher one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TypeVar

from harness.data.facts import Fact

Item = TypeVar("Item")


def spread(n: int) -> list[int]:
    """The numbers below ``n`` in an order whose every beginning is spread over all of them (van der Corput's).

    >>> spread(8)
    [0, 4, 2, 6, 1, 5, 3, 7]
    """
    bits = max(n - 1, 0).bit_length()
    return sorted(range(n), key=lambda number: f"{number:0{bits}b}"[::-1])


def taken(items: Sequence[Item], limit: int) -> list[Item]:
    """``limit`` of the items, spread over all of them and in their order."""
    return [items[place] for place in sorted(spread(len(items))[:limit])]


def limited(facts: Sequence[Fact], limit: int, together: int) -> list[Fact]:
    """``limit`` of the facts, in the order of their table.

    They come from a few relations, ``together`` of each (all of a smaller one), for a question is contradicted with
    other objects of its relation; when all relations have given so many, each gives as many again. Of a relation those
    with different objects come first. Relations, and facts within them, are spread over the table.
    """
    relations: dict[str, list[int]] = defaultdict(list)
    for place, fact in enumerate(facts):
        relations[fact.relation.name].append(place)
    names = list(relations)
    rounds: list[list[int]] = []
    for name in (names[i] for i in spread(len(names))):
        order = _objects_first(facts, [relations[name][i] for i in spread(len(relations[name]))])
        for number, start in enumerate(range(0, len(order), together)):
            if number == len(rounds):
                rounds.append([])
            rounds[number] += order[start : start + together]
    taken = [place for one in rounds for place in one][:limit]
    return [facts[place] for place in sorted(taken)]


def _objects_first(facts: Sequence[Fact], places: Sequence[int]) -> list[int]:
    """Places in their order, but the first fact of every object before the second of any."""
    seen: Counter[str] = Counter()
    turns = []
    for place in places:
        known = facts[place].object.lower()
        turns.append((seen[known], place))
        seen[known] += 1
    return [place for _, place in sorted(turns, key=lambda turn: turn[0])]
