"""What the model says of the facts: which answers can be contradicted, and with what."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from harness.data import Fact
from harness.plugin import BASELINE, HarnessError, Step, counted

from .answer_sources import name_said, overlap

if TYPE_CHECKING:
    from harness.plugin import Engine

Known = Literal["true", "any"]


@dataclass(frozen=True)
class Answer:
    """What the model says of a fact.

    Attributes:
        text: its surface form.
        right: whether it begins with one of the object's names.
        names: what does not contradict it, lower-cased.
    """

    fact: Fact
    text: str
    right: bool
    names: frozenset[str]

    @property
    def key(self) -> str:
        """Its lower-cased form, for comparisons."""
        return self.text.lower()


def answered(fact: Fact, text: str) -> Answer:
    """An answer as the paper takes it: whatever is said is what the model knows."""
    right = name_said(text, (fact.object, *fact.aliases)) is not None
    return Answer(fact, text, right, frozenset({text.lower()}))


def named(answer: Answer) -> Answer:
    """A right answer, as the name of the object that it begins with; no other name contradicts it."""
    names = (answer.fact.object, *answer.fact.aliases)
    said = name_said(answer.text, names) or answer.text
    return replace(answer, text=said, names=frozenset(name.lower() for name in (said, *names)))


def contradictable(
    answers: list[Answer], table: Iterable[Fact], known: Known, similarity: float, wanted: int, steps: list[Step]
) -> tuple[list[Answer], list[Answer]]:
    """Apply the filters in order, and count in ``steps`` what each drops.

    With ``known="any"`` they are the paper's: the answers themselves decide which of them are shared between groups and
    which objects a relation has. With ``known="true"`` an answer must be right, and the rest is decided by the facts of
    the whole table, as if all of them were answered rightly: what becomes of a fact depends on its own answer alone.

    Args:
        similarity: Jaro-Winkler similarity from which subject and answer overlap. wanted: objects of its relation that
            must contradict an answer.

    Returns:
        The answers that are left, and those (not necessarily the model's) whose objects can contradict them.

    Raises:
        HarnessError: no answer is left.
    """
    before, any_answer = len(steps), known == "any"
    others = [] if any_answer else [named(answered(fact, fact.object)) for fact in table]

    def keep(name: str, why: str, good: Callable[[Answer], Any]) -> None:
        nonlocal answers, others
        kept = [answer for answer in answers if good(answer)]
        steps.append(Step(name, len(kept), len(answers) - len(kept), why))
        answers, others = kept, kept if any_answer else [answer for answer in others if good(answer)]

    keep("empty", "the answer is empty", lambda x: bool(x.key))
    if not any_answer:
        keep("wrong", "the answer is none of the object's names (known=any keeps it)", lambda x: x.right)
        answers = [named(answer) for answer in answers]
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
    for x in others:
        groups["subject", x.fact.subject.lower()].add(x.fact.relation.group)
        groups["object", x.key].add(x.fact.relation.group)
    keep(
        "shared entity",
        "subject or answer also occurs in another relation group",
        lambda x: groups["subject", x.fact.subject.lower()] | groups["object", x.key] <= {x.fact.relation.group},
    )
    objects = defaultdict(set)
    for x in others:
        objects[x.fact.relation.name].add(x.key)
    keep(
        "too few objects",
        f"the relation has fewer than {counted(wanted, 'other answer')} to contradict it with",
        lambda x: len(objects[x.fact.relation.name] - x.names) >= wanted,
    )
    if not answers:
        worst = max(steps[before:], key=lambda step: step.dropped)
        raise HarnessError(
            "task knowledge_conflict: no prompt is left after the filters; "
            f'most ({worst.dropped}) were dropped because {worst.why} (step "{worst.name}").'
        )
    return answers, others


def counter_objects(
    engine: Engine,
    answers: Sequence[Answer],
    others: Iterable[Answer],
    prompts: Sequence[Sequence[int]],
    wanted: int,
    begins: Callable[[str, str], int],
) -> list[list[str]]:
    """For each answer the objects of its relation that the model finds least likely, least likely first.

    Args:
        others: whose objects can contradict the answers.
        prompts: token ids of the elicitation prompt of each answer. wanted: how many objects.
        begins: the first token of a word (second) after a query (first).
    """
    surfaces: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    natural: dict[str, str] = {}
    relations = {x.fact.relation.name for x in answers}
    for x in (x for x in others if x.fact.relation.name in relations):
        surfaces[x.fact.relation.name][x.key][x.text] += 1
        natural.setdefault(x.fact.relation.name, x.fact.query)  # a place in which to tokenise the relation's objects
    # One spelling for each object: the commonest; among equals the first in the alphabet.
    objects = {
        relation: {key: min(forms, key=lambda form: (-forms[form], form)) for key, forms in sorted(keys.items())}
        for relation, keys in surfaces.items()
    }
    first = {
        relation: [begins(natural[relation], form) for form in forms.values()] for relation, forms in objects.items()
    }
    widest = max(len(tokens) for tokens in first.values())
    choices = [(first[x.fact.relation.name] + [0] * widest)[:widest] for x in answers]
    log_probs = engine.generate(prompts, [BASELINE], 1, choices=choices).choices[0]
    chosen = []
    for x, scores in zip(answers, log_probs, strict=True):
        forms = objects[x.fact.relation.name]
        ranked = sorted((scores[i], form) for i, (key, form) in enumerate(forms.items()) if key not in x.names)
        chosen.append([form for _, form in ranked[:wanted]])
    return chosen
