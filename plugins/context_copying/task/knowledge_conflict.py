"""The knowledge-conflict task (Tighidet et al. 2025): does the model answer from its context or its memory?

1. *Elicitation*: ask the model for the object of every fact; what it says is its parametric object (PK).
2. *Filters*: drop answers that say nothing about conflict (wrong, empty, overlapping the subject, echoing the example
   ...). The paper takes wrong answers for knowledge, too (``known=any``).
3. *Counter-parametric objects*: of the other objects of the relation, the ones whose first token the model finds least
   likely; with ``known=any``, as in the paper, of the other answers.
4. *Conflict*: state the fact with a counter object (CK) and ask again. The greedy answer comes from the context (CK),
   from memory (PK), or is not defined by either (ND).

Variants change the fourth step: what the context says (``context``), where it says it (``placement``), and whether the
model is spoken to in its chat format (``chat``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from harness.data import Fact, FactSource, FactTable, limited, render
from harness.data.fact_table import required
from harness.data.facts import COLUMNS, OPTIONAL_COLUMNS
from harness.files.templates import check
from harness.files.yaml import Document
from harness.model import decode, first_token, stop_tokens
from harness.plugin import BASELINE, Condition, Outcomes, Prepared, Prompt, Source, Step, Task, Template, suggest

from .answer_sources import (
    MATCHINGS,
    SOURCES,
    cut,
    knowledge_source,
    nested,
    normalise,
    other_names,
    overlap,
    sources,
)
from .chat_template import chat
from .contexts import Context, Contexts, Placement, Statement
from .elicitation import Answer, Known, answered, contradictable, counter_objects

if TYPE_CHECKING:
    from harness.plugin import Engine, Model, Progress

__all__ = [
    "LOG_FLOOR",
    "SOURCES",
    "KnowledgeConflict",
    "cut",
    "first_token",
    "knowledge_source",
    "overlap",
    "stop_tokens",
]

LOG_FLOOR = -16.6
"""log 2^-24: probabilities below the resolution of float32 are not told apart."""

NOTE = (
    "confidence is the probability of the answer's first token, which is right where it begins the true object; an "
    "answer from a context that contradicts it is wrong. Facts of which the model's memory is wrong do not count, nor "
    "do objects that begin with one token"
)
"""What calibration is about here."""

PROMPTS = {
    "conflicting": "conflict prompts, {n} counter objects for each of {facts} facts",
    "agreeing": "prompts whose context states what the model says anyway, one for each of {facts} facts",
    "irrelevant": "prompts whose context is about something else, {n} contexts for each of {facts} facts",
}

BLOCK = 4
"""Facts that a limit takes of a relation at a time, for each object that contradicts one, where objects are what the
model says of these facts: some answers are dropped, and several may be alike."""


class KnowledgeConflict(Task):
    """Contexts that contradict what the model knows: does it answer from the context or from memory?

    ``context``: *conflicting* is the paper's. An *agreeing* context states the parametric object itself, so an answer
    with it counts as PK, everything else as ND, and CK does not occur. An *irrelevant* context states a fact of another
    subject and relation, and CK means that its object was copied. The facts that are asked are the same in all three.
    ``placement``: the statement alone before the question (the paper's), within a paragraph, or within a document with
    a title; the sentences around it are true statements about other things, the same for all prompts of a fact.

    ``known``: *true* asks only facts of which the model says the object, or another name of it, and contradicts them
    with objects that the table has for the relation: a fact's prompts are the same whichever other facts are asked.
    With *any*, as in the paper, whatever the model says is what it knows, and becomes a context of other facts.

    Of two objects that an answer begins with the longer one counts ("New York City" is not New York).

    Answers are compared with the objects in three ways: exactly (the paper's; outcome ``source``), without case,
    punctuation and articles (``source_normalised``), and by the objects' other names, too (``source_alias``; the facts'
    column ``aliases``).
    """

    name = "knowledge_conflict"
    version = "3"
    shares_passes = True
    keeps_prompts = True
    default_metrics: ClassVar[tuple[str, ...]] = (
        "transitions",
        "conversion_ratios",
        "entropy_change",
        "log_odds",
        "temperature",
        "calibration",
        "carry",
        "relation_groups",
        "matching",
        "selected_neurons",
    )

    data: FactSource | None = Field(
        None,
        description="facts: a .jsonl, .csv, .tsv or .json file, a dataset id on the hub, or pararel, popqa, "
        "counterfact, paraconflict, alone or with the place of a copy (popqa:FOLDER)",
    )
    relations: Source | None = Field(
        None,
        description="relations: a .jsonl, .csv or .json file; facts: made of the facts themselves; default: the "
        "definition's",
    )
    definition: Source | None = Field(None, description="the task's YAML; default: the one that ships with the harness")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="column mapping, for example {subject: head, relation: property, object: tail}, nested columns as "
        "requested_rewrite.target_true.str; also prompt (a query with {}), group, aliases",
    )
    relation_columns: dict[str, str] = Field(
        default_factory=dict, description="column mapping of the relations: relation, group, query, description"
    )
    query: Template | None = Field(
        None, description='query template for all relations, for example "{subject} {phrase}"'
    )
    example: Template | None = Field(None, description="template of the one-shot statement from a relation's columns")
    subset: str | None = Field(None, description="configuration of the hub dataset")
    split: str = Field("train", description="split of the hub dataset")
    revision: str | None = Field(None, description="revision of the hub dataset")
    duplicates: Literal["error", "drop", "rephrased"] = Field(
        "error", description="a question that stands there twice; rephrased: drop also what asks it in other words"
    )
    counter_objects: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="counter-parametric objects for each fact; default: the definition's (3)"
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="length of the greedy answers; default: the definition's (10)"
    )
    known: Known = Field(
        "true", description="true: only facts that the model knows; any: its wrong answers count, too (the paper's)"
    )
    context: Context = Field("conflicting", description="what the context says, see above")
    placement: Placement = Field("sentence", description="where the context says it, see above")
    chat: bool = Field(False, description="speak to the model through its tokenizer's chat template")
    instruction: str | None = Field(
        None, description="with chat: text before every question; default: the definition's"
    )

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        known = (*COLUMNS, *OPTIONAL_COLUMNS)
        for name in columns:
            if name not in known:
                raise ValueError(
                    f'there is no "{name}" to map a column to.{suggest(name, known)} There are: {", ".join(known)}'
                )
        return columns

    @field_validator("known", mode="before")
    @classmethod
    def _as_written(cls, known: Any) -> Any:
        return "true" if known is True else known

    @field_validator("query", "example")
    @classmethod
    def _template(cls, template: str | None) -> str | None:
        return None if template is None else check(template, None)  # its columns are known once the data are read

    # -- the data -----------------------------------------------------------------------------------------------------

    def _table(self) -> FactTable:
        return FactTable(**{field.name: getattr(self, field.name) for field in fields(FactTable)})

    def data_digest(self) -> str:
        return self._table().data_digest()

    def n_items(self) -> int:
        return len(self.facts())

    def facts(self) -> list[Fact]:
        """Read and check the table of facts.

        Raises:
            HarnessError: names the file and the line of the first mistake.
        """
        return self._table().facts()

    # -- the prompts --------------------------------------------------------------------------------------------------

    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        """Elicit, filter, choose counter objects and write the prompts; counts every step."""
        document, model = self._table().document(), engine.model
        table = asked = self.facts()
        steps = [Step("facts", len(table), 0, "facts in the table")]
        wanted = self._int(document, self.counter_objects, "counter_objects")
        if limit is not None and limit < len(table):
            asked = limited(table, limit, 1 if self.known == "true" else BLOCK * wanted)
            why = "spread over the relations; a higher limit adds others to them"
            steps.append(Step("limit", limit, len(table) - limit, why))
        answers = self._answers(engine, asked, document)
        right = sum(answer.right for answer in answers)
        similarity = float(required(document, "overlap_similarity"))
        answers, others = contradictable(answers, table, self.known, similarity, wanted, steps)
        counters = counter_objects(
            engine,
            answers,
            others,
            model.encode([self._elicitation(model, x.fact, document) for x in answers]),
            wanted,
            lambda query, word: self._begins(model, query, word, document),
        )
        prompts = self._prompts(model, answers, counters, Contexts(document, self.placement, self.context, table, seed))
        steps += self._remarks(model, answers, prompts, wanted)
        return Prepared(
            prompts=tuple(prompts),
            steps=tuple(steps),
            details={
                "facts_recalled": right,
                "facts_asked": len(asked),
                "nested_objects": sum(_nested(prompt) for prompt in prompts),
                "until": self._until(document),
                "max_new_tokens": self._tokens(document),
                "elicitation_prompt": self._elicitation(model, answers[0].fact, document),
                "conflict_prompt": prompts[0].text,
            },
        )

    def _answers(self, engine: Engine, facts: Sequence[Fact], document: Document) -> list[Answer]:
        """What the untouched model says of the facts."""
        model, until = engine.model, self._until(document)
        asked = model.encode([self._elicitation(model, fact, document) for fact in facts])
        said = engine.generate(asked, [BASELINE], self._tokens(document), stop_tokens(model, until)).tokens[0]
        return [answered(fact, cut(text, until)) for fact, text in zip(facts, decode(model, said), strict=True)]

    def _remarks(
        self, model: Model, answers: Sequence[Answer], prompts: Sequence[Prompt], wanted: int
    ) -> Iterator[Step]:
        """How many prompts there are, and what is to be known of them."""
        n = len(prompts)
        yield Step("prompts", n, 0, PROMPTS[self.context].format(n=wanted, facts=len(answers)))
        if self.known == "any":
            right = sum(answer.right for answer in answers)
            why = f"the model is right about {right} of these facts; its other answers count as knowledge (known=any)"
            yield Step("any answer", n, 0, why)
        if alike := sum(_nested(prompt) for prompt in prompts):
            why = f"in {alike} of them one object begins with the other: the longer one in an answer counts"
            yield Step("nested objects", n, 0, why)
        if not self.chat and getattr(model.tokenizer, "chat_template", None) is not None:
            why = "the model has a chat template, through which it was not asked; chat=true does"
            yield Step("plain text", n, 0, why)

    def _until(self, document: Document) -> list[str]:
        return [str(stop) for stop in required(document, "generation_kwargs", "until")]

    def _int(self, document: Document, given: int | None, *place: str) -> int:
        return int(required(document, *place)) if given is None else given

    def _tokens(self, document: Document) -> int:
        return self._int(document, self.max_new_tokens, "generation_kwargs", "max_gen_toks")

    def _elicitation(self, model: Model, fact: Fact, document: Document) -> str:
        template = required(document, "prompts", "elicitation")
        values = {
            "description": fact.description,
            "example": f"{fact.relation.example}.",
            "query": fact.query,
        }
        return self._ask(model, render(template, values, document.where("prompts", "elicitation")), document)

    def _ask(self, model: Model, text: str, document: Document) -> str:
        """What the model reads: the text, in a conversation where that is wanted."""
        if not self.chat:
            return text
        instruction = required(document, "prompts", "instruction") if self.instruction is None else self.instruction
        return chat(model, f"{instruction}\n{text}".strip())

    def _begins(self, model: Model, query: str, word: str, document: Document) -> int:
        """The first token of an answer: it continues the question, or opens the model's turn in a conversation."""
        return first_token(model, self._ask(model, query, document), word, "" if self.chat else " ")

    def _prompts(
        self, model: Model, answers: Sequence[Answer], counters: Sequence[Sequence[str]], contexts: Contexts
    ) -> list[Prompt]:
        aliases = other_names((x.relation.name, (x.object, *x.aliases)) for x in contexts.facts)
        # A fact's prompts share the parametric object.
        begins = cache(lambda query, word: self._begins(model, query, word, contexts.document))
        pairs: list[tuple[Answer, Statement, str]] = []
        for x, others in zip(answers, counters, strict=True):
            statements = contexts.statements(x, others)
            written = contexts.texts(x, statements)
            pairs += [(x, *pair) for pair in zip(statements, written, strict=True)]
        texts = [self._ask(model, text, contexts.document) for _, _, text in pairs]
        return [
            Prompt(
                id=f"{x.fact.relation.name}/{x.fact.subject}/{stated.object}",
                text=text,
                tokens=tuple(tokens),
                cluster=f"{x.fact.relation.name}/{x.fact.query}",
                fields={
                    "relation": x.fact.relation.name,
                    "group": x.fact.relation.group,
                    "subject": x.fact.subject,
                    "object": x.fact.object,
                    "right": x.right,
                    "parametric_object": x.text,
                    "counter_object": stated.object,
                    "parametric_aliases": _aliases(aliases, x.fact.relation.name, x.text),
                    "counter_aliases": _aliases(aliases, stated.relation, stated.object),
                    "first_tokens": [begins(x.fact.query, word) for word in (stated.object, x.text)],
                },
            )
            for (x, stated, _), text, tokens in zip(pairs, texts, model.encode(texts), strict=True)
        ]

    def gives(self) -> frozenset[str]:
        fields = ("field first_tokens", "field group", "field relation")
        tempered = ("log_odds", "tempered_log_odds", "log_temperature", "no_temperature")
        judged = ("tokens", "confidence", "right")
        return frozenset(
            {*MATCHINGS.values(), "entropy", "log_p_ck", "log_p_pk", "log_p_nd", *tempered, *judged, *fields}
        )

    # -- the observation ----------------------------------------------------------------------------------------------

    def observe(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
    ) -> Outcomes:
        """Greedy answers under every condition: their source, and the distribution of their first token.

        Values: ``source``, ``source_normalised`` and ``source_alias`` (codes of SOURCES), ``entropy`` (nats),
        ``log_p_ck``, ``log_p_pk`` (the counter and the parametric object's first token) and ``log_p_nd`` (everything
        else together), all of the first answer token; ``log_odds`` of CK and PK (NaN where they begin with one token),
        and what :class:`harness.builtin.temperature.Temperature` puts beside it; ``confidence`` in the first token
        that is said, whether that is ``right``, and ``tokens``: whether this counts (NOTE); ``activations`` of each
        condition's neurons in the untouched model, there [n_conditions, n_prompts, k].
        """
        document = self._table().document()
        until = self._until(document)
        made = engine.generate(
            [prompt.tokens for prompt in prompts],
            conditions,
            self._tokens(document),
            stop_tokens(engine.model, until),
            choices=[prompt.fields["first_tokens"] for prompt in prompts],
            progress=progress,
            tempered=True,
            watched=True,
        )
        told = sum(condition.shown for condition in conditions)
        answers, source = _answers(engine.model, made.tokens, prompts, until, told)
        log_p = np.maximum(made.choices, LOG_FLOOR)
        same = np.array([len(set(prompt.fields["first_tokens"])) == 1 for prompt in prompts])
        rest = 1 - np.exp(made.choices[..., 0]) - np.where(same, 0.0, np.exp(made.choices[..., 1]))
        before, equal = made.equal_entropy(conditions)
        odds, tempered = (
            np.where(same, np.nan, np.subtract(*np.moveaxis(np.maximum(x, LOG_FLOOR), -1, 0)))
            for x in (made.choices, np.moveaxis(equal.log_p(made.choices[before].T), 0, -1))
        )
        judged = np.array([_judged(prompt) for prompt in prompts])
        confidence, at_equal = (
            np.where(judged, np.exp(np.minimum(x, 0.0)), 0.0).astype(np.float32)
            for x in (made.top, equal.log_p(made.top[before]))
        )
        memory = np.array([prompt.fields["first_tokens"][1] for prompt in prompts])
        return Outcomes(
            conditions=tuple(conditions),
            prompts=tuple(prompts),
            values={
                **source,
                "entropy": made.entropy.astype(np.float32),
                "log_p_ck": log_p[..., 0].astype(np.float32),
                "log_p_pk": log_p[..., 1].astype(np.float32),
                "log_p_nd": np.log(np.maximum(rest, np.exp(LOG_FLOOR))).astype(np.float32),
                "log_odds": odds.astype(np.float32),
                "tempered_log_odds": tempered.astype(np.float32),
                "log_temperature": equal.log_temperature.astype(np.float32),
                "no_temperature": equal.outside,
                "tokens": np.broadcast_to(judged, confidence.shape),
                "confidence": confidence,
                "right": (made.tokens[..., 0] == memory) & judged,
                "tempered_confidence": at_equal,
                **({} if made.watched is None else {"activations": made.watched.by_condition(conditions)}),
            },
            details={
                "tempered": [{"outcome": "log_odds", "title": "log(P_CK/P_PK)", "unit": "nats"}],
                "calibrated": {"word": "answer", "note": NOTE},
            },
            answers=answers,
            categories=dict.fromkeys(source, SOURCES),
        )


def _judged(prompt: Prompt) -> bool:
    """Whether the answer's first token tells a right answer: memory is right, and the context's object begins otherwise
    (or is the same)."""
    fields = prompt.fields
    apart = len(set(fields["first_tokens"])) == 2 or fields["counter_object"] == fields["parametric_object"]
    return bool(fields["right"]) and apart


def _nested(prompt: Prompt) -> bool:
    return nested(prompt.fields["counter_object"], prompt.fields["parametric_object"])


def _aliases(known: Mapping[str, Mapping[str, tuple[str, ...]]], relation: str, name: str) -> list[str]:
    """Other names of an object of a relation."""
    return list(known.get(relation, {}).get(normalise(name), ()))


def _answers(
    model: Model, tokens: np.ndarray, prompts: Sequence[Prompt], until: Sequence[str], n_told: int
) -> tuple[tuple[tuple[str, ...], ...], dict[str, np.ndarray]]:
    """Answers of the first ``n_told`` conditions, and codes of the sources of all, by each way to match: [C, N] each.

    Most conditions say of a prompt what the first does: each other row of tokens [C, N, length] is decoded once.
    """
    source = {name: np.empty(tokens.shape[:2], np.int8) for name in MATCHINGS.values()}
    answers: list[list[str]] = [[] for _ in range(n_told)]
    others = (tokens != tokens[:1]).any(-1)
    for i, prompt in enumerate(prompts):
        distinct, which = tokens[:1, i], others[:, i].astype(np.int64)
        if which.any():  # sorting rows is slow
            rows, which[others[:, i]] = np.unique(tokens[others[:, i], i], axis=0, return_inverse=True)
            which[others[:, i]] += 1
            distinct = np.concatenate([distinct, rows])
        texts = [cut(text, until) for text in decode(model, distinct)]
        names = [
            prompt.fields[name]
            for name in ("counter_object", "parametric_object", "counter_aliases", "parametric_aliases")
        ]
        codes = np.array([sources(text, *names) for text in texts], np.int8)
        for array, column in zip(source.values(), codes.T, strict=True):
            array[:, i] = column[which]
        for row, answer in zip(answers, which[:n_told], strict=True):
            row.append(texts[answer])
    return tuple(map(tuple, answers)), source
