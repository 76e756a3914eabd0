"""Published tables of facts by name: tiny ones, laid out as they are on the hub and as their authors publish them."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT, reference
from harness_plugins.context_copying.task.knowledge_conflict import KnowledgeConflict
from harness_plugins.knowledge_attribution.task import TargetProbability

from harness.data import FactTable
from harness.data.named_tables import NAMED
from harness.errors import HarnessError
from harness.plugin import Task
from harness.plugin.catalogue import catalogue
from harness.plugin.specs import parse_spec
from harness.running.registry import load_registry

POPQA = [  # columns of akariasai/PopQA, test.tsv
    {"id": "1", "subj": "George Rankin", "prop": "occupation", "obj": "politician", "s_pop": "142",
     "question": "What is George Rankin's occupation?",
     "possible_answers": '["politician", "political leader", "pol\\u00edtico"]'},
    {"id": "2", "subj": "John Mayne", "prop": "occupation", "obj": "journalist", "s_pop": "41",
     "question": "What is John Mayne's occupation?", "possible_answers": '["journalist"]'},
    {"id": "3", "subj": "Lviv", "prop": "capital of", "obj": "Lviv Oblast", "s_pop": "9",
     "question": "What is Lviv the capital of?", "possible_answers": '["Lviv Oblast"]'},
]  # fmt: skip
COUNTERFACT = [  # columns of NeelNanda/counterfact-tracing
    {"relation": "The mother tongue of {} is", "relation_prefix": "The mother tongue of", "relation_suffix": " is",
     "prompt": f"The mother tongue of {subject} is", "relation_id": "P103", "target_false_id": "Q1860",
     "target_true_id": "Q150", "target_true": f" {said}", "target_false": " English", "subject": f" {subject}"}
    for subject, said in (("Danielle Darrieux", "French"), ("Thomas Joannes", "Dutch"), ("Go Hyeon", "Korean"))
]  # fmt: skip
PARACONFLICT = [  # columns of gaotang/ParaConflict: a subject stands there once for each thing that distracts
    {"Category": "Athelete Sport", "Subject": subject, "Answer": said, "Distracted Token": other,
     "Clean Prompt": f"{subject} plays the sport of", "Coherent Conflict": "...",
     "Substitution Conflict": f"{subject} plays the sport of {other}. {subject} plays the sport of"}
    for subject, said in (
        ("Serena Williams", "['tennis']"), ("Conor McGregor", "['mixed martial arts', 'MMA']"), ("Pele", "['soccer']")
    )
    for other in ("chess", "golf")
]  # fmt: skip
PARAREL = [  # columns of coastalcph/pararel_patterns: a subject stands there once for each pattern
    {"relation": "P30.jsonl", "subject": subject, "object": "Antarctica", "template": template,
     "query": template.replace("[X]", subject).replace(" [Y].", ""), "candidates": ["Antarctica", "Asia"]}
    for subject in ("Lavoisier Island", "Brabant Island", "Mount Erebus")
    for template in ("[X] is located in [Y].", "[X] is a part of the continent of [Y].")
]  # fmt: skip

PARAREL_FACTS = [
    {"subject": "WWE", "relation": "is-headquarter", "object": "Stamford", "relation_phrase": "is headquartered in",
     "property_id": "P159"},
    {"subject": "Agence France", "relation": "is-headquarter", "object": "Paris",
     "relation_phrase": "is headquartered in", "property_id": "P159"},
]  # fmt: skip
PARAREL_RELATIONS = [
    {"relation": "is-headquarter", "relation_group": "geography", "object_description": "the name of a place",
     "example_subject": "BNP Paribas", "example_phrase": "is headquartered in", "example_object": "Paris"}
]  # fmt: skip


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="\t")
            table.writeheader()
            table.writerows(rows)
    return str(path)


def facts(data: str, **params: Any) -> list[tuple[str, str, str, tuple[str, ...]]]:
    return [(x.relation.name, x.query, x.object, x.aliases) for x in KnowledgeConflict(data=data, **params).facts()]


def test_popqa_is_asked_in_statements(tmp_path: Path) -> None:
    copy = write(tmp_path / "test.tsv", POPQA)
    assert facts(f"popqa:{copy}") == [
        ("occupation", "The occupation of George Rankin is", "politician",
         ("politician", "political leader", "pol\u00edtico")),
        ("occupation", "The occupation of John Mayne is", "journalist", ("journalist",)),
        ("capital of", "Lviv is the capital of", "Lviv Oblast", ("Lviv Oblast",)),
    ]  # fmt: skip


def test_counterfact_of_the_hub_and_of_its_authors(tmp_path: Path) -> None:
    asked = [("P103", f"The mother tongue of {subject} is", said, ()) for subject, said in
             (("Thomas Joannes", "Dutch"), ("Go Hyeon", "Korean"))]  # fmt: skip
    assert facts(f"counterfact:{write(tmp_path / 'hub.jsonl', COUNTERFACT)}") == asked  # the first is the example
    rows = [
        {"case_id": i, "requested_rewrite": {"prompt": "The mother tongue of {} is", "relation_id": "P103",
         "target_new": {"str": "English"}, "target_true": {"str": row["target_true"].strip()},
         "subject": row["subject"].strip()}}
        for i, row in enumerate(COUNTERFACT)
    ]  # fmt: skip
    write(tmp_path / "rome" / "counterfact.json", rows)
    assert facts(f"counterfact:{tmp_path / 'rome'}") == asked


@pytest.mark.parametrize("as_lists", [False, True])
def test_paraconflict_has_lists_of_answers_and_asks_each_subject_once(tmp_path: Path, as_lists: bool) -> None:
    import ast

    rows = [{**row, "Answer": ast.literal_eval(row["Answer"])} if as_lists else row for row in PARACONFLICT]
    assert facts(f"paraconflict:{write(tmp_path / 'test.jsonl', rows)}") == [
        ("Athelete Sport", "Conor McGregor plays the sport of", "mixed martial arts", ("MMA",)),
        ("Athelete Sport", "Pele plays the sport of", "soccer", ()),
    ]


NOT_SHOWN = ("Brabant Island", "Mount Erebus")


def test_pararel_of_the_hub_has_one_pattern_a_fact(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    write(tmp_path / "pararel" / "data" / "train.jsonl", PARAREL)
    asked = [
        ("P30.jsonl", f"{subject} is located in", "Antarctica", ()) for subject in ("Brabant Island", "Mount Erebus")
    ]
    assert facts(f"pararel:{tmp_path / 'pararel'}") == asked  # a clone: the hub's files in a folder


def test_pararel_of_the_paper_is_facts_and_relations_in_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "pararel_facts.jsonl", PARAREL_FACTS)
    write(tmp_path / "pararel_relations.json", PARAREL_RELATIONS)
    asked = [("is-headquarter", f"{x['subject']} is headquartered in", x["object"], ()) for x in PARAREL_FACTS]
    assert facts(f"pararel:{tmp_path}") == asked == facts(f"pararel:{tmp_path / 'pararel_facts.jsonl'}")
    relation = KnowledgeConflict(data=f"pararel:{tmp_path}").facts()[0].relation
    assert (relation.group, relation.example) == ("geography", "BNP Paribas is headquartered in Paris")
    before = KnowledgeConflict(data=f"pararel:{tmp_path}").data_digest()
    write(tmp_path / "pararel_relations.json", [{**PARAREL_RELATIONS[0], "relation_group": "companies"}])
    assert KnowledgeConflict(data=f"pararel:{tmp_path}").data_digest() != before


def test_pararel_as_the_papers_repository_has_it(tmp_path: Path) -> None:
    """Two tables of other columns, the facts' with a comma for every cell (the sheet saved as CSV)."""
    facts_of = [
        {"statement_subject": x["subject"], "statement_relation": x["relation_phrase"], "statement_object": x["object"],
         "rel_lemma": x["relation"], "statement": f"{x['subject']} {x['relation_phrase']} {x['object']}."}
        for x in PARAREL_FACTS
    ]  # fmt: skip
    relations = [
        {"relation": "is-headquarter", "relation_group_id": "geography", "object_generation_description": "a place",
         "generation_statement_1": "BNP Paribas is headquartered in", "generation_object_1": "Paris"}
    ]  # fmt: skip
    for name, rows in (
        ("raw_pararel_with_correctly_reformatted_statements", facts_of),
        ("relation_groups_by_row_with_rel_gen_desc", relations),
    ):
        with (tmp_path / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    asked = [("is-headquarter", f"{x['subject']} is headquartered in", x["object"], ()) for x in PARAREL_FACTS]
    assert facts(f"pararel:{tmp_path}") == asked
    relation = KnowledgeConflict(data=f"pararel:{tmp_path}").facts()[0].relation
    assert (relation.group, relation.description) == ("geography", "a place")
    assert relation.example == "BNP Paribas is headquartered in Paris"
    (tmp_path / "relation_groups_by_row_with_rel_gen_desc.csv").unlink()
    with pytest.raises(HarnessError, match=r"relation_groups_by_row_with_rel_gen_desc\.csv"):
        KnowledgeConflict(data=f"pararel:{tmp_path}").data_digest()


def test_a_copy_that_is_not_here_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = load_registry(ROOT / "registry.yaml").find("copying-gpt2")[0]
    task = catalogue().build(Task, run.task, "--task")
    assert isinstance(task, KnowledgeConflict)
    with pytest.raises(HarnessError, match=r'no "knowledge-probing-data" here, a copy of pararel with .*\.csv in it'):
        task.data_digest()


def test_the_papers_facts_have_their_groups_descriptions_and_examples() -> None:
    found = KnowledgeConflict(data=f"pararel:{reference('data')}").facts()
    relations = {fact.relation.name: fact.relation for fact in found}
    rows = json.loads((reference("data") / "pararel_relations.json").read_text(encoding="utf-8"))
    assert len(found) == 4677  # 4,688 without those that stand there twice
    for row in rows:
        if row["relation"] in relations:
            relation = relations[row["relation"]]
            assert (relation.group, relation.description) == (row["relation_group"], row["object_description"])
            assert relation.example.startswith(f"{row['example_subject']} ")
    assert len({relation.group for relation in relations.values()}) == 8


def test_what_is_given_explicitly_stays(tmp_path: Path) -> None:
    copy = write(tmp_path / "test.tsv", POPQA)
    spec = parse_spec(
        f'knowledge_conflict:data=popqa:{copy},columns={{object: question}},query="{{subject}}:"', "--task"
    )
    task = catalogue().build(Task, spec, "--task")
    assert isinstance(task, KnowledgeConflict)
    assert next((x.query, x.object) for x in task.facts()) == ("George Rankin:", POPQA[0]["question"])


HUB = {"popqa": POPQA, "counterfact": COUNTERFACT, "paraconflict": PARACONFLICT, "pararel": PARAREL}


def test_six_kinds_are_bundled() -> None:
    table = FactTable(data="six_kinds")
    facts = table.facts()
    kinds = Counter(fact.relation.name for fact in facts)
    assert set(kinds) == {"language", "capital", "country", "colour", "number", "month"} and min(kinds.values()) == 60
    assert len({fact.query for fact in facts}) == len(facts) and all(fact.object for fact in facts)
    assert "The number of legs of a spider is" in {fact.query for fact in facts if fact.object == "eight"}
    assert table.data_digest() != FactTable().data_digest()


def test_every_published_table_is_tested() -> None:
    assert set(HUB) == set(NAMED) - {"six_kinds"}


@pytest.mark.parametrize("name", HUB)
def test_without_a_copy_the_hub_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    rows = HUB[name]

    def load_dataset(path: str, subset: str | None, *, split: str, revision: str | None) -> Any:
        asked.append((path, split))
        return rows

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    table = FactTable(data=name)
    assert len(table.data_digest()) == 64
    assert len(table.facts()) >= 2
    assert asked == [(NAMED[name].home, NAMED[name].split)]
    assert FactTable(data=name, split="part").laid_out().split == "part"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("pararell", '"pararell" is no file here, and no table is called so. Did you mean "pararel"?'),
        ("PopQA:x", 'Did you mean "popqa"?'),
        ("popqa:", 'after "popqa:" a file, a folder or an id on the hub is expected'),
    ],
)
def test_a_misspelt_name_is_told_before_anything_is_read(data: str, says: str) -> None:
    for task in ("knowledge_conflict", "target_probability"):
        with pytest.raises(HarnessError) as caught:
            catalogue().build(Task, parse_spec({"name": task, "data": data}, "--task"), "--task")
        assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_copy_with_other_columns_is_refused(tmp_path: Path) -> None:
    copy = write(tmp_path / "facts.jsonl", [{"head": "France", "tail": "Paris"}])
    for task in (KnowledgeConflict(data=f"popqa:{copy}"), TargetProbability(data=f"popqa:{copy}")):
        with pytest.raises(HarnessError, match=r"not laid out like akariasai/PopQA .*; it has the columns head, tail"):
            task.data_digest()
    with pytest.raises(HarnessError, match=r"there is no such file|cannot be read"):
        KnowledgeConflict(data=f"popqa:{tmp_path / 'absent.tsv'}").data_digest()
