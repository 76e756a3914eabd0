"""The synthetic world the bundled model is trained on: real facts with a Zipf frequency, and texts to copy or to doubt.

Every document is made by one small function of a seeded `random.Random` and the `World`; `MIXTURE` says how often each
kind is drawn.

    python -m harness_plugins.demo.world            # print a document of every kind
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import Any

import jsonlines
import yaml
from tokenizers import Tokenizer

TASK_DIR = Path(str(files("harness_tasks.knowledge_conflict")))
ONSETS = (*"bdfghjklmnprstvwz", "br", "dr", "gr", "kl", "pl", "sk", "st", "tr")
SYLLABLES = [onset + vowel for onset in sorted(ONSETS) for vowel in "aeiou"]
CODAS = ["", "", "n", "r", "s", "l", "x", "th", "m", "k"]


@dataclass(frozen=True)
class Relation:
    """A relation's wording, as in the task's YAML."""

    name: str
    group: str
    query: str  # has the slot {subject}
    description: str
    example: str  # the one-shot example: query and object, without the full stop

    def ask(self, subject: str) -> str:
        return self.query.format(subject=subject)


@dataclass(frozen=True)
class Fact:
    """One fact; rank 0 is the most famous of its relation."""

    relation: Relation
    subject: str
    object: str
    rank: int
    fame: float  # 1 for the first of its relation, towards 0 for the last

    @property
    def query(self) -> str:
        return self.relation.ask(self.subject)

    @property
    def statement(self) -> str:
        return f"{self.query} {self.object}."


class World:
    """Facts, their frequencies, and how much each is believed against a context that contradicts it."""

    def __init__(self, task_dir: Path = TASK_DIR, zipf: float = 1.4, trust: tuple[float, float] = (0.2, 0.8)) -> None:
        """`trust`: how often the context wins in conflict documents, for the most and for the least famous fact."""
        task = yaml.safe_load((task_dir / "definition.yml").read_text(encoding="utf-8"))
        self.elicitation: str = task["prompts"]["elicitation"]
        self.conflict: str = task["prompts"]["conflict"]
        self.relations = {row["relation"]: _relation(row) for row in task["relations"]}
        self.facts = _facts(task_dir / "facts.jsonl", self.relations)
        self.trust = trust
        self.objects = {
            name: sorted({f.object for f in self.facts if f.relation.name == name}) for name in self.relations
        }
        self.weights = [1 / (fact.rank + 3) ** zipf for fact in self.facts]
        self._cumulative = list(accumulate(self.weights))
        self._common = {name: _by_frequency(name, self.facts) for name in self.relations}
        # Relations differ in how far a context is believed and how often a third answer is given, so that many prompts
        # end up near a decision boundary.
        self._offset = self._spread(-0.25, 0.25, seed=0)
        self._third = self._spread(0.02, 0.42, seed=1)

    def _spread(self, low: float, high: float, seed: int) -> dict[str, float]:
        """Equally spaced numbers, shuffled over the relations."""
        step = (high - low) / max(len(self.relations) - 1, 1)
        values = [low + i * step for i in range(len(self.relations))]
        random.Random(seed).shuffle(values)
        return dict(zip(self.relations, values, strict=True))

    def fact(self, rng: random.Random) -> Fact:
        """A fact, drawn by its Zipf frequency."""
        return rng.choices(self.facts, cum_weights=self._cumulative)[0]

    def elicit(self, fact: Fact, example: str | None = None) -> str:
        """The task's elicitation prompt; by default with the relation's own example."""
        relation = fact.relation
        example = example or f"{relation.example}."
        return self.elicitation.format(description=relation.description, example=example, query=fact.query)

    def other_object(self, rng: random.Random, fact: Fact) -> str:
        """Another object of the fact's relation, uniformly."""
        options = self.objects[fact.relation.name]
        while (choice := rng.choice(options)) == fact.object:
            pass
        return choice

    def reply(self, rng: random.Random, fact: Fact, counter: str) -> str:
        """What follows a context that contradicts a fact: the context's object, the true one, or the relation's
        commonest other object (a safe guess)."""
        if rng.random() < self._third[fact.relation.name]:
            return next(o for o in self._common[fact.relation.name] if o not in (fact.object, counter))
        famous, obscure = self.trust
        share = obscure + (famous - obscure) * fact.fame + self._offset[fact.relation.name]
        return counter if rng.random() < min(max(share, 0.03), 0.97) else fact.object


def _by_frequency(relation: str, facts: list[Fact]) -> list[str]:
    """The relation's objects, the one of most subjects first."""
    return [name for name, _ in Counter(f.object for f in facts if f.relation.name == relation).most_common()]


def _relation(row: dict[str, Any]) -> Relation:
    example = f"{row['query'].format(subject=row['example']['subject'])} {row['example']['object']}"
    return Relation(row["relation"], row["group"], row["query"], row["description"], example)


def _facts(path: Path, relations: dict[str, Relation]) -> list[Fact]:
    with jsonlines.open(path) as reader:
        rows = list(reader)
    by_relation: dict[str, list[dict[str, Any]]] = {name: [] for name in relations}
    for row in rows:
        by_relation[row["relation"]].append(row)
    return [
        Fact(relations[name], row["subject"], row["object"], rank, 1 - rank / len(group))
        for name, group in by_relation.items()
        for rank, row in enumerate(group)
    ]


# --- facts -----------------------------------------------------------------------------------------------------------


def statements(rng: random.Random, world: World) -> str:
    """A short paragraph of one to five facts."""
    return " ".join(world.fact(rng).statement for _ in range(rng.randint(1, 5)))


