"""Documents and scoring of the tasks beside this file: facts of the bundled table."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import datasets


def load(**_: Any) -> dict[str, datasets.Dataset]:
    """48 facts of three relations; each fourth one is an example."""
    text = (files("harness_tasks") / "knowledge_conflict" / "facts.jsonl").read_text(encoding="utf-8")
    facts = [json.loads(line) for line in text.splitlines()]
    rows = []
    for relation, query in (
        ("capital", "The capital of {} is"),
        ("animal_class", "In biology the {} is classified as a kind of"),
        ("continent", "The continent on which {} lies is"),
    ):
        own = [fact for fact in facts if fact["relation"] == relation]
        objects = sorted({fact["object"] for fact in own})
        for i, fact in enumerate(own[:16]):
            place = objects.index(fact["object"])
            choices = [objects[(place + step) % len(objects)] for step in range(3)]
            choices = choices[i % 3 :] + choices[: i % 3]  # the right one stands anywhere
            rows.append(
                {
                    "relation": relation,
                    "query": query.format(fact["subject"]),
                    "choices": choices,
                    "label": choices.index(fact["object"]),
                    "text": f"{query.format(fact['subject'])} {fact['object']}.",
                }
            )
    return {
        "test": datasets.Dataset.from_list([row for i, row in enumerate(rows) if i % 4]),
        "train": datasets.Dataset.from_list(rows[::4]),
    }


def capitals(docs: datasets.Dataset) -> datasets.Dataset:
    return docs.filter(lambda doc: doc["relation"] == "capital")


def animals(docs: datasets.Dataset) -> datasets.Dataset:
    return docs.filter(lambda doc: doc["relation"] != "capital")


def length_and_hit(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """Metrics with an aggregation of the task's own, and with one of lm-eval's that is no function of sums."""
    said, right = results[0].strip(), doc["choices"][doc["label"]]
    return {"exact_match": float(said == right), "longest": len(said), "chrf": (right, said)}


def longest(items: list[int]) -> int:
    return max(items)
