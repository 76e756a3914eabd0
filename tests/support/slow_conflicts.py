"""The knowledge-conflict task by its definition: one prompt at a time, no padding, no cache."""

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
import yaml
from checkout import ROOT
from harness_plugins.context_copying.task.knowledge_conflict import LOG_FLOOR, SOURCES
from slow_temperature import tempered

from harness.conditions.conditions import SetNeurons
from harness.data import Fact, Relation, limited
from harness.model.model import Model
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


def slow_filters(
    asked: list[dict[str, Any]], wanted: int = 3, table: list[dict[str, Any]] | None = None
) -> tuple[dict[str, tuple[int, int]], list[dict], list[dict]]:
    """What is dropped, step by step, what is left, and the rows whose answers contradict it.

    Each row has relation, group, subject, object, answer, echoes. Without a table the rows are dropped that Tighidet et
    al. 2025 drop; with the whole one, wrong answers, too, and its objects stand for the others' answers.
    """

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
        return same - {row["answer"].lower(), *(row["names"] if table else ())}

    def echo(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
        return row["answer"].lower() in row["echoes"] and row["answer"].lower() != row["object"].lower()

    drops = {
        "empty": lambda row, rows: not row["answer"],
        "wrong": lambda row, rows: not row["said"],
        "overlap": lambda row, rows: alike(row),
        "echo": echo,
        "shared entity": elsewhere,
        "too few objects": lambda row, rows: len(others(row, rows)) < wanted,
    }
    if table is None:
        del drops["wrong"]
    found = {}
    asked = [with_name(row) for row in asked]
    among = [with_name({**row, "answer": row["object"]}) for row in table or ()]
    for name, drop in drops.items():
        rows = asked if table is None else among
        kept = [row for row in asked if not drop(row, rows)]
        among = [row for row in among if not drop(row, rows)]
        found[name] = (len(kept), len(asked) - len(kept))
        asked = kept
        if name == "wrong":
            asked = [{**row, "answer": row["said"]} for row in asked]
    return found, asked, asked if table is None else among


def with_name(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the object's names, and that name which its answer begins with."""
    names = [row["object"], *row.get("aliases", ())]
    words = row["answer"].split()
    said = [" ".join(words[:n]) for n in range(1, len(words) + 1)]
    right = [x for x in said if x.lower().rstrip(";:") in [name.lower() for name in names]]
    return {**row, "names": {name.lower() for name in names}, "said": right[-1].rstrip(";:") if right else ""}


def slow_limit(rows: list[dict[str, Any]], limit: int, together: int) -> list[dict[str, Any]]:
    """What a limit takes; tests/data/test_limits.py has a slow account of the rule."""
    relations = {row["relation"]: Relation(row["relation"], "", "", "", "", ()) for row in rows}
    facts = [Fact(i, relations[row["relation"]], row["subject"], row["object"], {}) for i, row in enumerate(rows)]
    return [rows[fact.line] for fact in limited(facts, limit, together)]


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
    """The rows (``limit`` of them, as of one contradiction) with the model's answers to the elicitation prompt."""
    if limit is not None:
        rows = slow_limit(rows, limit, 4)
    for row in rows:
        description = row["description"].replace("the subject", row["subject"])
        row["elicitation"] = f"Complete the statement with {description}.\n{row['example']}.\n{row['query']}"
        row["answer"] = greedy(model, ids_of(model, row["elicitation"]), n)
    return rows


def check_prepared(
    model: Model,
    prepared: Prepared,
    asked: list[dict[str, Any]],
    wanted: int = 3,
    table: list[dict[str, Any]] | None = None,
) -> None:
    """Steps, elicitation, counter objects, prompts and first tokens are those of the slow account."""
    steps, kept, among = slow_filters(asked, wanted, table)
    found = counts(prepared)
    assert {name: found[name] for name in steps} == steps
    assert prepared.details["facts_asked"] == len(asked)
    assert prepared.details["facts_recalled"] == sum(bool(with_name(row)["said"]) for row in asked)
    assert prepared.details["elicitation_prompt"] == kept[0]["elicitation"]
    assert len(prepared.prompts) == wanted * len(kept) == found["prompts"][0]
    assert len({prompt.id for prompt in prepared.prompts}) == len(prepared.prompts)
    assert len({prompt.cluster for prompt in prepared.prompts}) == len(kept)
    for i, row in enumerate(kept):
        prompts = prepared.prompts[wanted * i : wanted * (i + 1)]
        others = {x["answer"].lower(): x["answer"] for x in among if x["relation"] == row["relation"]}
        for name in (row["answer"].lower(), *(row["names"] if table else ())):
            others.pop(name, None)
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
            assert prompt.fields["right"] == bool(row["said"])
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


Slow = list[list[tuple[torch.Tensor, str]]]
"""Log p of every token right after a prompt, and the answer: by condition, by prompt."""


def slow_outcomes(model: Model, prompts: Sequence[Prompt], edits: Sequence[SetNeurons | None], n: int) -> Slow:
    """Every prompt under every edit; None is the untouched model."""
    found: Slow = []
    for edit in edits:
        with forced(model, edit):
            found.append(
                [
                    (torch.log_softmax(logits(model, prompt.tokens), -1), greedy(model, prompt.tokens, n))
                    for prompt in prompts
                ]
            )
    return found


def check_observed(observed: Outcomes, prompts: Sequence[Prompt], slow: Slow) -> None:
    """Answers, sources, entropies and log-probabilities of every condition are those of the slow account."""
    assert observed["source"].shape == (len(slow), len(prompts))
    for c, condition in enumerate(slow):
        for i, (prompt, (log_p, answer)) in enumerate(zip(prompts, condition, strict=True)):
            counter, parametric = prompt.fields["counter_object"], prompt.fields["parametric_object"]
            assert SOURCES[observed["source"][c, i]] == slow_source(answer, counter, parametric)
            if c < 2:
                assert observed.answers[c][i] == answer
            p = log_p.exp()
            assert observed["entropy"][c, i] == pytest.approx(-float((p * log_p).sum()), abs=2e-5)
            first = prompt.fields["first_tokens"]
            counts = prompt.fields["right"] and (first[0] != first[1] or counter == parametric)
            assert bool(observed["tokens"][c, i]) == counts
            assert observed["confidence"][c, i] == pytest.approx(float(p.max()) * counts, abs=2e-5)
            assert observed["right"][c, i] == (counts and int(log_p.argmax()) == first[1])
            [at_equal] = tempered(*(x[None].double().numpy() for x in (slow[0][i][0], log_p)))
            assert observed["tempered_confidence"][c, i] == pytest.approx(np.exp(at_equal.max()) * counts, abs=1e-4)
            for name, token in zip(("log_p_ck", "log_p_pk"), first, strict=True):
                assert observed[name][c, i] == pytest.approx(max(float(log_p[token]), LOG_FLOOR), abs=2e-4)
            rest = 1 - sum(float(p[token]) for token in set(first))
            assert np.exp(observed["log_p_nd"][c, i]) == pytest.approx(rest, abs=1e-5)
    assert len(observed.answers) == 2
    assert observed.categories == dict.fromkeys(("source", "source_normalised", "source_alias"), SOURCES)
    for looser in ("source_normalised", "source_alias"):  # none takes an answer from one source to the other
        decided = observed["source"] != SOURCES.index("ND")
        assert (observed[looser] == observed["source"])[decided].all()
