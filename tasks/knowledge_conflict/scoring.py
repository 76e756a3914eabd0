"""Scores answers for lm-eval, and reads prepared prompts. Needs nothing of the harness: prepared folders hold a copy
of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Words = Sequence[str]


def load(**_: Any) -> Any:
    """The prompts beside this file, which ``harness lm-eval prepare`` wrote."""
    import datasets

    return {"test": datasets.Dataset.from_json(str(Path(__file__).with_name("prompts.jsonl")))}


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the answer comes from the context (CK), from memory (PK) or from neither (ND)."""
    source = knowledge_source(results[0], doc["counter_object"], doc["parametric_object"])
    shares = {name: float(name == source) for name in ("CK", "PK", "ND")}
    return shares if doc.get("entropy") is None else {**shares, "entropy": doc["entropy"]}


def knowledge_source(answer: str, counter_object: str, parametric_object: str) -> str:
    """The paper's rule (arXiv 2509.10663): the answer's leading words are those of the object, but for their case.

    An object that the context and memory share is memory's.
    """
    words, context, memory = (text.lower().split() for text in (answer, counter_object, parametric_object))
    return longest_match(words, [] if context == memory else [context], [memory])


def longest_match(words: Words, context: Iterable[Words], memory: Iterable[Words]) -> str:
    """Whose name an answer begins with, CK, PK or ND; names and answer are lists of words.

    Where both have one, as in "New York City" with New York in the context, the longer one is what was said; where they
    are equally long, the context's comes first.
    """
    ck, pk = (max((len(name) for name in names if begins(words, name)), default=0) for names in (context, memory))
    return "ND" if ck == pk == 0 else "PK" if pk > ck else "CK"


def begins(words: Words, name: Words) -> bool:
    """Whether a name's words, of which there must be one, are the first of ``words``."""
    return bool(name) and list(words[: len(name)]) == list(name)
