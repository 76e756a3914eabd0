"""Variants of the knowledge-conflict prompts: what the context says, where it says it, and chat."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conflicts import Scripted
from families import tiny_hf, tokenizer
from harness_plugins.context_copying.metrics.transitions import Transitions
from harness_plugins.context_copying.task.knowledge_conflict import SOURCES, KnowledgeConflict

from harness.conditions.conditions import BASELINE, Condition
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.model.model import Model
from harness.model.wrapping import wrap
from harness.plugin.records import Prepared

FACTS = [
    ("capital", "France", "Paris", ["Lutetia"]),
    ("capital", "Spain", "Madrid", []),
    ("capital", "Italy", "Rome", ["the Eternal City"]),
    ("capital", "Peru", "Lima", []),
    ("book_author", "Ulysses", "James Joyce", ["Joyce"]),
    ("book_author", "Emma", "Jane Austen", []),
    ("book_author", "Dracula", "Bram Stoker", []),
    ("book_author", "Hamlet", "William Shakespeare", []),
    ("car_maker", "the Golf", "Volkswagen", []),
    ("car_maker", "the Panda", "Fiat", []),
    ("car_maker", "the Focus", "Ford", []),
    ("car_maker", "the Clio", "Renault", []),
]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("facts") / "facts.jsonl"
    rows = ({"relation": a, "subject": b, "object": c, **({"aliases": d} if d else {})} for a, b, c, d in FACTS)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def model() -> Model:
    hf = tiny_hf("llama")
    hf.config.max_position_embeddings = 2048
    return wrap(hf, tokenizer(), "llama")


def prepare(model: Model, facts: str, seed: int = 0, **params: object) -> Prepared:
    engine = Scripted(model, [f" {row[2]}." for row in FACTS])
    return KnowledgeConflict(data=facts, **params).prepare(engine, None, seed)


def queries(prepared: Prepared) -> dict[str, str]:
    return {prompt.fields["subject"]: prompt.cluster.partition("/")[2] for prompt in prepared.prompts}


def test_the_paper_s_prompts_are_the_default(model: Model, facts: str) -> None:
    prepared = prepare(model, facts)
    assert len(prepared.prompts) == 3 * len(FACTS)
    for prompt in prepared.prompts:
        query = prompt.cluster.partition("/")[2]
        assert prompt.text == f"{query} {prompt.fields['counter_object']}. {query}"
    first = prepared.prompts[0].fields
    assert (first["parametric_aliases"], first["parametric_object"]) == (["Lutetia"], "Paris")
    aliases = {x.fields["counter_object"]: x.fields["counter_aliases"] for x in prepared.prompts}
    assert aliases["Rome"] == ["the Eternal City"] and aliases["Lima"] == []


def test_an_agreeing_context_states_what_the_model_says_and_leaves_pk_and_nd(model: Model, facts: str) -> None:
    prepared = prepare(model, facts, context="agreeing", max_new_tokens=2)
    assert len(prepared.prompts) == len(FACTS) == prepared.steps[-1].kept
    assert "states what the model says" in prepared.steps[-1].why
    for prompt in prepared.prompts:
        query = prompt.cluster.partition("/")[2]
        assert prompt.text == f"{query} {prompt.fields['parametric_object']}. {query}"
    task = KnowledgeConflict(data=facts, context="agreeing", max_new_tokens=2)
    outcomes = task.observe(HookEngine(model), prepared.prompts, [BASELINE])
    assert (outcomes["source"] != SOURCES.index("CK")).all()
    assert np.isfinite(outcomes["log_p_nd"]).all()
    both = task.observe(HookEngine(model), prepared.prompts, [BASELINE, Condition("treated")])
    assert "CK cannot occur" in Transitions().measure(both).remarks[0]


def test_an_irrelevant_context_is_a_fact_about_something_else(model: Model, facts: str) -> None:
    prepared = prepare(model, facts, context="irrelevant")
    known = {f"{relation}/{subject}": shown for relation, subject, shown, _ in FACTS}
    objects = {shown: relation for relation, _, shown, _ in FACTS}
    assert len(prepared.prompts) == 3 * len(known) == len({prompt.id for prompt in prepared.prompts})
    for prompt in prepared.prompts:
        query, stated = prompt.cluster.partition("/")[2], prompt.fields["counter_object"]
        context, _, question = prompt.text.partition(f" {stated}. ")
        assert question == query and query not in context
        groups = {"capital": "geography", "book_author": "people", "car_maker": "companies"}
        assert groups[objects[stated]] != prompt.fields["group"]
        assert prompt.fields["subject"] not in context and prompt.fields["parametric_object"] != stated


@pytest.mark.parametrize(("placement", "around"), [("paragraph", 2), ("document", 4)])
@pytest.mark.parametrize("context", ["conflicting", "agreeing", "irrelevant"])
def test_the_statement_stands_among_neutral_sentences(
    model: Model, facts: str, placement: str, around: int, context: str
) -> None:
    prepared = prepare(model, facts, placement=placement, context=context)
    neutral: dict[str, set[str]] = {}
    for prompt in prepared.prompts:
        fields, query = prompt.fields, prompt.cluster.partition("/")[2]
        *head, body, question = [line for line in prompt.text.split("\n") if line]
        assert head == ([f"Document: {fields['subject']}"] if placement == "document" else [])
        assert question == query
        sentences = body.removesuffix(".").split(". ")
        assert len(sentences) == around + 1
        stated = sentences.pop(around // 2)
        assert stated.endswith(fields["counter_object"])
        assert (stated.startswith(query)) == (context != "irrelevant")
        neutral.setdefault(prompt.cluster, set()).add(". ".join(sentences))
        for sentence in sentences:
            topics = fields["subject"], fields["parametric_object"], fields["object"], fields["counter_object"]
            assert not any(topic.lower() in sentence.lower() for topic in topics)
            assert query.replace(fields["subject"], "") not in sentence
    assert all(len(texts) == 1 for texts in neutral.values())  # only the statement differs between prompts of a fact


def test_what_is_drawn_depends_on_the_seed_and_nothing_else(model: Model, facts: str) -> None:
    drawn = [prepare(model, facts, seed, placement="document").prompts for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_table_of_one_relation_has_nothing_neutral_to_say(tmp_path: Path, model: Model) -> None:
    path = tmp_path / "facts.jsonl"
    rows = [{"relation": a, "subject": b, "object": c} for a, b, c, _ in FACTS[:4]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    engine = Scripted(model, [f" {row[2]}." for row in FACTS[:4]])
    with pytest.raises(HarnessError, match='has no 2 facts of other relations that say nothing about "France"'):
        KnowledgeConflict(data=str(path), placement="paragraph").prepare(engine, None, 0)


@pytest.mark.parametrize("own", [False, True], ids=["the setting's BOS", "the template's BOS"])
def test_a_conversation_goes_through_the_chat_template(facts: str, own: bool) -> None:
    words = tokenizer()
    words.chat_template = "<s>" * own + TEMPLATE
    hf = tiny_hf("llama")
    hf.config.max_position_embeddings = 2048
    model = wrap(hf, words, "chatty", add_bos=True)
    engine = Scripted(model, [f" {row[2]}." for row in FACTS])
    prepared = KnowledgeConflict(data=facts, chat=True, instruction="Answer.").prepare(engine, None, 0)
    prompt = prepared.prompts[0]
    query = "The capital of France is"
    said = f"{query} {prompt.fields['counter_object']}. {query}"
    text = f"<user>Answer.\n{said}</><bot>"
    assert prompt.text == "<s>" * own + text
    assert list(prompt.tokens) == words(f"<s>{text}", add_special_tokens=False)["input_ids"]  # once, whoever puts it
    assert engine.asked[0].removeprefix("<s>").startswith(
        "<user>Answer.\nComplete the statement with"
    ) and engine.asked[0].endswith("<bot>")
    # An answer opens the model's turn: no space comes before it.
    expected = [
        words(word, add_special_tokens=False)["input_ids"][0] for word in (prompt.fields["counter_object"], "Paris")
    ]
    assert prompt.fields["first_tokens"] == expected
    default = KnowledgeConflict(data=facts, chat=True).prepare(Scripted(model, engine.answers), None, 0).prompts[0]
    assert "\nThe capital of France is" in default.text and "missing words only" in default.text


def test_a_tokeniser_without_a_chat_template_is_explained(model: Model, facts: str) -> None:
    with pytest.raises(HarnessError, match="chat=true needs a chat template, and the tokeniser of llama has none"):
        prepare(model, facts, chat=True)


def test_a_template_that_fails_is_explained(facts: str) -> None:
    words = tokenizer()
    words.chat_template = "{{ raise_exception('only in pairs') }}"
    model = wrap(tiny_hf("llama"), words, "picky")
    with pytest.raises(HarnessError, match=r"the chat template of picky does not take a message.*only in pairs"):
        prepare(model, facts, chat=True)
