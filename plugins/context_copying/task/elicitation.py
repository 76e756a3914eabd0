"""What the model says of the facts: which answers can be contradicted, and with what."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.data import Fact
from harness.plugin import BASELINE, HarnessError, Step, counted

from .answer_sources import overlap

if TYPE_CHECKING:
    from harness.plugin import Engine


@dataclass(frozen=True)
class Answer:
    """What the model says of a fact: its surface form and, for comparisons, its lower-cased form."""

    fact: Fact
    text: str

    @property
    def key(self) -> str:
        return self.text.lower()


def filtered(answers: list[Answer], similarity: float, wanted: int, steps: list[Step]) -> list[Answer]:
    """Apply the paper's filters in order, and count in ``steps`` what each drops.

    Args:
        similarity: Jaro-Winkler similarity from which subject and answer overlap. wanted: other answers of its
            relation that a fact needs.

    Raises:
        HarnessError: nothing is left.
    """
    before = len(steps)

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
        f"the relation has fewer than {counted(wanted, 'other answer')} to contradict it with",
        lambda x: len(objects[x.fact.relation.name]) > wanted,
    )
    if not answers:
        worst = max(steps[before:], key=lambda step: step.dropped)
        raise HarnessError(
            "task knowledge_conflict: no prompt is left after the filters; "
            f'most ({worst.dropped}) were dropped because {worst.why} (step "{worst.name}").'
        )
    return answers


def counter_objects(
    engine: Engine,
    answers: Sequence[Answer],
    prompts: Sequence[Sequence[int]],
    wanted: int,
    begins: Callable[[str, str], int],
) -> list[list[str]]:
    """For each answer the objects of its relation that the model finds least likely, least likely first.

    Args:
        prompts: token ids of the elicitation prompt of each answer. wanted: how many objects.
        begins: the first token of a word (second) after a query (first).
    """
    surfaces: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    natural: dict[str, str] = {}
    for x in answers:
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
        ranked = sorted((scores[i], form) for i, (key, form) in enumerate(forms.items()) if key != x.key)
        chosen.append([form for _, form in ranked[:wanted]])
    return chosen
