"""Scores second copies for lm-eval, and reads prepared prompts. Needs nothing of the harness: prepared folders hold a
copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def load(**_: Any) -> Any:
    """The prompts beside this file, which ``harness lm-eval prepare`` wrote."""
    import datasets

    return {"test": datasets.Dataset.from_json(str(Path(__file__).with_name("prompts.jsonl")))}


def process_results(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Loss in nats per token of the second copy, and whether all of its tokens are the model's first choice."""
    log_likelihood, all_right = results[0]
    scores = {"loss": -log_likelihood / doc["tokens"], "all_right": float(all_right)}
    return scores if doc.get("accuracy") is None else {**scores, "accuracy": doc["accuracy"]}
