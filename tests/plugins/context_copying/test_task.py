"""The knowledge-conflict task as a whole, against a slow account of it: one prompt at a time, no padding, no cache."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from checkout import ROOT, reference
from conflicts import Scripted
from families import BOS, EOS, tiny_hf, tokenizer
from harness_plugins.context_copying.task.knowledge_conflict import LOG_FLOOR, SOURCES, KnowledgeConflict

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.model.model import Model, wrap
from harness.plugin.catalogue import catalogue
from harness.plugin.components import parse_spec
from harness.plugin.records import Outcomes, Prepared, Prompt

DEFINITION = ROOT / "tasks" / "knowledge_conflict" / "definition.yml"
FILTERS = ["empty", "overlap", "echo", "shared entity", "too few objects"]


def table(path: Path, rows: Sequence[tuple[str, str, str]]) -> str:
    lines = (json.dumps(dict(zip(("relation", "subject", "object"), row, strict=True))) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def counts(prepared: Prepared) -> dict[str, tuple[int, int]]:
    return {step.name: (step.kept, step.dropped) for step in prepared.steps}


# -- the slow account --------------------------------------------------------------------------------------------------


@torch.no_grad()
def logits(model: Model, ids: Sequence[int]) -> torch.Tensor:
    return model.hf(input_ids=torch.tensor([list(ids)])).logits[0, -1].double()


def greedy(model: Model, ids: Sequence[int], n: int) -> str:
    """The cut answer to one prompt: whole passes over the growing text, ended by nothing but end-of-text."""
    new: list[int] = []
    while len(new) < n:
        token = int(logits(model, [*ids, *new]).argmax())
        if token == model.tokenizer.eos_token_id:
            break
        new.append(token)
    return re.split(r'[".\n,(\[\]<]', model.tokenizer.decode(new, skip_special_tokens=True))[0].strip()


def ids_of(model: Model, text: str) -> list[int]:
    """Token ids as the tokeniser itself makes them, special tokens included."""
    return list(model.tokenizer(text)["input_ids"])


def begins(model: Model, context: str, word: str) -> int:
    """The first token of ``word`` after ``context``."""
    before, after = ids_of(model, context), ids_of(model, f"{context} {word}")
    assert after[: len(before)] == before
    return after[len(before)]


def jaro_winkler(a: str, b: str) -> float:
    reach = max(0, max(len(a), len(b)) // 2 - 1)
    used, matches = [False] * len(b), []
    for i, character in enumerate(a):
        for j in range(max(0, i - reach), min(len(b), i + reach + 1)):
            if not used[j] and b[j] == character:
                used[j] = True
                matches.append(character)
                break
    if not matches:
        return 0.0
    swapped = sum(x != y for x, y in zip(matches, (c for c, u in zip(b, used, strict=True) if u), strict=True)) // 2
    n = len(matches)
    jaro = (n / len(a) + n / len(b) + (n - swapped) / n) / 3
    prefix = next((i for i, (x, y) in enumerate(zip(a[:4], b[:4], strict=False)) if x != y), min(4, len(a), len(b)))
    return jaro + 0.1 * prefix * (1 - jaro) if jaro > 0.7 else jaro


def slow_filters(asked: list[dict[str, Any]], wanted: int = 3) -> tuple[dict[str, tuple[int, int]], list[dict]]:
    """What Tighidet et al. 2025 drop, step by step; each row has relation, group, subject, object, answer, echoes."""

    def alike(row: dict[str, Any]) -> bool:
        subject, answer = row["subject"].lower(), row["answer"].lower()
        return subject in answer or answer in subject or jaro_winkler(subject, answer) >= 0.8

    def elsewhere(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
        return any(
            other["group"] != row["group"] and other[column].lower() == row[column].lower()
            for other in rows
            for column in ("subject", "answer")
        )

    def others(row: dict[str, Any], rows: list[dict[str, Any]]) -> set[str]:
        same = {other["answer"].lower() for other in rows if other["relation"] == row["relation"]}
        return same - {row["answer"].lower()}

    drops = {
        "empty": lambda row, rows: not row["answer"],
        "overlap": lambda row, rows: alike(row),
        "echo": lambda row, rows: (
            row["answer"].lower() in row["echoes"] and row["answer"].lower() != row["object"].lower()
        ),
        "shared entity": elsewhere,
        "too few objects": lambda row, rows: len(others(row, rows)) < wanted,
    }
    found = {}
    for name, drop in drops.items():
        kept = [row for row in asked if not drop(row, asked)]
        found[name] = (len(kept), len(asked) - len(kept))
        asked = kept
    return found, asked


def by_hand(facts: str, definition: Path = DEFINITION) -> list[dict[str, Any]]:
    """Every row of a table with what the definition says of its relation, put together by hand."""
    relations = {row["relation"]: row for row in yaml.safe_load(definition.read_text(encoding="utf-8"))["relations"]}
    rows = []
    for line in Path(facts).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        relation = relations[row["relation"]]
        query, shown = relation["query"], relation["example"]
        rows.append(
            {
                **row,
                "group": relation["group"],
                "description": relation["description"],
                "query": query.replace("{subject}", row["subject"]),
                "example": f"{query.replace('{subject}', shown['subject'])} {shown['object']}",
                "echoes": {shown["subject"].lower(), shown["object"].lower()},
            }
        )
    return rows


def slow_answers(model: Model, rows: list[dict[str, Any]], limit: int | None, n: int) -> list[dict[str, Any]]:
    """The rows (``limit`` of them, spread evenly) with the model's answers to the elicitation prompt."""
    if limit is not None:
        rows = [rows[round(i * (len(rows) - 1) / (limit - 1))] for i in range(limit)]
    for row in rows:
        description = row["description"].replace("the subject", row["subject"])
        row["elicitation"] = f"Complete the statement with {description}.\n{row['example']}.\n{row['query']}"
        row["answer"] = greedy(model, ids_of(model, row["elicitation"]), n)
    return rows


