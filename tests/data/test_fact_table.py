"""Reading fact tables: any column names, and a sentence with the line for everything that is wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from checkout import reference
from harness_plugins.context_copying.task.knowledge_conflict import KnowledgeConflict, cut, knowledge_source, overlap
from rapidfuzz.distance import JaroWinkler

from harness.errors import HarnessError
from harness.files.yaml import load_yaml
from harness.plugin import Task
from harness.plugin.catalogue import catalogue
from harness.plugin.specs import parse_spec

ROW = {"relation": "capital", "subject": "France", "object": "Paris"}


def task(**params: object) -> KnowledgeConflict:
    return KnowledgeConflict(**params)


def table(folder: Path, *rows: object, name: str = "facts.jsonl") -> str:
    path = folder / name
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def test_the_bundled_table_is_the_default() -> None:
    facts = task().facts()
    assert len(facts) >= 1500
    assert facts[0].query == "The capital of France is" or facts[0].query.endswith(" is")
    assert len({fact.relation.group for fact in facts}) >= 4


def test_a_csv_with_other_column_names(tmp_path: Path) -> None:
    path = table(tmp_path, "head,rel,tail", "France,capital,Paris", "Spain,capital,Madrid", name="facts.csv")
    facts = task(data=path, columns={"subject": "head", "relation": "rel", "object": "tail"}).facts()
    assert [(x.line, x.subject, x.object) for x in facts] == [(2, "France", "Paris"), (3, "Spain", "Madrid")]


def test_cells_and_texts_keep_what_only_splitlines_takes_for_a_line_break(tmp_path: Path) -> None:
    subjects = ["United\nKingdom", "United\r\nKingdom", "United\u2028Kingdom", "A\x85B\x0cC", 'say "no", twice']
    csv_path, jsonl_path = tmp_path / "facts.csv", tmp_path / "facts.jsonl"
    with csv_path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["relation", "subject", "object"], *(["capital", x, "London"] for x in subjects)])
    rows = [{"relation": "capital", "subject": x, "object": "London"} for x in subjects]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    jsonl_path.write_bytes(text.encode("utf-8-sig"))
    assert [x.subject for x in task(data=str(csv_path)).facts()] == subjects
    assert [(x.line, x.subject) for x in task(data=str(jsonl_path)).facts()] == list(enumerate(subjects, 1))
    assert [x.line for x in task(data=str(csv_path)).facts()] == [2, 4, 6, 7, 8]  # where each row begins
    table_path = tmp_path / "facts.json"
    table_path.write_bytes(json.dumps(rows, ensure_ascii=False).encode("utf-8-sig"))
    assert [x.subject for x in task(data=str(table_path)).facts()] == subjects


def test_a_definition_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "definition.yml"
    path.write_text("a: 1\n", encoding="utf-8-sig")
    assert load_yaml(path).data == {"a": "1"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('subject,relation,object\n"France,capital,Paris\n', "this is not valid CSV"),
        (f"subject,relation,object\n{'x' * 200_000},capital,Paris\n", "line 2: this is not valid CSV .field larger"),
        ("subject,relation,subject\nFrance,capital,Paris\n", 'there are two columns "subject"'),
        ('subject,relation,object\n"a\nb",capital\n', "line 2: expected 3 columns"),
    ],
)
def test_a_wrong_table_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "facts.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(HarnessError, match=says) as caught:
        task(data=str(path)).facts()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([ROW, "{not json"], "line 2: this is not valid JSON"),
        ([ROW, "[1]"], "line 2: expected an object with named columns"),
        ([ROW, {"relation": "capital", "subject": "Spain"}], 'line 2: expected text in the column "object"'),
        ([ROW, {**ROW, "subject": "Spain", "object": " "}], 'line 2: expected text in the column "object"'),
        ([ROW, {**ROW, "subject": "Spain", "object": 3}], 'line 2: expected text in the column "object", but it is 3'),
        (
            [ROW, {**ROW, "relation": "capitol"}],
            'line 2: the relation "capitol" is not defined. Did you mean "capital"',
        ),
        ([ROW, ROW], "line 2: the question .* stands already in line 1"),
        ([ROW, {**ROW, "object": "Lyon"}], "line 2: the question .* stands already in line 1"),
        ([], "there are no facts in it"),
        (["", ""], "there are no facts in it"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, rows: list[object], says: str) -> None:
    path = table(tmp_path, *rows)
    with pytest.raises(HarnessError, match=says) as caught:
        task(data=path).facts()
    assert path in str(caught.value)


def test_duplicates_can_be_dropped(tmp_path: Path) -> None:
    path = table(tmp_path, ROW, {**ROW, "object": "Lyon"})
    assert [x.object for x in task(data=path, duplicates="drop").facts()] == ["Paris"]


def test_a_csv_row_with_missing_columns_is_named(tmp_path: Path) -> None:
    path = table(tmp_path, "subject,relation,object", "France,capital", name="facts.csv")
    with pytest.raises(HarnessError, match="line 2: expected 3 columns"):
        task(data=path).facts()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="there is no such file"):
        task(data=str(tmp_path / "absent.jsonl")).data_digest()
    with pytest.raises(HarnessError, match="cannot be read"):
        task(data=str(tmp_path / "absent.jsonl")).facts()


def test_a_hub_id_that_cannot_be_reached_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HarnessError, match='"nobody/no-such-facts" is neither a file here nor a dataset'):
        task(data="nobody/no-such-facts").facts()


def test_a_template_with_an_unknown_column_is_explained(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="cannot be filled"):
        task(data=table(tmp_path, ROW), query="{subject} {phrase}").facts()


def test_the_digest_follows_the_contents(tmp_path: Path) -> None:
    path = table(tmp_path, ROW)
    before = task(data=path).data_digest()
    assert before == task(data=path).data_digest()
    table(tmp_path, ROW, {**ROW, "subject": "Spain", "object": "Madrid"})
    assert task(data=path).data_digest() != before


PARAREL = (
    "knowledge_conflict:data={facts},relations={relations},query={{subject}} {{relation_phrase}},"
    "example={{example_subject}} {{example_phrase}} {{example_object}},duplicates=drop,"
    "relation_columns={{group: relation_group, description: object_description}}"
)


def test_pararel_loads_by_column_mapping() -> None:
    text = PARAREL.format(
        facts=reference("data/pararel_facts.jsonl"), relations=reference("data/pararel_relations.json")
    )
    spec = parse_spec(text, "--task")
    loaded = catalogue().build(Task, spec, "--task")
    assert isinstance(loaded, KnowledgeConflict)
    facts = loaded.facts()
    assert len(facts) > 4500
    newport = facts[0]
    assert newport.query == "Newport County A.F.C. is headquartered in"
    assert newport.description == "the name of the place where the headquarter of Newport County A.F.C. is located"
    assert newport.relation.example == "BNP Paribas is headquartered in Paris"
    assert "paris" in newport.relation.echoes


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Paris. The capital", "Paris"),
        (" Paris, France", "Paris"),
        (' the "City', "the"),
        (" New York (USA)", "New York"),
        ("\nParis", ""),
        (" Paris", "Paris"),
        (" a<b", "a"),
        (" x [1]", "x"),
    ],
)
def test_answers_are_cut(text: str, answer: str) -> None:
    assert cut(text, ['"', ".", "\n", ",", "(", "[", "]", "<"]) == answer


@pytest.mark.parametrize(
    ("answer", "source"),
    [
        ("Rome", 0),
        ("rome", 0),
        ("Rome and its seven hills", 0),
        ("Paris", 1),
        ("paris in France", 1),
        ("the Paris", 2),
        ("New York City", 1),
        ("New", 2),
        ("", 2),
    ],
)
def test_the_source_of_an_answer(answer: str, source: int) -> None:
    assert knowledge_source(answer, "Rome", "New York" if "New" in answer else "Paris") == source


def test_the_longer_object_counts_where_one_begins_with_the_other() -> None:
    assert knowledge_source("New York City", "New York", "New York City") == 1
    assert knowledge_source("New York City", "New York City", "New York") == 0
    assert knowledge_source("New York", "New York", "New York City") == 0


def test_overlap_does_not_depend_on_case() -> None:
    assert overlap("ALGERIA", "Algiers", 0.8) and overlap("algeria", "ALGIERS", 0.8)
    assert JaroWinkler.normalized_similarity("ALGERIA", "Algiers") < 0.8
    assert not overlap("Oslo", "OSAKA", 0.8) and JaroWinkler.normalized_similarity("oslo", "osaka") < 0.8


def test_overlap_of_subject_and_answer() -> None:
    assert overlap("Mexico", "Mexico City", 0.8)
    assert overlap("Luxembourg", "luxembourg", 0.8)
    assert overlap("Algeria", "Algiers", 0.8)
    assert not overlap("France", "Paris", 0.8)


# -- tables of others --------------------------------------------------------------------------------------------------


def rewrite(relation: str, prompt: str, subject: str, true: str, new: str) -> dict[str, object]:
    """A row in the shape of CounterFact."""
    request = {"prompt": prompt, "relation_id": relation, "subject": subject}
    request |= {"target_true": {"str": true, "id": "Q1"}, "target_new": {"str": new, "id": "Q2"}}
    return {"case_id": 0, "requested_rewrite": request, "paraphrase_prompts": ["x"]}


REWRITES = [
    rewrite("P103", "The mother tongue of {} is", "Danielle Darrieux", "French", "English"),
    rewrite("P103", "{} spoke the language", "Léon Blum", "French", "Dutch"),
    rewrite("P176", "{} is produced by", "Windows 95", "Microsoft", "Nintendo"),
    rewrite("P176", "{}, created by", "iPad 2", "Apple", "Google"),
]
NESTED = {
    "subject": "requested_rewrite.subject",
    "relation": "requested_rewrite.relation_id",
    "object": "requested_rewrite.target_true.str",
    "prompt": "requested_rewrite.prompt",
}


def check_rewrites(loaded: KnowledgeConflict) -> None:
    """The first fact of each relation has become its example; the others are asked for in their own words."""
    facts = loaded.facts()
    assert [(x.query, x.object, x.relation.name) for x in facts] == [
        ("Léon Blum spoke the language", "French", "P103"),
        ("iPad 2, created by", "Apple", "P176"),
    ]
    assert facts[0].relation.example == "The mother tongue of Danielle Darrieux is French"
    assert facts[0].relation.echoes == ("danielle darrieux", "french")
    assert {x.relation.group for x in facts} == {"facts"}
    assert facts[0].description == "the missing words"


@pytest.mark.parametrize("name", ["counterfact.json", "counterfact.jsonl"])
def test_nested_columns_and_prompts_of_their_own(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    lines = [json.dumps(row) for row in REWRITES]
    path.write_text(f"[{','.join(lines)}]" if name.endswith(".json") else "\n".join(lines), encoding="utf-8")
    check_rewrites(task(data=str(path), relations="facts", columns=NESTED))


def test_nested_columns_as_a_user_writes_them(tmp_path: Path) -> None:
    path = table(tmp_path, *REWRITES)
    mapping = ", ".join(f"{name}: {column}" for name, column in NESTED.items())
    text = f"knowledge_conflict:data={path},relations=facts,columns={{{mapping}}}"
    loaded = catalogue().build(Task, parse_spec(text, "--task"), "--task")
    assert isinstance(loaded, KnowledgeConflict)
    check_rewrites(loaded)
    assert loaded.data_digest() == task(data=path).data_digest()


def test_a_dataset_of_the_hub_with_nested_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(*arguments: object, **options: object) -> datasets.Dataset:
        asked.append((*arguments, *options.values()))
        return datasets.Dataset.from_list(REWRITES)

    monkeypatch.setattr(datasets, "load_dataset", load)
    check_rewrites(task(data="someone/counterfact", relations="facts", columns=NESTED, split="test", revision="abc"))
    assert asked == [("someone/counterfact", None, "test", "abc")]


def test_a_mapped_group_is_the_relation_s(tmp_path: Path) -> None:
    rows = [{"g": group, **row} for group, row in zip("aabb", REWRITES, strict=True)]
    facts = task(data=table(tmp_path, *rows), relations="facts", columns={**NESTED, "group": "g"}).facts()
    assert [x.relation.group for x in facts] == ["a", "b"]


def test_a_missing_nested_column_is_named(tmp_path: Path) -> None:
    columns = {**NESTED, "object": "requested_rewrite.target_true.text"}
    says = 'line 1: expected text in the column "requested_rewrite.target_true.text", but it is missing'
    with pytest.raises(HarnessError, match=says):
        task(data=table(tmp_path, *REWRITES), relations="facts", columns=columns).facts()


def test_relations_of_facts_need_a_way_to_ask(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="relations=facts needs to know how a fact is asked for"):
        task(data=table(tmp_path, ROW), relations="facts").facts()
    rows = [ROW, {**ROW, "subject": "Spain", "object": "Madrid"}]
    [fact] = task(data=table(tmp_path, *rows), relations="facts", query="{subject}'s capital is").facts()
    assert (fact.query, fact.relation.example) == ("Spain's capital is", "France's capital is Paris")


def test_a_misspelt_mapping_is_refused() -> None:
    with pytest.raises(HarnessError, match=r'no "subjct" to map a column to\. Did you mean "subject"'):
        catalogue().build(Task, parse_spec("knowledge_conflict:columns={subjct: head}", "--task"), "--task")


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["Lutetia", " City of Light "], ("Lutetia", "City of Light")),
        ("Lutetia|City of Light", ("Lutetia", "City of Light")),
        (None, ()),
        ("", ()),
        ([], ()),
    ],
)
def test_other_names_of_an_object(tmp_path: Path, given: object, names: tuple[str, ...]) -> None:
    [fact] = task(data=table(tmp_path, {**ROW, "also": given}), columns={"aliases": "also"}).facts()
    assert fact.aliases == names


def test_other_names_that_are_no_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"line 1: expected other names as a list of texts.*got \[3\]"):
        task(data=table(tmp_path, {**ROW, "aliases": [3]})).facts()


def test_the_bundled_table_has_other_names() -> None:
    assert sum(bool(fact.aliases) for fact in task().facts()) > 400
