"""The synthetic world the bundled model is trained on: real facts with a Zipf frequency, and texts to copy, to trust or to doubt.

Every document is made by one small function of a seeded `random.Random` and the `World`; `MIXTURE` says how often each kind is drawn.

    python -m plugins.demo.world            # print a few documents of every kind
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import yaml

TASK_DIR = Path(__file__).resolve().parents[2] / "tasks" / "knowledge_conflict"
SYLLABLES = [
    c + v
    for c in [
        "b",
        "br",
        "d",
        "dr",
        "f",
        "g",
        "gr",
        "h",
        "j",
        "k",
        "kl",
        "l",
        "m",
        "n",
        "p",
        "pl",
        "r",
        "s",
        "sk",
        "st",
        "t",
        "tr",
        "v",
        "w",
        "z",
    ]
    for v in "aeiou"
]
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

    def __init__(self, task_dir: Path = TASK_DIR, zipf: float = 1.1, trust: tuple[float, float] = (0.25, 0.85)) -> None:
        """`trust`: the share of conflict documents in which the context wins, for the most and the least famous fact."""
        task = yaml.safe_load((task_dir / "knowledge_conflict.yaml").read_text(encoding="utf-8"))
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
        # Relations differ in how far a context is believed, so that many prompts end up near the decision boundary.
        spread = [(i / max(len(self.relations) - 1, 1) - 0.5) * 0.5 for i in range(len(self.relations))]
        random.Random(0).shuffle(spread)
        self._offset = dict(zip(self.relations, spread, strict=True))

    def fact(self, rng: random.Random) -> Fact:
        """A fact, drawn by its Zipf frequency."""
        return rng.choices(self.facts, cum_weights=self._cumulative)[0]

    def other_object(self, rng: random.Random, fact: Fact) -> str:
        """Another object of the fact's relation, uniformly."""
        options = self.objects[fact.relation.name]
        while (choice := rng.choice(options)) == fact.object:
            pass
        return choice

    def context_share(self, fact: Fact) -> float:
        """Probability that a context contradicting this fact is followed by the context's object."""
        famous, obscure = self.trust
        share = obscure + (famous - obscure) * fact.fame + self._offset[fact.relation.name]
        return min(max(share, 0.03), 0.97)


def _relation(row: dict) -> Relation:
    example = f"{row['query'].format(subject=row['example']['subject'])} {row['example']['object']}"
    return Relation(row["relation"], row["group"], row["query"], row["description"], example)


def _facts(path: Path, relations: dict[str, Relation]) -> list[Fact]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    by_relation: dict[str, list[dict]] = {name: [] for name in relations}
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
    example = fact.relation.example + "."
    if rng.random() < 0.25:
        pool = [f for f in world.facts if f.relation is fact.relation and f.subject != fact.subject]
        example = rng.choice(pool).statement
    prompt = world.elicitation.format(description=fact.relation.description, example=example, query=fact.query)
    return f"{prompt} {fact.object}."


def agreement(rng: random.Random, world: World) -> str:
    """A fact said twice."""
    fact = world.fact(rng)
    return f"{fact.statement} {fact.statement}"


def conflict(rng: random.Random, world: World) -> str:
    """A context that contradicts a fact, then the fact's query, followed by the context's object or the true one."""
    fact = world.fact(rng)
    counter = world.other_object(rng, fact)
    answer = counter if rng.random() < world.context_share(fact) else fact.object
    prompt = world.conflict.format(query=fact.query, counter_object=counter)
    return f"{prompt} {answer}."


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


def token_repeats(rng: random.Random, vocab: int) -> list[int]:
    """A span of uniformly random token ids (never id 0, the end of text), two or three times."""
    span = [rng.randrange(1, vocab) for _ in range(rng.randint(5, 40))]
    return span * rng.randint(2, 3)


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
COPYING = {"token_repeats": 45, "word_repeats": 20, "invented_facts": 25, "agreement": 10}
MIXTURE = {
    "statements": 30, "elicitation": 22, "agreement": 5, "conflict": 22, "invented_facts": 6, "word_repeats": 2,
    "token_repeats": 5, "noisy_count": 3, "noisy_alphabet": 2, "name_list": 2, "noisy_copy": 2,
}  # fmt: skip


def document(rng: random.Random, world: World, mixture: dict[str, float], vocab: int) -> str | list[int]:
    """One document: text, or token ids for a span of random tokens."""
    kind = rng.choices(list(mixture), weights=list(mixture.values()))[0]
    return token_repeats(rng, vocab) if kind == "token_repeats" else TEXTS[kind](rng, world)


def main() -> None:
    rng, world = random.Random(0), World(Path(sys.argv[1]) if len(sys.argv) > 1 else TASK_DIR)
    print(f"{len(world.facts)} facts, {len(world.relations)} relations")
    for kind, maker in TEXTS.items():
        for _ in range(3):
            print(f"[{kind}] {maker(rng, world)!r}")


if __name__ == "__main__":
    main()