def check_prepared(model: Model, prepared: Prepared, asked: list[dict[str, Any]], wanted: int = 3) -> None:
    """Steps, elicitation, counter objects, prompts and first tokens are those of the slow account."""
    steps, kept = slow_filters(asked, wanted)
    found = counts(prepared)
    assert {name: found[name] for name in FILTERS} == steps
    assert prepared.details["facts_asked"] == len(asked)
    recalled = [row for row in asked if slow_source(row["answer"], row["object"], "-") == "CK"]
    assert prepared.details["facts_recalled"] == len(recalled)
    assert prepared.details["elicitation_prompt"] == kept[0]["elicitation"]
    assert len(prepared.prompts) == wanted * len(kept) == found["prompts"][0]
    assert len({prompt.id for prompt in prepared.prompts}) == len(prepared.prompts)
    assert len({prompt.cluster for prompt in prepared.prompts}) == len(kept)
    for i, row in enumerate(kept):
        prompts = prepared.prompts[wanted * i : wanted * (i + 1)]
        others = {x["answer"].lower(): x["answer"] for x in kept if x["relation"] == row["relation"]}
        del others[row["answer"].lower()]
        log_p = torch.log_softmax(logits(model, ids_of(model, row["elicitation"])), -1)
        scores = {key: float(log_p[begins(model, row["query"], word)]) for key, word in others.items()}
        chosen = [prompt.fields["counter_object"].lower() for prompt in prompts]
        assert len(set(chosen)) == wanted and set(chosen) <= set(scores)
        assert all(scores[a] <= scores[b] + 1e-4 for a, b in pairwise(chosen))  # least likely first
        assert max(scores[x] for x in chosen) <= min([scores[x] for x in scores.keys() - chosen], default=0) + 1e-4
        for prompt in prompts:
            counter = prompt.fields["counter_object"]
            assert prompt.text == f"{row['query']} {counter}. {row['query']}"
            assert list(prompt.tokens) == ids_of(model, prompt.text)
            assert prompt.cluster == f"{row['relation']}/{row['query']}"
            tokens = [begins(model, row["query"], x) for x in (counter, row["answer"])]
            expected = {"relation", "group", "subject", "object"}
            assert {name: prompt.fields[name] for name in expected} == {name: row[name] for name in expected}
            assert prompt.fields["parametric_object"] == row["answer"]
            assert prompt.fields["first_tokens"] == tokens


def slow_source(answer: str, counter: str, parametric: str) -> str:
    found = {"ND": 0}
    for name, known in (("PK", parametric), ("CK", counter)):
        words = known.lower().split()
        if re.match(r"\s+".join(map(re.escape, words)) + r"(\s|$)", answer.lower()):
            found[name] = len(words)
    return max(found, key=lambda name: (found[name], name == "CK"))


