"""Recognising objects in answers: the paper's rule, and the two looser ones."""

from __future__ import annotations

import pytest
from harness_plugins.context_copying.task.answer_sources import (
    CK,
    ND,
    PK,
    SOURCES,
    knowledge_source,
    name_said,
    nested,
    normalise,
    other_names,
    sources,
)
from harness_tasks.knowledge_conflict import scoring
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Beatles", "beatles"),
        ("post-transition metal", "post transition metal"),
        ("Côte d'Ivoire", "côte divoire"),
        ("Côte d’Ivoire", "côte divoire"),
        ("U.S.", "u s"),
        ("ﬁeld  hockey", "field hockey"),  # a ligature
        ("Ｔｏｋｙｏ", "tokyo"),
        ("STRASSE", "strasse"),
        ("straße", "strasse"),
        ("The The", "the the"),
        ("a", "a"),
        ("?!", ""),
        ("", ""),
    ],
)
def test_normalised_texts(text: str, words: str) -> None:
    assert normalise(text) == words


@pytest.mark.parametrize(
    ("answer", "codes"),
    [
        ("Rome", (CK, CK, CK)),
        ("rome and more", (CK, CK, CK)),
        ("the Rome", (ND, CK, CK)),
        ("ROME's", (ND, ND, ND)),  # "romes" is another word
        ("New-York city", (ND, PK, PK)),
        ("new york", (PK, PK, PK)),
        ("Roma", (ND, ND, CK)),
        ("the Big Apple", (ND, ND, PK)),
        ("big", (ND, ND, ND)),
        ("", (ND, ND, ND)),
    ],
)
def test_three_ways_to_match(answer: str, codes: tuple[int, int, int]) -> None:
    assert sources(answer, "Rome", "New York", ["Roma"], ["Big Apple", "NYC"]) == codes


def test_an_alias_of_both_objects_counts_for_the_context() -> None:
    assert sources("Holland", "Rome", "Paris", ["Holland"], ["Holland"]) == (ND, ND, CK)


def test_a_context_that_agrees_leaves_memory_and_neither() -> None:
    assert knowledge_source("paris", "Paris", "paris") == PK
    assert sources("the Paris", "Paris", "Paris") == (ND, PK, PK)
    assert sources("Lutetia", "Paris", "Paris", ["Lutetia"], ["Lutetia"]) == (ND, ND, PK)
    assert sources("Rome", "Paris", "Paris") == (ND, ND, ND)


@pytest.mark.parametrize(
    ("answer", "context", "memory", "codes"),
    [
        ("New York City", "New York", "New York City", (PK, PK, PK)),
        ("New York City", "New York City", "New York", (CK, CK, CK)),
        ("New York", "New York", "New York City", (CK, CK, CK)),
        ("New York", "New York City", "New York", (PK, PK, PK)),
        ("New York state", "New York", "New York City", (CK, CK, CK)),
        ("guinea bissau", "Guinea", "Guinea Bissau", (PK, PK, PK)),
        ("Guinea-Bissau", "Guinea", "Guinea Bissau", (ND, PK, PK)),
        ("the Guinea-Bissau", "Guinea", "Bissau", (ND, CK, CK)),
        ("Nigeria", "Niger", "Mali", (ND, ND, ND)),
        ("Nigeria", "Niger", "Nigeria", (PK, PK, PK)),
        ("new  york", "New York", "new  York", (PK, PK, PK)),  # the context agrees but for a space
    ],
)
def test_of_two_objects_that_both_fit_the_longer_one_was_said(
    answer: str, context: str, memory: str, codes: tuple[int, int, int]
) -> None:
    assert sources(answer, context, memory) == codes
    assert scoring.process_results({"counter_object": context, "parametric_object": memory}, [f" {answer}"]) == {
        name: float(SOURCES.index(name) == codes[0]) for name in SOURCES
    }


def test_the_longer_of_several_names_counts() -> None:
    assert sources("Big Apple City", "Rome", "Paris", ["Big"], ["Big Apple"]) == (ND, ND, PK)
    assert sources("Big Apple City", "Rome", "Paris", ["Big", "Big Apple"], ["Big Apple", "Apple"]) == (ND, ND, CK)


def test_objects_of_which_one_begins_with_the_other_are_told() -> None:
    assert nested("Guinea", "Guinea-Bissau") and nested("New York City", "the new york")
    assert not nested("Niger", "Nigeria") and not nested("Paris", "paris") and not nested("York", "New York")


def test_a_name_is_said_in_whole_words_and_as_the_answer_has_it() -> None:
    said = [("Niger;", "Niger"), ("niger river", "niger"), ("The Beatles were", "The Beatles"), ("Porto-Novo", None)]
    assert [name_said(answer, ["Niger", "Beatles", "Porto"]) for answer, _ in said] == [name for _, name in said]
    assert name_said("New York City is", ["New York", "New York City"]) == "New York City"
    assert name_said("Nigeria", ["Niger"]) is name_said("New", ["New York"]) is name_said("? -", ["?"]) is None
    assert name_said("anything", []) is None


words = st.text("abcABC 'é.-", max_size=8)


@given(words, words, words, st.lists(words, max_size=2), st.lists(words, max_size=2))
def test_a_looser_matching_only_decides_what_was_undecided(
    answer: str, context: str, memory: str, some: list[str], others: list[str]
) -> None:
    exact, normalised, alias = sources(answer, context, memory, some, others)
    assert exact == knowledge_source(answer, context, memory)
    assert exact in (ND, normalised) and normalised in (ND, alias)


def test_other_names_go_both_ways_and_stay_within_a_relation() -> None:
    known = other_names(
        [
            ("capital", ("Washington", "Washington DC")),
            ("capital", ("Paris",)),
            ("state", ("Washington", "Evergreen State")),
        ]
    )
    assert known["capital"]["washington"] == ("Washington DC",)
    assert known["capital"]["washington dc"] == ("Washington",)
    assert known["state"]["washington"] == ("Evergreen State",)
    assert "paris" not in known["capital"]
