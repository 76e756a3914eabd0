"""The knowledge-conflict task (Tighidet et al. 2025, PAPERS B): does the model answer from its context or its memory?

1. *Elicitation*: ask the model for the object of every fact; what it says is its parametric object (PK).
2. *Filters*: drop answers that say nothing about conflict (empty, overlapping the subject, echoing the example ...).
3. *Counter-parametric objects*: of the other parametric objects of the relation, the ones whose first token the model
   finds least likely.
4. *Conflict*: state the fact with a counter object (CK) and ask again. The greedy answer comes from the context (CK),
   from memory (PK), or is not defined by either (ND).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from harness.components import Task
from harness.conditions import BASELINE, Condition
from harness.errors import HarnessError
from harness.outcomes import Outcomes, Prepared, Prompt, Step
from harness.yamlfile import Document, load_yaml

from .facts import Fact, Relation, file_digest, is_file, read_facts, read_rows, render

if TYPE_CHECKING:
    from harness.engine import Engine, Progress
    from harness.model import Model

SOURCES = ("CK", "PK", "ND")
"""Knowledge sources: context, parametric memory, not defined. Their places are the codes of the outcome ``source``."""

LOG_FLOOR = -16.6
"""log 2^-24: probabilities below the resolution of float32 are not told apart."""


def cut(text: str, until: Sequence[str]) -> str:
    """An answer: the text before the first of the stop strings, stripped."""
    ends = [place for place in map(text.find, until) if place >= 0]
    return text[: min(ends, default=len(text))].strip()


def overlap(subject: str, answer: str, similarity: float) -> bool:
    """Whether subject and object are too alike: one contains the other, or Jaro-Winkler similarity is high."""
    from rapidfuzz.distance import JaroWinkler

    a, b = subject.lower(), answer.lower()
    return a in b or b in a or JaroWinkler.normalized_similarity(subject, answer) >= similarity


def knowledge_source(answer: str, counter_object: str, parametric_object: str) -> int:
    """Code of the answer's source: its leading words are the counter object's (CK), else the parametric one's (PK)."""
    words = answer.lower().split()
    for code, known in enumerate((counter_object, parametric_object)):
        wanted = known.lower().split()
        if wanted and words[: len(wanted)] == wanted:
            return code
    return SOURCES.index("ND")


@dataclass(frozen=True)
class Answer:
    """What the model says of a fact: its surface form and, for comparisons, its lower-cased form."""

    fact: Fact
    text: str

    @property
    def key(self) -> str:
        return self.text.lower()


