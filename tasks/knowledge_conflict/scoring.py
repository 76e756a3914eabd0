"""Scores answers for lm-eval, and reads prepared prompts. Needs nothing of the harness: prepared folders hold a copy
of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def load(**_: Any) -> Any:
    """The prompts beside this file, which ``harness lm-eval prepare`` wrote."""
    import datasets

    return {"test": datasets.Dataset.from_json(str(Path(__file__).with_name("prompts.jsonl")))}


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the answer comes from the context (CK), from memory (PK) or from neither (ND), by the paper's rule: its
    leading words are those of the object, but for their case (arXiv 2509.10663). An object that is both is memory's."""
    words = results[0].lower().split()
    memory, context = (doc[name].lower().split() for name in ("parametric_object", "counter_object"))
    begins = {"CK": words[: len(context)] == context != memory, "PK": words[: len(memory)] == memory}
    source = next((name for name, true in begins.items() if true), "ND")
    shares = {name: float(name == source) for name in ("CK", "PK", "ND")}
    return shares if doc.get("entropy") is None else {**shares, "entropy": doc["entropy"]}
