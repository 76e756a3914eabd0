"""What stands before the question: a statement that contradicts, agrees or has nothing to do with it, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.data import Fact, render
from harness.data.fact_table import required
from harness.files.yaml import Document
from harness.plugin import HarnessError, counted

from .elicitation import Answer

Placement = Literal["sentence", "paragraph", "document"]
Context = Literal["conflicting", "agreeing", "irrelevant"]

NEUTRAL = {"sentence": 0, "paragraph": 2, "document": 4}
"""Neutral sentences around the statement: half of them before it, half after."""


@dataclass(frozen=True)
class Statement:
    """What a context states: an object for a query, of a relation."""

    relation: str
    query: str
    object: str


@dataclass(frozen=True)
class Contexts:
    """Writes statements and the prompts that hold them; what is drawn depends on ``seed`` and the fact alone.

    Attributes:
        facts: the whole table: what irrelevant and neutral sentences are made of. They come from other relation groups
            than the question's (other relations where there is one group only) and name nothing that it is about.
    """

    document: Document
    placement: Placement
    context: Context
    facts: Sequence[Fact]
    seed: int

    def statements(self, answer: Answer, counters: Sequence[str]) -> list[Statement]:
        """What is stated before this question, one statement a prompt: ``counters`` say how many, and with which object
        the question is contradicted. There is one way only to agree."""
        fact = answer.fact
        if self.context == "irrelevant":
            drawn = self._draw("irrelevant", fact, [fact.subject, fact.object, answer.text], len(counters))
            return [Statement(x.relation.name, x.query, x.object) for x in drawn]
        objects = [answer.text] if self.context == "agreeing" else counters
        return [Statement(fact.relation.name, fact.query, text) for text in objects]

    def texts(self, answer: Answer, statements: Sequence[Statement]) -> Iterator[str]:
        """The prompt with each statement; those of one fact have the same neutral sentences."""
        fact, document = answer.fact, self.document
        name: str = self.placement
        if self.placement == "sentence":
            name = "irrelevant" if self.context == "irrelevant" else "conflict"
        template, where = required(document, "prompts", name), document.where("prompts", name)
        topics = [fact.subject, fact.object, answer.text, *(x.object for x in statements)]
        n = NEUTRAL[self.placement]
        neutral = [self._state(x.query, x.object) for x in self._draw("neutral", fact, topics, n)] if n else []
        for statement in statements:
            places = {
                "query": fact.query,
                "counter_object": statement.object,
                "statement": self._state(statement.query, statement.object) if name != "conflict" else "",
                "before": " ".join(neutral[: n // 2]),
                "after": " ".join(neutral[n // 2 :]),
                "title": fact.subject,
            }
            yield render(template, places, where)

    def _state(self, query: str, known: str) -> str:
        place = ("prompts", "statement")
        template = required(self.document, *place)
        return render(template, {"query": query, "object": known}, self.document.where(*place))

    def _draw(self, what: str, fact: Fact, topics: Sequence[str], n: int) -> list[Fact]:
        """``n`` facts with distinct objects that have nothing to do with ``fact`` and name none of its ``topics``.

        Raises:
            HarnessError: the table has not so many.
        """
        from harness.statistics import generator

        avoided = [topic.lower() for topic in topics]
        order = generator(self.seed, what, fact.relation.name, fact.query).permutation(len(self.facts))
        looser: tuple[Callable[[Fact], bool], ...] = (
            lambda x: x.relation.group == fact.relation.group,
            lambda x: x.relation == fact.relation,
        )
        for near in looser:
            drawn: dict[str, Fact] = {}
            for place in order:
                other = self.facts[place]
                said = f"{other.query} {other.object}".lower()
                if not near(other) and not any(topic in said for topic in avoided):
                    drawn.setdefault(other.object.lower(), other)
                if len(drawn) == n:
                    return list(drawn.values())
        raise HarnessError(
            f"task knowledge_conflict: the table has no {counted(n, 'fact')} of other relations that say nothing about "
            f'"{fact.subject}", which {what} sentences are made of; use placement=sentence and '
            "context=conflicting, or a table with more relations."
        )