class KnowledgeConflict(Task):
    """Contexts that contradict what the model knows: does it answer from the context or from memory?"""

    name = "knowledge_conflict"
    default_metrics: ClassVar[tuple[str, ...]] = ("transitions", "conversion_ratios", "entropy_change", "log_odds")

    data: str | None = Field(None, description="facts: a .jsonl, .csv, .tsv or .json file, or a dataset id on the hub")
    relations: str | None = Field(
        None, description="relations: a .jsonl, .csv or .json file; default: the definition's"
    )
    definition: str | None = Field(None, description="the task's YAML; default: the one that ships with the harness")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="column mapping, for example {subject: head, relation: property, object: tail}",
    )
    relation_columns: dict[str, str] = Field(
        default_factory=dict, description="column mapping of the relations: relation, group, query, description"
    )
    query: str | None = Field(None, description='query template for all relations, for example "{subject} {phrase}"')
    example: str | None = Field(None, description="template of the one-shot statement from a relation's columns")
    subset: str | None = Field(None, description="configuration of the hub dataset")
    split: str = Field("train", description="split of the hub dataset")
    revision: str | None = Field(None, description="revision of the hub dataset")
    duplicates: Literal["error", "drop"] = Field("error", description="what to do when a question stands there twice")
    counter_objects: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="counter-parametric objects for each fact; default: the definition's (3)"
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="length of the greedy answers; default: the definition's (10)"
    )

    # -- the data -----------------------------------------------------------------------------------------------------

    def _definition(self) -> Document:
        default = files("harness_tasks") / "knowledge_conflict" / "knowledge_conflict.yaml"
        return load_yaml(Path(self.definition) if self.definition else Path(str(default)))

    def _source(self, document: Document) -> str:
        """Path or hub id of the facts."""
        if self.data is not None:
            return self.data
        return str(document.path.parent / _get(document, "dataset_kwargs", "data_files"))

    def data_digest(self) -> str:
        document = self._definition()
        named = [self._source(document), *([self.relations] if self.relations else [])]
        local = [Path(name).expanduser() for name in named if is_file(name)]
        missing = next((path for path in local if not path.is_file()), None)
        if missing:
            raise HarnessError(f"{missing}: there is no such file.")
        return file_digest([document.path, *local])

    def facts(self) -> list[Fact]:
        """Read and check the table of facts.

        Raises:
            HarnessError: names the file and the line of the first mistake.
        """
        document = self._definition()
        source = self._source(document)
        rows = read_rows(source, self.subset, self.split, self.revision)
        return read_facts(rows, self._relations(document), self.columns, source, self.duplicates)

    def _relations(self, document: Document) -> dict[str, Relation]:
        if self.relations is not None:
            rows = [
                (f"{self.relations}, line {line}", row) for line, row in read_rows(self.relations, None, "train", None)
            ]
        else:
            rows = [(document.where("relations", i), row) for i, row in enumerate(_get(document, "relations"))]
        return {relation.name: relation for relation in (self._relation(row, where) for where, row in rows)}

    def _relation(self, row: Mapping[str, Any], where: str) -> Relation:
        def column(name: str, default: str | None = None) -> str:
            value = row.get(self.relation_columns.get(name, name), default)
            if not isinstance(value, str) or not value.strip():
                raise HarnessError(f'{where}: a relation needs "{self.relation_columns.get(name, name)}".')
            return value

        query = self.query or column("query")
        shown = row.get("example")
        if self.example is not None:
            example, echoes = render(self.example, row, where), [str(v) for k, v in row.items() if "example" in k]
        elif isinstance(shown, Mapping) and {"subject", "object"} <= set(shown):
            example = f"{render(query, shown, where)} {shown['object']}"
            echoes = [shown["subject"], shown["object"]]
        else:
            raise HarnessError(f'{where}: a relation needs "example" with subject and object.')
        return Relation(
            name=column("relation"),
            group=column("group"),
            query=query,
            description=column("description"),
            example=example.rstrip("."),
            echoes=tuple(text.strip().lower() for text in echoes),
        )

    # -- the prompts --------------------------------------------------------------------------------------------------

    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        """Elicit, filter, choose counter objects and write the conflict prompts; counts every step."""
        document = self._definition()
        facts = self.facts()
        steps = [Step("facts", len(facts), 0, "facts in the table")]
        if limit is not None and limit < len(facts):
            facts = [facts[i] for i in np.linspace(0, len(facts) - 1, limit).round().astype(int)]
            steps.append(Step("limit", limit, steps[-1].kept - limit, "spread evenly over the table"))
        until = [str(stop) for stop in _get(document, "generation_kwargs", "until")]
        answers = self._elicit(engine, facts, document, until)
        recalled = sum(answer.key.startswith(answer.fact.object.lower()) for answer in answers)
        answers = self._filter(answers, document, steps)
        counters = self._counter_objects(engine, answers, document)
        prompts = self._prompts(engine.model, answers, counters, document)
        wanted = self._int(document, "counter_objects", self.counter_objects)
        steps.append(
            Step(
                "prompts",
                len(prompts),
                0,
                f"conflict prompts, {wanted} counter objects for each of {len(answers)} facts",
            )
        )
        return Prepared(
            prompts=tuple(prompts),
            steps=tuple(steps),
            details={
                "facts_recalled": recalled,
                "facts_asked": len(facts),
                "until": until,
                "max_new_tokens": self._tokens(document),
                "elicitation_prompt": self._elicitation(answers[0].fact, document),
                "conflict_prompt": prompts[0].text,
            },
        )

    def _int(self, document: Document, key: str, given: int | None, *place: str) -> int:
        return int(_get(document, *place, key)) if given is None else given

    def _tokens(self, document: Document) -> int:
        return self._int(document, "max_gen_toks", self.max_new_tokens, "generation_kwargs")

    def _elicitation(self, fact: Fact, document: Document) -> str:
        template = _get(document, "prompts", "elicitation")
        values = {
            "description": fact.description,
            "example": f"{fact.relation.example}.",
            "query": fact.query,
        }
        return render(template, values, document.where("prompts", "elicitation"))

    def _elicit(self, engine: Engine, facts: Sequence[Fact], document: Document, until: Sequence[str]) -> list[Answer]:
        prompts = engine.model.encode([self._elicitation(fact, document) for fact in facts])
        stop = stop_tokens(engine.model, until)
        new = engine.generate(prompts, [BASELINE], self._tokens(document), stop).tokens[0]
        return [Answer(fact, cut(text, until)) for fact, text in zip(facts, decode(engine.model, new), strict=True)]

    def _filter(self, answers: list[Answer], document: Document, steps: list[Step]) -> list[Answer]:
        """Apply the paper's filters in order, and count what each drops.

        Raises:
            HarnessError: nothing is left.
        """
        before = len(steps)
        similarity = float(_get(document, "overlap_similarity"))
        wanted = self._int(document, "counter_objects", self.counter_objects)

        def keep(name: str, why: str, good: Any) -> None:
            nonlocal answers
            kept = [answer for answer in answers if good(answer)]
            steps.append(Step(name, len(kept), len(answers) - len(kept), why))
            answers = kept

        keep("empty", "the answer is empty", lambda x: bool(x.key))
        keep(
            "overlap",
            f"answer and subject overlap (one contains the other, or Jaro-Winkler >= {similarity:g})",
            lambda x: not overlap(x.fact.subject, x.text, similarity),
        )
        # An answer that is right is no echo, even where the example happens to share it (as in the authors' code).
        keep(
            "echo",
            "the answer only echoes the one-shot example",
            lambda x: x.key == x.fact.object.lower() or x.key not in x.fact.relation.echoes,
        )
        groups: dict[tuple[str, str], set[str]] = defaultdict(set)
        for x in answers:
            groups["subject", x.fact.subject.lower()].add(x.fact.relation.group)
            groups["object", x.key].add(x.fact.relation.group)
        keep(
            "shared entity",
            "subject or answer also occurs in another relation group",
            lambda x: len(groups["subject", x.fact.subject.lower()]) == 1 and len(groups["object", x.key]) == 1,
        )
        objects: dict[str, set[str]] = defaultdict(set)
        for x in answers:
            objects[x.fact.relation.name].add(x.key)
        keep(
            "too few objects",
            f"the relation has fewer than {wanted} other answers to contradict it with",
            lambda x: len(objects[x.fact.relation.name]) > wanted,
        )
        if not answers:
            worst = max(steps[before:], key=lambda step: step.dropped)
            raise HarnessError(
                "task knowledge_conflict: no prompt is left after the filters; "
                f'most ({worst.dropped}) were dropped because {worst.why} (step "{worst.name}").'
            )
        return answers

    def _counter_objects(self, engine: Engine, answers: Sequence[Answer], document: Document) -> list[list[str]]:
        """For each answer the objects of its relation that the model finds least likely, least likely first."""
        wanted = self._int(document, "counter_objects", self.counter_objects)
        surfaces: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        for x in answers:
            surfaces[x.fact.relation.name][x.key][x.text] += 1
        # One spelling for each object: the commonest; among equals the first in the alphabet.
        objects = {
            relation: {key: min(forms, key=lambda form: (-forms[form], form)) for key, forms in sorted(keys.items())}
            for relation, keys in surfaces.items()
        }
        first = {
            relation: [first_token(engine.model, answers_context(answers, relation), form) for form in forms.values()]
            for relation, forms in objects.items()
        }
        widest = max(len(tokens) for tokens in first.values())
        choices = [(first[x.fact.relation.name] + [0] * widest)[:widest] for x in answers]
        prompts = engine.model.encode([self._elicitation(x.fact, document) for x in answers])
        log_probs = engine.generate(prompts, [BASELINE], 1, choices=choices).choices[0]
        chosen = []
        for x, scores in zip(answers, log_probs, strict=True):
            forms = objects[x.fact.relation.name]
            ranked = sorted((scores[i], form) for i, (key, form) in enumerate(forms.items()) if key != x.key)
            chosen.append([form for _, form in ranked[:wanted]])
        return chosen

    def _prompts(
        self, model: Model, answers: Sequence[Answer], counters: Sequence[Sequence[str]], document: Document
    ) -> list[Prompt]:
        template = _get(document, "prompts", "conflict")
        where = document.where("prompts", "conflict")
        pairs = [(x, counter) for x, others in zip(answers, counters, strict=True) for counter in others]
        texts = [render(template, {"query": x.fact.query, "counter_object": other}, where) for x, other in pairs]
        return [
            Prompt(
                id=f"{x.fact.relation.name}/{x.fact.subject}/{other}",
                text=text,
                tokens=tuple(tokens),
                cluster=f"{x.fact.relation.name}/{x.fact.query}",
                fields={
                    "relation": x.fact.relation.name,
                    "group": x.fact.relation.group,
                    "subject": x.fact.subject,
                    "object": x.fact.object,
                    "parametric_object": x.text,
                    "counter_object": other,
                    "first_tokens": [first_token(model, x.fact.query, other), first_token(model, x.fact.query, x.text)],
                },
            )
            for (x, other), text, tokens in zip(pairs, texts, model.encode(texts), strict=True)
        ]

    # -- the observation ----------------------------------------------------------------------------------------------

    def observe(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
    ) -> Outcomes:
        """Greedy answers under every condition: their source, and the distribution of their first token.

        Values: ``source`` (codes of SOURCES), ``entropy`` (nats), ``log_p_ck``, ``log_p_pk`` (the counter and the
        parametric object's first token) and ``log_p_nd`` (everything else together), all of the first answer token.
        """
        document = self._definition()
        until = [str(stop) for stop in _get(document, "generation_kwargs", "until")]
        made = engine.generate(
            [prompt.tokens for prompt in prompts],
            conditions,
            self._tokens(document),
            stop_tokens(engine.model, until),
            choices=[prompt.fields["first_tokens"] for prompt in prompts],
            progress=progress,
        )
        answers, source = _answers(engine.model, made.tokens, prompts, until)
        log_p = np.maximum(made.choices, LOG_FLOOR)
        same = np.array([len(set(prompt.fields["first_tokens"])) == 1 for prompt in prompts])
        rest = 1 - np.exp(made.choices[..., 0]) - np.where(same, 0.0, np.exp(made.choices[..., 1]))
        return Outcomes(
            conditions=tuple(condition.name for condition in conditions),
            prompts=tuple(prompts),
            values={
                "source": source,
                "entropy": made.entropy.astype(np.float32),
                "log_p_ck": log_p[..., 0].astype(np.float32),
                "log_p_pk": log_p[..., 1].astype(np.float32),
                "log_p_nd": np.log(np.maximum(rest, np.exp(LOG_FLOOR))).astype(np.float32),
            },
            answers=answers,
            categories={"source": SOURCES},
        )