@contextlib.contextmanager
def forced(model: Model, edit: SetNeurons | None) -> Iterator[None]:
    """Hold neurons at values with a plain hook on the family's own module."""

    def hook(module: Any, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        x = arguments[0].clone()
        for index, value in zip(edit.indices, edit.values, strict=True):  # type: ignore[union-attr]
            x[..., index] = value
        return (x,)

    handle = None if edit is None else model.hf.model.layers[edit.layer].mlp.down_proj.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        if handle:
            handle.remove()


def check_observed(
    model: Model, observed: Outcomes, prompts: Sequence[Prompt], edits: Sequence[SetNeurons | None], n: int
) -> None:
    """Answers, sources, entropies and log-probabilities of every condition are those of the slow account."""
    assert observed["source"].shape == (len(edits), len(prompts))
    for c, edit in enumerate(edits):
        for i, prompt in enumerate(prompts):
            with forced(model, edit):
                log_p = torch.log_softmax(logits(model, prompt.tokens), -1)
                answer = greedy(model, prompt.tokens, n)
            counter, parametric = prompt.fields["counter_object"], prompt.fields["parametric_object"]
            assert SOURCES[observed["source"][c, i]] == slow_source(answer, counter, parametric)
            if c < 2:
                assert observed.answers[c][i] == answer
            p = log_p.exp()
            assert observed["entropy"][c, i] == pytest.approx(-float((p * log_p).sum()), abs=2e-5)
            first = prompt.fields["first_tokens"]
            for name, token in zip(("log_p_ck", "log_p_pk"), first, strict=True):
                assert observed[name][c, i] == pytest.approx(max(float(log_p[token]), LOG_FLOOR), abs=2e-4)
            rest = 1 - sum(float(p[token]) for token in set(first))
            assert np.exp(observed["log_p_nd"][c, i]) == pytest.approx(rest, abs=1e-5)
    assert len(observed.answers) == 2
    assert observed.categories == dict.fromkeys(("source", "source_normalised", "source_alias"), SOURCES)
    for looser in ("source_normalised", "source_alias"):  # none takes an answer from one source to the other
        decided = observed["source"] != SOURCES.index("ND")
        assert (observed[looser] == observed["source"])[decided].all()


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
    task = KnowledgeConflict(data=table(tmp_path / "facts.jsonl", [row[:3] for row in SCRIPT]))
    engine = Scripted(long_llama, [row[3] for row in SCRIPT])
    prepared = task.prepare(engine, None, 0)
    left = len(SCRIPT)
    expected = {"facts": (left, 0)}
    for name in FILTERS:
        dropped = sum(row[4] == name for row in SCRIPT)
        left -= dropped
        expected[name] = (left, dropped)
    assert left == sum(row[4] is None for row in SCRIPT) == 7
    assert counts(prepared) == expected | {"prompts": (21, 0)}
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
    task = KnowledgeConflict(data=table(tmp_path / "facts.jsonl", [row[:3] for row in SCRIPT]))
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
    task, engine = KnowledgeConflict(data=data, counter_objects=wanted), Scripted(long_llama, [x[3] for x in SCRIPT])
    if not kept:
        with pytest.raises(HarnessError, match="no prompt is left after the filters"):
            task.prepare(engine, None, 0)
        return
    prepared = task.prepare(engine, None, 0)
    assert counts(prepared)["too few objects"][0] == kept
    assert len(prepared.prompts) == wanted * kept
    assert all(prompt.fields["counter_object"] != prompt.fields["parametric_object"] for prompt in prepared.prompts)


def test_a_limit_is_spread_over_the_table(tmp_path: Path, long_llama: Model) -> None:
    rows = [("capital", f"Land{i}", f"Town{i}") for i in range(20)]
    data = table(tmp_path / "facts.jsonl", rows)
    engine = Scripted(long_llama, [" North", " South", " East", " West", " Centre"])
    prepared = KnowledgeConflict(data=data).prepare(engine, 5, 0)
    assert [(step.name, step.kept, step.dropped) for step in prepared.steps[:2]] == [("facts", 20, 0), ("limit", 5, 15)]
    asked = [int(re.search(r"Land(\d+) is$", text)[1]) for text in engine.asked]  # type: ignore[index]
    assert (asked[0], asked[-1]) == (0, 19) and asked == sorted(set(asked))
    assert np.diff(asked).max() - np.diff(asked).min() <= 1


def test_when_nothing_is_left_the_filter_that_took_most_is_named_and_not_the_limit(
    tmp_path: Path, long_llama: Model
) -> None:
    data = table(tmp_path / "facts.jsonl", [("capital", f"Land{i}", f"Town{i}") for i in range(20)])
    engine = Scripted(long_llama, [" North", ".", ",", "\n", " Land19"])
    with pytest.raises(HarnessError, match=r'most \(3\) were dropped because the answer is empty \(step "empty"\)'):
        KnowledgeConflict(data=data).prepare(engine, 5, 0)


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
    task = KnowledgeConflict(data=facts, definition=str(relations), max_new_tokens=n)
    runner = engine(model, batch_size=7)
    prepared = task.prepare(runner, None, 0)
    assert len(prepared.prompts) >= 30
    check_prepared(model, prepared, slow_answers(model, by_hand(facts, relations), None, n))
    assert all((prompt.tokens[0] == BOS) == bos and BOS not in prompt.tokens[1:] for prompt in prepared.prompts)

    edits = [None, SetNeurons(2, (3, 40, 11), (8.0, -6.0, 7.0)), SetNeurons(2, (0,), (-12.0,))]
    conditions = [
        BASELINE,
        *(Condition(name, (edit,)) for name, edit in zip(("treated", "control-0000"), edits[1:], strict=True)),
    ]  # type: ignore[arg-type]
    assert runner.path(conditions) == engine.name
    prompts = prepared.prompts[:20]
    finished: list[int] = []
    observed = task.observe(runner, prompts, conditions, finished.append)
    assert sum(finished) == 3 * 20
    check_observed(model, observed, prompts, edits, n)
    assert observed.answers[0] != observed.answers[1]


def test_earlier_layers_are_treated_with_hooks(tmp_path: Path) -> None:
    model, n = word_model(False), 3
    facts = table(tmp_path / "facts.jsonl", ROWS)
    task = KnowledgeConflict(data=facts, definition=str(definition(tmp_path)), max_new_tokens=n)
    runner = ClosedFormEngine(model, batch_size=64)
    prompts = task.prepare(runner, None, 0).prompts[-20:]
    edits = [None, SetNeurons(0, (5, 6), (4.0, -4.0))]
    conditions = [BASELINE, Condition("treated", (edits[1],))]  # type: ignore[arg-type]
    assert runner.path(conditions) == "batched"
    check_observed(model, task.observe(runner, prompts, conditions), prompts, edits, n)


# -- a real model ------------------------------------------------------------------------------------------------------


def test_a_trained_model_is_asked_and_observed_as_by_hand(stories: Model, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (DEFINITION.parent / "facts.jsonl").read_text("utf-8").splitlines()]
    wanted = {"car_maker": 40, "work_composer": 40, "capital": 8}  # relations to which it gives more than one answer
    rows = [row for name, n in wanted.items() for row in [x for x in lines if x["relation"] == name][:n]]
    facts = table(tmp_path / "facts.jsonl", [(row["relation"], row["subject"], row["object"]) for row in rows])
    task, runner = KnowledgeConflict(data=facts, counter_objects=1), HookEngine(stories, batch_size=16)
    assert stories.adds_bos
    prepared = task.prepare(runner, 60, 0)
    check_prepared(stories, prepared, slow_answers(stories, by_hand(facts), 60, 10), wanted=1)
    assert prepared.details["max_new_tokens"] == 10
    edits = [None, SetNeurons(4, (7, 99), (5.0, -3.0)), SetNeurons(4, (1, 2, 3), (2.0, 2.0, 2.0))]
    conditions = [
        BASELINE,
        *(Condition(name, (edit,)) for name, edit in zip(("treated", "control-0000"), edits[1:], strict=True)),
    ]  # type: ignore[arg-type]
    prompts = prepared.prompts[:12]
    for engine in (runner, ClosedFormEngine(stories, batch_size=5)):
        check_observed(stories, task.observe(engine, prompts, conditions), prompts, edits, 10)


def test_pararel_by_column_mapping(stories: Model) -> None:
    data = reference("data")
    spec = parse_spec(
        f"knowledge_conflict:data={data / 'pararel_facts.jsonl'},relations={data / 'pararel_relations.json'},"
        "query={subject} {relation_phrase},example={example_subject} {example_phrase} {example_object},"
        "relation_columns={group: relation_group, description: object_description},duplicates=drop,counter_objects=1",
        "--task",
    )
    task = catalogue().build("task", spec, "--task")
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
    limit = 100
    assert len(rows) > 4500
    prepared = task.prepare(HookEngine(stories), limit, 0)
    assert counts(prepared)["facts"] == (len(rows), 0) and counts(prepared)["limit"] == (limit, len(rows) - limit)
    check_prepared(stories, prepared, slow_answers(stories, list(rows.values()), limit, 10), wanted=1)
