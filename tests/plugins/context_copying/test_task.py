"""The knowledge-conflict task as a whole, against a slow account of it: one prompt at a time, no padding, no cache."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from checkout import reference
from families import BOS, EOS, tiny_hf
from harness_plugins.context_copying.task.knowledge_conflict import LOG_FLOOR, SOURCES, KnowledgeConflict
from slow_conflicts import (
    DEFINITION,
    by_hand,
    check_observed,
    check_prepared,
    counts,
    slow_answers,
    slow_outcomes,
    table,
)

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.model.model import Model
from harness.model.wrapping import wrap
from harness.plugin import Prompt, Task
from harness.plugin.catalogue import catalogue
from harness.plugin.specs import parse_spec

# -- whole runs of small models ----------------------------------------------------------------------------------------

WORDS = """red blue green oak elm ash north south east west one two six ten sun moon star rain snow wind fire
iron""".split()  # noqa: SIM905
KINDS = {"colour": "things", "tree": "things", "number": "ideas"}
"""Relations and their groups. Their queries end with the subject: a random model's answer hangs on its last token."""
ROWS = [
    (relation, f"{WORDS[(5 * i + j) % 22]} {WORDS[i]}", WORDS[(7 * i + j) % 22])
    for j, relation in enumerate(KINDS)
    for i in range(22)
]


