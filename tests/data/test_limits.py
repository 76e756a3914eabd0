"""Limits of tables: a lower one takes some of what a higher one takes, and enough of every relation."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data import Fact, Relation, limited
from harness.data.limits import spread

TABLES = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyzUV")), min_size=1, max_size=120)


def table(rows: list[tuple[str, str]]) -> list[Fact]:
    relations = {name: Relation(name, "g", "{subject}", "d", "e", ()) for name, _ in rows}
    return [Fact(i, relations[name], f"s{i}", known, {}) for i, (name, known) in enumerate(rows)]


def slow(facts: list[Fact], limit: int, together: int) -> list[int]:
    """Lines of the facts that a limit takes, one after the other: the next relation whose turn it is gives those of its
    facts whose objects have been seen least, which lie where van der Corput's sequence says."""

    def inverse(i: int) -> float:
        return sum((i >> bit & 1) / 2 ** (bit + 1) for bit in range(20))

    def turn(places: list[int]) -> list[int]:  # the sequence in integers: reversed binary digits, of the size's length
        size = 1
        while size < len(places):
            size *= 2
        order = [round(inverse(i) * size) for i in range(size)]
        return [places[i] for i in order if i < len(places)]

    names = list(dict.fromkeys(fact.relation.name for fact in facts))
    left = {
        name: turn([fact.line for fact in facts if fact.relation.name == name])
        for name in (names[i] for i in turn(list(range(len(names)))))
    }
    seen: dict[str, Counter[str]] = {name: Counter() for name in left}
    taken: list[int] = []
    while any(left.values()):
        for name, lines in left.items():
            for _ in range(min(together, len(lines))):
                best = min(lines, key=lambda line: (seen[name][facts[line].object.lower()], lines.index(line)))
                seen[name][facts[best].object.lower()] += 1
                lines.remove(best)
                taken.append(best)
    return sorted(taken[:limit])


@given(TABLES, st.integers(1, 15), st.data())
def test_limits_are_nested_and_as_the_slow_account_says(
    rows: list[tuple[str, str]], together: int, data: st.DataObject
) -> None:
    facts = table(rows)
    low, high = sorted(data.draw(st.tuples(*[st.integers(1, len(facts) + 5)] * 2)))
    taken = [[fact.line for fact in limited(facts, limit, together)] for limit in (low, high)]
    assert set(taken[0]) <= set(taken[1])
    assert [len(lines) for lines in taken] == [min(limit, len(facts)) for limit in (low, high)]
    assert taken == [slow(facts, limit, together) for limit in (low, high)]


@given(TABLES, st.integers(1, 12), st.data())
def test_a_limit_takes_enough_of_all_relations_but_one(
    rows: list[tuple[str, str]], together: int, data: st.DataObject
) -> None:
    facts = table(rows)
    limit = data.draw(st.integers(1, len(facts)))
    sizes = Counter(name for name, _ in rows)
    taken = Counter(fact.relation.name for fact in limited(facts, limit, together))
    assert sum(n < min(together, sizes[name]) for name, n in taken.items()) <= 1


def test_objects_differ_where_they_can() -> None:
    facts = table([("a", known) for known in "uuuuuuuvUwu"])
    assert Counter(fact.object for fact in limited(facts, 3, 4)) == Counter("uvw")


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 100])
def test_every_beginning_is_spread(n: int) -> None:
    order = spread(n)
    assert sorted(order) == list(range(n))
    for k in range(1, n + 1):
        places = sorted(order[:k])
        gaps = [b - a for a, b in zip(places, [*places[1:], n], strict=True)]
        assert max(gaps) <= 4 * n / k