def _answers(
    model: Model, tokens: np.ndarray, prompts: Sequence[Prompt], until: Sequence[str]
) -> tuple[tuple[tuple[str, ...], ...], np.ndarray]:
    """Answers of the first two conditions, and codes of the source of all answers [C, N], from tokens [C, N, length].

    Most conditions say the same of a prompt: each distinct row of tokens is decoded once.
    """
    source = np.empty(tokens.shape[:2], np.int8)
    answers: list[list[str]] = [[] for _ in tokens[:2]]
    for i, prompt in enumerate(prompts):
        distinct, which = np.unique(tokens[:, i], axis=0, return_inverse=True)
        texts = [cut(text, until) for text in decode(model, distinct)]
        objects = prompt.fields["counter_object"], prompt.fields["parametric_object"]
        source[:, i] = np.array([knowledge_source(text, *objects) for text in texts])[which]
        for row, answer in zip(answers, which[:2], strict=True):
            row.append(texts[answer])
    return tuple(map(tuple, answers)), source


def answers_context(answers: Sequence[Answer], relation: str) -> str:
    """A query of the relation, to tokenise its objects in a natural place."""
    return next(x.fact.query for x in answers if x.fact.relation.name == relation)


def first_token(model: Model, context: str, word: str) -> int:
    """The token with which ``word`` begins when it continues ``context``.

    Found where the encodings of ``context`` and ``context word`` part, so that every tokeniser's treatment of spaces is
    its own business.
    """
    before, after = model.encode([context, f"{context} {word}"])
    same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
    return after[same]


def stop_tokens(model: Model, until: Sequence[str]) -> frozenset[int]:
    """Tokens after which an answer is over: end-of-text, and those whose text holds a stop string."""
    texts = model.token_texts
    ends = {i for i, text in enumerate(texts) if any(stop in text for stop in until)}
    return frozenset(ends | set(model.end_tokens))


def decode(model: Model, tokens: np.ndarray) -> list[str]:
    """Texts of rows of new tokens [n, length], where -1 marks what comes after the end."""
    return model.tokenizer.batch_decode([[int(t) for t in row if t >= 0] for row in tokens], skip_special_tokens=True)


def _get(document: Document, *place: str) -> Any:
    """A required place of the task's definition."""
    value: Any = document.data
    for key in place:
        if not isinstance(value, Mapping) or key not in value:
            raise HarnessError(f'{document.where(*place)}: the task definition needs "{".".join(place)}".')
        value = value[key]
    return value
