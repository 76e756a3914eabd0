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

from pydantic import Field, field_validator

from harness.data import Fact, FactSource, FactTable, limited, render
from harness.data.fact_table import required
from harness.data.facts import COLUMNS, OPTIONAL_COLUMNS
from harness.files.templates import check
from harness.files.yaml import Document
from harness.model import decode, first_token, stop_tokens, token_spans
from harness.plugin import (
    BASELINE,
    Condition,
    Outcomes,
    Prepared,
    Prompt,
    Source,
    Step,
    Task,
    Template,
    counted,
    suggest,
)

from .answer_sources import (
    MATCHINGS,
    SOURCES,
    cut,
    knowledge_source,
    nested,
    normalise,
    other_names,
    overlap,
)
from .chat_template import chat
from .contexts import Context, Contexts, Placement, Statement
from .elicitation import Answer, Known, answered, contradictable, counter_objects
from .observation import CODE_TOKENS, LOG_FLOOR, asked_tokens, code_token, observed
from .parts import parts_of

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

    ``first_token``: log-odds are about the tokens with which the objects begin where they stand. *reencoded* takes
    P_CK and P_PK as the authors' code does, so that its numbers can be compared: the most likely token's for the source
    that the answer comes from; for the other that of the object's first token decoded and encoded again with another
    space in front, often the space itself. P_ND stays everything else (theirs is the second most likely token).
    """

    name = "knowledge_conflict"
    version = "3"
    later: ClassVar[frozenset[str]] = frozenset({"first_token"})
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
    first_token: Literal["in_place", "reencoded"] = Field(
        "in_place", description="of an object, for log_p_ck and log_p_pk; reencoded: as in the authors' code, see above"
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
        if self.first_token == "reencoded":
            first, again = ([token for x in prompts for token in x.fields[k]] for k in ("first_tokens", CODE_TOKENS))
            other = sum(a != b for a, b in zip(first, again, strict=True))
            why = (
                f"log-odds of CK and PK are those of the authors' code: of {counted(len(first), 'object')}, encoded "
                f"again with a space in front, {other} begin with another token than where they stand"
            )
            yield Step("re-encoded", n, 0, why)
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
        again = cache(lambda token: code_token(model, token))
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
                    "first_tokens": (first := [begins(x.fact.query, word) for word in (stated.object, x.text)]),
                    **({} if self.first_token == "in_place" else {CODE_TOKENS: [again(token) for token in first]}),
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

    def acts_at(self) -> frozenset[str]:
        return super().acts_at() | {"subject", "object", "context"}

    def named_spans(self, prompts: Sequence[Prompt], model: Model) -> list[dict[str, tuple[int, int]]]:
        """``subject``: that of the question. ``object``: that of the statement before it. ``context``: the statement,
        with its object."""
        return [token_spans(model, x.text, parts_of(x), f"task {self.name}: prompt {x.id}") for x in prompts]

    # -- the observation ----------------------------------------------------------------------------------------------

    def observe(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
    ) -> Outcomes:
        """Greedy answers under every condition: their source, and the distribution of their first token.

        Values: :func:`~.observation.observed`.
        """
        document = self._table().document()
        until = self._until(document)
        made = engine.generate(
            [prompt.tokens for prompt in prompts],
            conditions,
            self._tokens(document),
            stop_tokens(engine.model, until),
            choices=[asked_tokens(prompt) for prompt in prompts],
            progress=progress,
            tempered=True,
            watched=True,
            spans=[prompt.spans for prompt in prompts],
        )
        return observed(engine.model, made, prompts, conditions, until)


def _nested(prompt: Prompt) -> bool:
    return nested(prompt.fields["counter_object"], prompt.fields["parametric_object"])


def _aliases(known: Mapping[str, Mapping[str, tuple[str, ...]]], relation: str, name: str) -> list[str]:
    """Other names of an object of a relation."""
    return list(known.get(relation, {}).get(normalise(name), ()))
