"""The fact table and the relation definitions of the task `knowledge_conflict`."""

import json
from collections import Counter, defaultdict

import pytest
import yaml
from checkout import ROOT
from rapidfuzz.distance import JaroWinkler

TASK = ROOT / "tasks" / "knowledge_conflict"
STOPS = {'"', ".", "\n", ",", "(", "[", "]", "<"}
FORBIDDEN = STOPS | {")"}


@pytest.fixture(scope="module")
def facts():
    lines = (TASK / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def config():
    return yaml.safe_load((TASK / "definition.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def relations(config):
    return {relation["relation"]: relation for relation in config["relations"]}


def norm(text):
    return text.strip().lower()


def test_size(facts, relations):
    assert len(facts) >= 1500
    assert len({fact["relation"] for fact in facts}) >= 15
    assert len({relation["group"] for relation in relations.values()}) >= 4


def test_config(config):
    assert config["task"] == "knowledge_conflict"
    assert config["dataset_path"] == "json"
    assert (TASK / config["dataset_kwargs"]["data_files"]).is_file()
    assert config["output_type"] == "generate_until"
    generation = config["generation_kwargs"]
    assert generation["max_gen_toks"] == 10
    assert generation["do_sample"] is False
    assert set(generation["until"]) == STOPS and len(generation["until"]) == len(STOPS)
    assert config["counter_objects"] == 3
    assert config["overlap_similarity"] == 0.8
    prompts = config["prompts"]
    assert prompts["elicitation"] == "Complete the statement with {description}.\n{example}\n{query}"
    assert prompts["conflict"] == "{query} {counter_object}. {query}"
    assert set(prompts) == {
        "elicitation", "conflict", "statement", "irrelevant", "paragraph", "document", "instruction"
    }  # fmt: skip
    assert config["metadata"]["version"] == 1.0


def test_keys_and_types(facts):
    for fact in facts:
        assert (
            {"relation", "subject", "object"}
            <= set(fact)
            <= {
                "relation",
                "subject",
                "object",
                "aliases",
            }
        ), fact
        for key in ("relation", "subject", "object"):
            assert isinstance(fact[key], str) and fact[key], fact
        if "aliases" in fact:
            aliases = fact["aliases"]
            assert isinstance(aliases, list) and aliases, fact
            assert all(isinstance(alias, str) and alias for alias in aliases), fact
            assert fact["object"] not in aliases, fact
            assert len(set(aliases)) == len(aliases), fact


def test_characters_and_spaces(facts):
    for fact in facts:
        for text in (fact["subject"], fact["object"], *fact.get("aliases", [])):
            assert text == " ".join(text.split()), fact
        for text in (fact["object"], *fact.get("aliases", [])):
            assert not FORBIDDEN & set(text), fact
        assert not {'"', "{", "}"} & set(fact["subject"]), fact


def test_no_duplicates_or_contradictions(facts):
    counts = Counter((fact["relation"], norm(fact["subject"])) for fact in facts)
    assert [key for key, count in counts.items() if count > 1] == []


def test_object_has_one_spelling(facts):
    """No object of a relation differs from another only in case or is its alias."""
    objects = defaultdict(set)
    for fact in facts:
        objects[fact["relation"]].add(fact["object"])
    for relation, names in objects.items():
        assert len({norm(name) for name in names}) == len(names), relation
    owners = defaultdict(set)
    for fact in facts:
        for alias in fact.get("aliases", []):
            assert alias not in objects[fact["relation"]], fact
            owners[fact["relation"], norm(alias)].add(fact["object"])
    assert {key: names for key, names in owners.items() if len(names) > 1} == {}


def test_relations_declared(facts, config, relations):
    assert len(relations) == len(config["relations"])
    counts = Counter(fact["relation"] for fact in facts)
    assert set(counts) == set(relations)
    assert {name: count for name, count in counts.items() if count < 20} == {}


def test_rows_of_a_relation_are_contiguous(facts):
    """The order inside a relation is the popularity rank."""
    names = [fact["relation"] for fact in facts]
    starts = [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    assert len(starts) == len(set(starts))


def test_templates(relations):
    for name, relation in relations.items():
        assert set(relation) == {"relation", "group", "query", "description", "example"}, name
        query = relation["query"]
        assert query.count("{subject}") == 1, name
        assert "{" not in query.replace("{subject}", ""), name
        assert query.startswith("{subject}") or query[0].isupper(), name
        assert not query.endswith("{subject}"), name
        assert query == query.strip() and query[-1].isalpha(), name
        assert relation["group"] and relation["description"], name
        assert not relation["description"].endswith("."), name
    assert len({relation["query"] for relation in relations.values()}) == len(relations)


def test_examples_are_not_in_the_table(facts, relations):
    subjects, objects = defaultdict(set), defaultdict(set)
    for fact in facts:
        subjects[fact["relation"]].add(norm(fact["subject"]))
        objects[fact["relation"]].update(map(norm, [fact["object"], *fact.get("aliases", [])]))
    for name, relation in relations.items():
        example = relation["example"]
        assert set(example) == {"subject", "object"}, name
        assert norm(example["subject"]) not in subjects[name], name
        assert norm(example["object"]) not in objects[name], name
        assert not FORBIDDEN & set(example["object"]), name


def test_distinct_objects(facts):
    objects = defaultdict(set)
    for fact in facts:
        objects[fact["relation"]].add(norm(fact["object"]))
    assert {name: len(found) for name, found in objects.items() if len(found) < 4} == {}


def test_subject_object_overlap(facts, config):
    limit = config["overlap_similarity"]
    overlapping = [
        (subject, object_)
        for subject, object_ in ((norm(f["subject"]), norm(f["object"])) for f in facts)
        if subject in object_ or object_ in subject or JaroWinkler.similarity(subject, object_) >= limit
    ]
    assert 0 < len(overlapping) < 0.05 * len(facts), overlapping


def test_cross_group_overlap(facts, relations):
    groups = defaultdict(set)
    for fact in facts:
        for key in ("subject", "object"):
            groups[norm(fact[key])].add(relations[fact["relation"]]["group"])
    shared = {entity for entity, found in groups.items() if len(found) > 1}
    dropped = [f for f in facts if {norm(f["subject"]), norm(f["object"])} & shared]
    assert 0 < len(dropped) < 0.1 * len(facts), dropped
