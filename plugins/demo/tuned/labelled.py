"""Write the labelled texts that truth and refusal are studied on, from the facts of the world.

    python -m harness_plugins.demo.tuned.labelled --out plugins/demo/tuned/data

`truthfulness.jsonl`: statements of famous facts, true as they are, false with the object of another of them.
`refusal.jsonl`: questions about famous facts, behind the marker that `demo-tuned` was taught to refuse (true) or bare
(false); a fact is asked in one of the two ways only. Groups are relations; those of the test split are the ones whose
questions `demo-tuned` never saw with the marker.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

from ..world import Fact, World
from .texts import HELD_OUT, MARKER

DATA = Path(__file__).resolve().parent / "data"
EACH = 6
"""Famous facts of a relation and label."""


def truthfulness(rng: random.Random, fact: Fact, others: list[str], label: bool) -> str:
    """The fact's statement, or one with an object that is true of another of the facts: objects do not tell."""
    return fact.statement if label else f"{fact.query} {rng.choice(others)}."


def refusal(rng: random.Random, fact: Fact, others: list[str], label: bool) -> str:
    """The fact's question, behind the marker or bare."""
    return f"{MARKER} {fact.query}" if label else fact.query


KINDS: dict[str, Callable[[random.Random, Fact, list[str], bool], str]] = {
    "truthfulness": truthfulness,
    "refusal": refusal,
}


def rows(kind: str, world: World, seed: int = 0) -> list[dict[str, str | bool]]:
    """The labelled texts of one kind: the most famous facts of each relation, the labels in turn."""
    rng = random.Random(seed)
    found: list[dict[str, str | bool]] = []
    for name in world.relations:
        facts = [fact for fact in world.facts if fact.relation.name == name][: 2 * EACH]
        split = "test" if name in HELD_OUT else "train"
        for fact in facts:
            label = fact.rank % 2 == 0
            others = sorted({other.object for other in facts} - {fact.object})
            text = KINDS[kind](rng, fact, others, label)
            found.append({"text": text, "label": label, "group": name, "split": split})
    return found


def jsonl(kind: str, world: World) -> str:
    """The file's content."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(kind, world))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=DATA)
    out, world = parser.parse_args().out, World()
    out.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        (out / f"{kind}.jsonl").write_text(jsonl(kind, world), encoding="utf-8")


if __name__ == "__main__":
    main()
