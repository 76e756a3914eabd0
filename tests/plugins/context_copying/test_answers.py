"""What the model answers when it is asked: which answers are dropped, and which become counter-objects."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from conflicts import Scripted
from families import tiny_hf, tokenizer
from harness_plugins.context_copying.task.knowledge_conflict import KnowledgeConflict
from slow_conflicts import (
    FILTERS,
    counts,
    table,
)

from harness.errors import HarnessError
from harness.model.model import Model
from harness.model.wrapping import wrap

# -- the filters, with answers that were written down ------------------------------------------------------------------


SCRIPT = [  # relation, subject, object, what the model says, the step that drops it
    ("capital", "France", "Paris", " Paris.", None),
    ("capital", "Spain", "Madrid", " Madrid\nThe", None),
    ("capital", "Italy", "Rome", " rome, the", None),
    ("capital", "Germany", "Berlin", " Berlin (the", None),
    ("capital", "Peru", "Lima", " Berlin", None),  # wrong, and the same as another's: memory is what the model says
    ("capital", "Cuba", "Havana", " berlin", None),  # the commoner spelling is the one that contradicts
    ("capital", "Fiji Islands", "Suva", " Suva", None),  # right: no echo, although it is the example's object
    ("capital", "Greece", "Athens", ".", "empty"),
    ("capital", "Norway", "Oslo", ' "Oslo"', "empty"),
    ("capital", "Mexico", "Mexico City", " Mexico City", "overlap"),
    ("capital", "the city of Luxembourg", "Luxembourg", " Luxembourg", "overlap"),
    ("capital", "Algeria", "Algiers", " Algiers", "overlap"),  # Jaro-Winkler .93
    ("capital", "Kenya", "Nairobi", " Suva", "echo"),
    ("capital", "Malta", "Valletta", " FIJI.", "echo"),
    ("capital", "Japan", "Tokyo", " Toyota", "shared entity"),
    ("capital", "Portugal", "Lisbon", " Lisbon", "shared entity"),  # the subject of a book, too
    ("city_country", "Lyon", "France", " Rome", "too few objects"),  # same group as "capital": not shared
    ("city_country", "Turin", "Italy", " Italy", "too few objects"),
    ("car_maker", "the Corolla", "Toyota", " toyota", "shared entity"),
    ("car_maker", "the Panda", "Fiat", " Fiat", "too few objects"),
    ("car_maker", "the Focus", "Ford", " Ford", "too few objects"),
    ("car_maker", "the Golf", "Volkswagen", " VW", "too few objects"),
    ("book_author", "Portugal", "Someone", " Nobody", "shared entity"),
]


@pytest.fixture
def long_llama() -> Model:
    """A tiny Llama of bytes, with positions enough for whole prompts."""
    hf = tiny_hf("llama")
    hf.config.max_position_embeddings = 1024
    return wrap(hf, tokenizer(), "llama")


def test_every_filter_drops_what_it_should_and_counts_it(tmp_path: Path, long_llama: Model) -> None:
    task = KnowledgeConflict(data=table(tmp_path / "facts.jsonl", [row[:3] for row in SCRIPT]), known="any")
    engine = Scripted(long_llama, [row[3] for row in SCRIPT])
    prepared = task.prepare(engine, None, 0)
    left = len(SCRIPT)
    expected = {"facts": (left, 0)}
    for name in FILTERS:
        dropped = sum(row[4] == name for row in SCRIPT)
        left -= dropped
        expected[name] = (left, dropped)
    assert left == sum(row[4] is None for row in SCRIPT) == 7
    assert counts(prepared) == expected | {"prompts": (21, 0), "any answer": (21, 0)}
    assert "right about 5 of these facts" in prepared.steps[-1].why
    assert {x.fields["subject"] for x in prepared.prompts if not x.fields["right"]} == {"Peru", "Cuba"}
    assert {prompt.fields["subject"] for prompt in prepared.prompts} == {row[1] for row in SCRIPT if row[4] is None}
    # right: France, Spain, Italy, Germany, Fiji Islands, Mexico, Luxembourg, Algeria, Portugal, Turin, Corolla,
    # Panda, Focus
    assert (prepared.details["facts_recalled"], prepared.details["facts_asked"]) == (13, len(SCRIPT))
    assert engine.asked[0] == (
        "Complete the statement with the name of the city that is its capital.\n"
        "The capital of Fiji is Suva.\nThe capital of France is"
    )
    assert prepared.details["elicitation_prompt"] == engine.asked[0]


def test_pairs_of_which_one_object_begins_with_the_other_are_counted_and_have_no_log_odds(
    tmp_path: Path, long_llama: Model
) -> None:
    said = {"Ghana": "Guinea", "Mali": "Guinea Bissau", "Benin": "Niger", "Chad": "Nigeria"}
    rows = [("capital", subject, answer) for subject, answer in said.items()]
    task = KnowledgeConflict(data=table(tmp_path / "facts.jsonl", rows))
    prepared = task.prepare(Scripted(long_llama, [f" {answer}." for answer in said.values()]), None, 0)
    assert prepared.details["nested_objects"] == 2  # Guinea and Guinea Bissau, each against the other
    assert (prepared.steps[-1].name, prepared.steps[-1].kept) == ("nested objects", 12)
    assert "in 2 of them" in prepared.steps[-1].why
    tokens = {tuple(x.fields["first_tokens"]) for x in prepared.prompts}
    assert all(a == b for a, b in tokens)  # bytes: what log-odds leave out and say so


def test_counter_objects_are_other_answers_of_the_relation_in_their_commonest_spelling(
    tmp_path: Path, long_llama: Model
) -> None:
    """To a tokeniser of bytes every object begins with a space: all are equally likely, and the alphabet decides."""
    task = KnowledgeConflict(data=table(tmp_path / "facts.jsonl", [row[:3] for row in SCRIPT]), known="any")
    prompts = task.prepare(Scripted(long_llama, [row[3] for row in SCRIPT]), None, 0).prompts
    chosen: dict[str, list[str]] = {}
    for prompt in prompts:
        chosen.setdefault(prompt.fields["subject"], []).append(prompt.fields["counter_object"])
    assert chosen == {
        "France": ["Berlin", "Madrid", "Suva"],
        "Spain": ["Berlin", "Paris", "Suva"],
        "Italy": ["Berlin", "Madrid", "Paris"],
        "Germany": ["Madrid", "Paris", "Suva"],
        "Peru": ["Madrid", "Paris", "Suva"],
        "Cuba": ["Madrid", "Paris", "Suva"],
        "Fiji Islands": ["Berlin", "Madrid", "Paris"],
    }
    cuba = next(prompt for prompt in prompts if prompt.fields["subject"] == "Cuba")
    assert cuba.fields["parametric_object"] == "berlin"
    assert cuba.text == "The capital of Cuba is Madrid. The capital of Cuba is"


@pytest.mark.parametrize(("wanted", "kept"), [(1, 12), (2, 10), (4, 7), (5, 0)])
def test_more_or_fewer_counter_objects(tmp_path: Path, long_llama: Model, wanted: int, kept: int) -> None:
    data = table(tmp_path / "facts.jsonl", [row[:3] for row in SCRIPT])
    task = KnowledgeConflict(data=data, counter_objects=wanted, known="any")
    engine = Scripted(long_llama, [x[3] for x in SCRIPT])
    if not kept:
        with pytest.raises(HarnessError, match="no prompt is left after the filters"):
            task.prepare(engine, None, 0)
        return
    prepared = task.prepare(engine, None, 0)
    assert counts(prepared)["too few objects"][0] == kept
    assert len(prepared.prompts) == wanted * kept
    assert all(prompt.fields["counter_object"] != prompt.fields["parametric_object"] for prompt in prepared.prompts)


KNOWN = [  # relation, subject, object, other names, what the model says; the step that drops it, or what it stands for
    ("capital", "France", "Paris", [], " Paris is a city in", "Paris"),
    ("capital", "Spain", "Madrid", [], " Barcelona.", "wrong"),
    ("capital", "Italy", "Rome", ["Roma"], " roma", "roma"),
    ("capital", "the United States", "Washington", ["Washington DC"], " Washington DC;", "Washington DC"),
    ("capital", "Guinea", "Conakry", [], " Conakry-Kaloum", "wrong"),
    ("capital", "Mexico", "Mexico City", [], " Mexico City", "overlap"),
    ("capital", "Greece", "Athens", [], ".", "empty"),
    ("capital", "Japan", "Toyota", [], " Toyota", "shared entity"),  # nobody is asked about the car, or need be
    ("car_maker", "the Corolla", "Toyota", [], " Honda", "wrong"),
    ("city_country", "Lyon", "France", [], " France", "too few objects"),
    ("city_country", "Turin", "Italy", [], " Italy", "too few objects"),
]


def test_only_what_the_model_knows_is_contradicted_and_only_with_objects_of_the_table(
    tmp_path: Path, long_llama: Model
) -> None:
    rows = [dict(zip(("relation", "subject", "object", "aliases"), row, strict=False)) for row in KNOWN]
    data = tmp_path / "facts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prepared = KnowledgeConflict(data=str(data)).prepare(Scripted(long_llama, [row[4] for row in KNOWN]), None, 0)
    left, expected = len(KNOWN), {"facts": (len(KNOWN), 0)}
    for name in ["empty", "wrong", *FILTERS[1:]]:
        dropped = sum(row[5] == name for row in KNOWN)
        left -= dropped
        expected[name] = (left, dropped)
    assert counts(prepared) == expected | {"prompts": (9, 0)}
    chosen: dict[str, list[str]] = {}
    for prompt in prepared.prompts:
        assert prompt.fields["right"]
        chosen.setdefault(prompt.fields["parametric_object"], []).append(prompt.fields["counter_object"])
    # Madrid and Conakry are capitals whether or not the model knows whose; no other name of an object contradicts it.
    assert chosen == {
        "Paris": ["Athens", "Conakry", "Madrid"],
        "roma": ["Athens", "Conakry", "Madrid"],
        "Washington DC": ["Athens", "Conakry", "Madrid"],
    }
    assert prepared.details["facts_recalled"] == 7


@pytest.mark.parametrize("known", [True, "true"])
def test_known_may_be_written_as_a_truth_value(known: object) -> None:
    assert KnowledgeConflict(known=known).identity() == KnowledgeConflict().identity()  # type: ignore[arg-type]


@pytest.mark.parametrize("known", ["true", "any"])
def test_a_limit_is_spread_over_relations_or_takes_enough_of_each(
    tmp_path: Path, long_llama: Model, known: str
) -> None:
    names = ["capital", "continent", "currency", "official_language"]
    rows = [(name, f"Land{i}{name}", f"Town{i}") for name in names for i in range(20)]
    data = table(tmp_path / "facts.jsonl", rows)
    engine = Scripted(long_llama, [" Nowhere"] * 12)
    task = KnowledgeConflict(data=data, known=known, counter_objects=3)  # type: ignore[arg-type]
    with pytest.raises(HarnessError, match="no prompt is left"):
        task.prepare(engine, 12, 0)
    asked = "\n".join(text.split("\n")[-1] for text in engine.asked)
    found = Counter(re.findall(r"Land\d+(\w+)", asked))
    assert found == ({name: 3 for name in names} if known == "true" else {"capital": 12})


def test_when_nothing_is_left_the_filter_that_took_most_is_named_and_not_the_limit(
    tmp_path: Path, long_llama: Model
) -> None:
    data = table(tmp_path / "facts.jsonl", [("capital", f"Land{i}", f"Town{i}") for i in range(20)])
    engine = Scripted(long_llama, [" North", ".", ",", "\n", " Land19"])
    with pytest.raises(HarnessError, match=r'most \(3\) were dropped because the answer is empty \(step "empty"\)'):
        KnowledgeConflict(data=data).prepare(engine, 5, 0)