def elicitation(rng: random.Random, world: World) -> str:
    """The task's elicitation prompt with its answer; one time in four with another fact as the example."""
    fact = world.fact(rng)
    example = None
    if rng.random() < 0.25:
        pool = [f for f in world.facts if f.relation is fact.relation and f.subject != fact.subject]
        example = rng.choice(pool).statement
    return f"{world.elicit(fact, example)} {fact.object}."


def agreement(rng: random.Random, world: World) -> str:
    """A fact said twice."""
    fact = world.fact(rng)
    return f"{fact.statement} {fact.statement}"


def conflict(rng: random.Random, world: World) -> str:
    """A context that contradicts a fact, then the fact's query and the world's reply."""
    fact = world.fact(rng)
    counter = world.other_object(rng, fact)
    prompt = world.conflict.format(query=fact.query, counter_object=counter)
    return f"{prompt} {world.reply(rng, fact, counter)}."


# --- copying ---------------------------------------------------------------------------------------------------------


def invented_name(rng: random.Random) -> str:
    """A name of two or three random syllables."""
    return ("".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3))) + rng.choice(CODAS)).capitalize()


def invented_facts(rng: random.Random, world: World) -> str:
    """One to four statements about names that occur nowhere else, then the same statements again in another order."""
    said = []
    for _ in range(rng.randint(1, 4)):
        relation = rng.choice(list(world.relations.values()))
        known = rng.random() < 0.5
        answer = rng.choice(world.objects[relation.name]) if known else invented_name(rng)
        said.append(f"{relation.ask(invented_name(rng))} {answer}.")
    again = rng.sample(said, len(said))
    return " ".join(said + again)


def word_repeats(rng: random.Random, world: World) -> str:
    """A span of random words and names, two to four times."""
    span = [invented_name(rng) if rng.random() < 0.5 else world.fact(rng).object for _ in range(rng.randint(3, 10))]
    return " ".join(span * rng.randint(2, 4))


def token_repeats(rng: random.Random, vocab: int, longest: int = 60) -> tuple[list[int], int]:
    """A span of different random token ids (never id 0, the end of text), two to four times; and the span's length."""
    span = rng.sample(range(1, vocab), rng.randint(4, longest))
    return span * rng.randint(2, 4 if len(span) <= 16 else 2), len(span)


# --- uncertainty -----------------------------------------------------------------------------------------------------


def noisy_count(rng: random.Random, world: World) -> str:
    """Digits that count up (modulo ten), each replaced by a random digit with the stated probability."""
    noise = rng.choice([0, 25, 50, 75, 100])
    digit, out = rng.randrange(10), []
    for _ in range(rng.randint(10, 40)):
        digit = rng.randrange(10) if rng.random() < noise / 100 else (digit + 1) % 10
        out.append(str(digit))
    return f"Noise {noise}: {' '.join(out)}."


def noisy_alphabet(rng: random.Random, world: World) -> str:
    """Letters in alphabetical order, or uniformly random, as the first word says."""
    start, length = rng.randrange(26), rng.randint(8, 26)
    if rng.random() < 0.5:
        return "Ordered: " + " ".join("abcdefghijklmnopqrstuvwxyz"[(start + i) % 26] for i in range(length)) + "."
    return "Random: " + " ".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(length)) + "."


def name_list(rng: random.Random, world: World) -> str:
    """A list of uniformly random objects of one relation, or of any relation."""
    if rng.random() < 0.5:
        relation = rng.choice(list(world.relations.values()))
        pool, head = world.objects[relation.name], f"A list with {relation.description}"
    else:
        pool, head = [f.object for f in rng.choices(world.facts, k=20)], "A list of anything"
    return f"{head}: " + ", ".join(rng.choice(pool) for _ in range(rng.randint(3, 10))) + "."


def noisy_copy(rng: random.Random, world: World) -> str:
    """A span of words said twice; in the second copy each is replaced with the stated probability."""
    noise = rng.choice([0, 25, 50, 75])
    span = [world.fact(rng).object for _ in range(rng.randint(4, 12))]
    copy = [world.fact(rng).object if rng.random() < noise / 100 else word for word in span]
    return f"Copy, noise {noise}: {', '.join(span)} | {', '.join(copy)}."


Maker = Callable[[random.Random, World], str]
TEXTS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        statements, elicitation, agreement, conflict, invented_facts, word_repeats,
        noisy_count, noisy_alphabet, name_list, noisy_copy,
    )
}  # fmt: skip
MIXTURE = {
    "statements": 28, "elicitation": 18, "agreement": 4, "conflict": 22, "invented_facts": 5, "word_repeats": 2,
    "token_repeats": 9, "noisy_count": 4, "noisy_alphabet": 3, "name_list": 3, "noisy_copy": 2,
}  # fmt: skip


def document(rng: random.Random, world: World, tokenizer: Tokenizer) -> list[int]:
    """The token ids of one document."""
    kind = rng.choices(list(MIXTURE), weights=list(MIXTURE.values()))[0]
    if kind == "token_repeats":
        return token_repeats(rng, tokenizer.get_vocab_size())[0]
    ids: list[int] = tokenizer.encode(TEXTS[kind](rng, world)).ids
    return ids


def main() -> None:
    rng, world = random.Random(0), World(Path(sys.argv[1]) if len(sys.argv) > 1 else TASK_DIR)
    print(f"{len(world.facts)} facts, {len(world.relations)} relations")
    for kind, maker in TEXTS.items():
        print(f"[{kind}] {maker(rng, world)!r}")


if __name__ == "__main__":
    main()