def definition(folder: Path) -> Path:
    """The bundled definition with relations in the words that the small models know."""
    document = yaml.safe_load(DEFINITION.read_text(encoding="utf-8"))
    document["relations"] = [
        {
            "relation": relation,
            "group": group,
            "query": f"The {relation} of {{subject}}",
            "description": f"the {relation} of the subject",
            "example": {"subject": "two moon", "object": "rain"},
        }
        for relation, group in KINDS.items()
    ]
    path = folder / "definition.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def word_tokenizer(bos: bool) -> transformers.PreTrainedTokenizerFast:
    """Whole words of WORDS and of the prompts; a space belongs to the word that follows it, as in most vocabularies."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    kept = sorted({*WORDS, *map(str.upper, WORDS), *KINDS, "Complete", "the", "statement", "with", "of", "The"})
    pieces = [*kept, *(f"Ġ{word}" for word in kept), ".", ",", "Ċ"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)} | {"<unk>": 256, "<s>": BOS, "</s>": EOS}
    assert len(pieces) < 256
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def word_model(bos: bool) -> Model:
    """A random Llama that answers in WORDS, as variously as they make it."""
    hf, words = tiny_hf("llama", seed=1), word_tokenizer(bos)
    said = torch.zeros(hf.config.vocab_size, 1)
    said[words.convert_tokens_to_ids([*(f"Ġ{word}" for word in WORDS), "."])] = 6.0
    with torch.no_grad():
        hf.model.embed_tokens.weight *= 3
        hf.lm_head.weight *= said
    return wrap(hf, words, "words")


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("engine", [HookEngine, ClosedFormEngine])
def test_a_small_model_is_asked_and_observed_as_by_hand(tmp_path: Path, bos: bool, engine: type[HookEngine]) -> None:
    model, n, relations = word_model(bos), 2, definition(tmp_path)
    assert model.adds_bos == bos
    facts = table(tmp_path / "facts.jsonl", ROWS)
    task = KnowledgeConflict(data=facts, definition=str(relations), max_new_tokens=n, known="any")
    runner = engine(model, batch_size=7)
    prepared = task.prepare(runner, None, 0)
    assert len(prepared.prompts) >= 30
    check_prepared(model, prepared, slow_answers(model, by_hand(facts, relations), None, n))
    assert all((prompt.tokens[0] == BOS) == bos and BOS not in prompt.tokens[1:] for prompt in prepared.prompts)

    edits = [None, SetNeurons(2, (3, 40, 11), (8.0, -6.0, 7.0)), SetNeurons(2, (0,), (-12.0,))]
    conditions = [
        BASELINE,
        Condition("treated", (edits[1],)),
        Condition("control-0000", (edits[2],), role="control"),
    ]  # type: ignore[arg-type]
    assert runner.path(conditions) == engine.name
    prompts = prepared.prompts[:20]
    finished: list[int] = []
    observed = task.observe(runner, prompts, conditions, finished.append)
    assert sum(finished) == 3 * 20
    check_observed(observed, prompts, slow_outcomes(model, prompts, edits, n))
    assert observed.answers[0] != observed.answers[1]


@pytest.mark.parametrize("bos", [False, True])
def test_first_tokens_are_those_of_the_authors_code_where_asked(tmp_path: Path, bos: bool) -> None:
    """Theirs: the most likely token for the source of the answer; for the other object what its first token, decoded
    and encoded again behind a space, begins with: here the unknown token of a lone space, or what is put first."""
    model, n, relations = word_model(bos), 2, str(definition(tmp_path))
    asked = {
        "data": table(tmp_path / "facts.jsonl", ROWS),
        "definition": relations,
        "max_new_tokens": n,
        "known": "any",
    }
    ours, theirs = KnowledgeConflict(**asked), KnowledgeConflict(**asked, first_token="reencoded")
    runner, edit = HookEngine(model, batch_size=7), SetNeurons(2, (3, 40, 11), (8.0, -6.0, 7.0))
    before, prepared = ours.prepare(runner, None, 0), theirs.prepare(runner, None, 0)
    token = BOS if bos else 256
    assert {tuple(x.fields.pop("code_tokens")) for x in map(copied, prepared.prompts)} == {(token, token)}
    assert [x.fields for x in before.prompts] == [
        {k: v for k, v in x.fields.items() if k != "code_tokens"} for x in prepared.prompts
    ]
    assert f"of {2 * len(prepared.prompts)} objects" in prepared.steps[-1].why

    prompts, conditions = prepared.prompts[:20], [BASELINE, Condition("treated", (edit,))]
    plain, observed = (task.observe(runner, prompts, conditions) for task, prompts in (
        (ours, before.prompts[:20]), (theirs, prompts)))  # fmt: skip
    sources = set()
    for c, condition in enumerate(slow_outcomes(model, prompts, [None, edit], n)):
        for i, (log_p, _) in enumerate(condition):
            said = SOURCES[observed["source"][c, i]]
            sources.add(said)
            for name, source in (("log_p_ck", "CK"), ("log_p_pk", "PK")):
                expected = log_p.max() if said == source else log_p[token]
                assert observed[name][c, i] == pytest.approx(max(float(expected), LOG_FLOOR), abs=2e-4)
    assert "ND" in sources and len(sources) > 1  # else this shows little
    for name in ("source", "entropy", "log_p_nd", "log_odds", "confidence", "right"):
        np.testing.assert_array_equal(plain[name], observed[name])


def copied(prompt: Prompt) -> Prompt:
    return replace(prompt, fields=dict(prompt.fields))


def test_a_small_model_is_asked_what_it_knows_as_by_hand(tmp_path: Path) -> None:
    """Two facts of three are what the model says, some under another name and some in capital letters."""
    model, n, relations = word_model(False), 2, definition(tmp_path)
    said = slow_answers(model, by_hand(table(tmp_path / "asked.jsonl", ROWS), relations), None, n)
    for i, row in enumerate(said):
        if i % 3 and row["answer"]:
            row["object"] = row["answer"].split(" ")[0] if i % 2 else row["answer"]
        row["object"] = row["object"].upper() if len(row["object"]) % 2 else row["object"]
        if i % 9 == 0 and row["answer"]:
            row["aliases"] = [row["answer"]]
    columns = ("relation", "subject", "object", "aliases")
    rows = [{name: row[name] for name in columns if name in row} for row in said]
    facts = tmp_path / "facts.jsonl"
    facts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = KnowledgeConflict(data=str(facts), definition=str(relations), max_new_tokens=n)
    runner = ClosedFormEngine(model, batch_size=16)
    prepared = task.prepare(runner, None, 0)
    found = counts(prepared)
    assert found["wrong"][1] > 5 and len(prepared.prompts) > 30
    check_prepared(model, prepared, said, table=said)
    before: set[Any] = set()
    for limit in (10, 25, 26, 66):  # each limit's prompts are among those of the next one
        prompts = {(x.id, x.text, x.tokens) for x in task.prepare(runner, limit, 0).prompts}
        assert before < prompts
        before = prompts
    assert before == {(x.id, x.text, x.tokens) for x in prepared.prompts}


def test_earlier_layers_are_treated_with_hooks(tmp_path: Path) -> None:
    model, n = word_model(False), 3
    facts = table(tmp_path / "facts.jsonl", ROWS)
    task = KnowledgeConflict(data=facts, definition=str(definition(tmp_path)), max_new_tokens=n, known="any")
    runner = ClosedFormEngine(model, batch_size=64)
    prompts = task.prepare(runner, None, 0).prompts[-20:]
    edits = [None, SetNeurons(0, (5, 6), (4.0, -4.0))]
    conditions = [BASELINE, Condition("treated", (edits[1],))]  # type: ignore[arg-type]
    assert runner.path(conditions) == "batched"
    check_observed(task.observe(runner, prompts, conditions), prompts, slow_outcomes(model, prompts, edits, n))


# -- a real model ------------------------------------------------------------------------------------------------------


def test_a_trained_model_is_asked_and_observed_as_by_hand(stories: Model, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (DEFINITION.parent / "facts.jsonl").read_text("utf-8").splitlines()]
    wanted = {"car_maker": 40, "work_composer": 40, "capital": 8}  # relations to which it gives more than one answer
    rows = [row for name, n in wanted.items() for row in [x for x in lines if x["relation"] == name][:n]]
    facts = table(tmp_path / "facts.jsonl", [(row["relation"], row["subject"], row["object"]) for row in rows])
    task, runner = KnowledgeConflict(data=facts, counter_objects=1, known="any"), HookEngine(stories, batch_size=16)
    assert stories.adds_bos
    prepared = task.prepare(runner, 30, 0)
    check_prepared(stories, prepared, slow_answers(stories, by_hand(facts), 30, 10), wanted=1)
    assert prepared.details["max_new_tokens"] == 10
    edits = [None, SetNeurons(4, (7, 99), (5.0, -3.0)), SetNeurons(4, (1, 2, 3), (2.0, 2.0, 2.0))]
    conditions = [
        BASELINE,
        Condition("treated", (edits[1],)),
        Condition("control-0000", (edits[2],), role="control"),
    ]  # type: ignore[arg-type]
    prompts = prepared.prompts[:12]
    slow = slow_outcomes(stories, prompts, edits, 10)
    for engine in (runner, ClosedFormEngine(stories, batch_size=5)):
        check_observed(task.observe(engine, prompts, conditions), prompts, slow)


def test_pararel_by_column_mapping(stories: Model) -> None:
    data = reference("data")
    spec = parse_spec(
        f"knowledge_conflict:data={data / 'pararel_facts.jsonl'},relations={data / 'pararel_relations.json'},"
        "query={subject} {relation_phrase},example={example_subject} {example_phrase} {example_object},"
        "relation_columns={group: relation_group, description: object_description},duplicates=drop,counter_objects=1,"
        "known=any",
        "--task",
    )
    task = catalogue().build(Task, spec, "--task")
    assert isinstance(task, KnowledgeConflict)
    rows: dict[str, dict[str, Any]] = {}
    relations = {row["relation"]: row for row in json.loads((data / "pararel_relations.json").read_text("utf-8"))}
    for line in (data / "pararel_facts.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        relation = relations[row["relation"]]
        shown = [str(relation[f"example_{part}"]) for part in ("subject", "phrase", "object")]
        query = f"{row['subject']} {row['relation_phrase']}"
        rows.setdefault(
            f"{row['relation']}/{query.lower()}",
            {
                **row,
                "group": relation["relation_group"],
                "description": relation["object_description"],
                "query": query,
                "example": " ".join(shown),
                "echoes": {part.lower() for part in shown},
            },
        )
    limit = 50
    assert len(rows) > 4500
    prepared = task.prepare(HookEngine(stories), limit, 0)
    assert counts(prepared)["facts"] == (len(rows), 0) and counts(prepared)["limit"] == (limit, len(rows) - limit)
    check_prepared(stories, prepared, slow_answers(stories, list(rows.values()), limit, 10), wanted=1)
