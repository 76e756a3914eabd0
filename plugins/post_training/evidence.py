"""What a comparison of two models says of the claims of its paper: the numbers that ``claims.yaml`` names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.plugin import Evidence, Value

from .comparison.record import ModelsRecord

MISSING = "the comparison has no such part"


def evidence(data: Any) -> Evidence | None:
    """The numbers of a comparison, from its ``result.json``; None where that is of something else."""
    if not (isinstance(data, Mapping) and "parts" in data and "tuned" in data.get("identity", {})):
        return None
    record = ModelsRecord.read(data, f"{data.get('name')}")
    parts = {part.name: part for part in record.parts}
    values: dict[str, Value] = {}
    for name, read in PARTS.items():
        part = parts.get(name)
        numbers = (part.model_extra or {}) if part is not None else {}
        why = numbers.get("why") or ("" if part is not None else MISSING)
        values |= {f"{name}.{what}": found for what, found in (_none(name, why) if why else read(numbers))}
    base, tuned = record.identity.base.id, record.identity.tuned.id
    return Evidence("compare", tuned, f"tuned from {base}", values)


def _none(part: str, why: str) -> Iterator[tuple[str, Value]]:
    """The numbers of a part that was not compared."""
    return ((what, Value(None, why=why)) for what in NUMBERS[part])


def _neurons(found: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
    """Of the paper's own rule, which comes first: the overlap; rank correlation of norm / log LogitVar."""
    first = found["overlaps"][0]
    overlap = first["overlap"]
    yield "iou", Value(None, why=first["why"]) if overlap is None else Value(overlap["iou"])
    score = next(row for row in found["scores"] if row["score"] == "norm_per_log_logit_var")
    yield "score_correlation", Value(score["spearman"], score["low"], score["high"])


def _direction(found: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
    """After the layer that the comparison tells of: cosine, and accuracy on held-out texts."""
    layer = found["layer"]
    yield "cosine", Value(next(row["cosine"] for row in found["cosines"] if row["layer"] == layer))
    for row in found["transfer"]:
        if row["layer"] == layer:
            accuracy = Value(row["accuracy"], row["accuracy_low"], row["accuracy_high"], "share")
            yield f"{row['trained_on']}_in_{row['tested_on']}", accuracy


def _steering(found: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
    """Log-odds of a refusal with each direction added or ablated, and how much of its own the base model's does."""
    rows = {f"{row['direction']}_{row['change']}_in_{row['model']}": row for row in found["rows"]}
    for name, row in rows.items():
        yield name, Value(row["log-odds"], row["low"], row["high"], "nats")
    yield "share_of_base_in_tuned", _share(rows["base_added_in_tuned"], rows["tuned_added_in_tuned"])


def _share(part: Mapping[str, Any], whole: Mapping[str, Any]) -> Value:
    """A ratio of effects; its interval goes from the least by the most to the most by the least."""
    ends = (part["low"], part["high"], whole["low"], whole["high"])
    if None in ends or whole["low"] <= 0:
        return Value(None, why="the post-trained model's own direction has no effect that is surely above 0")
    low, high = part["low"], part["high"]
    bounds = [x / y for x in (low, high) for y in (whole["low"], whole["high"])]
    return Value(part["log-odds"] / whole["log-odds"], min(bounds), max(bounds), "share")


def _patching(found: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
    low, high = found["interval"] or (None, None)
    yield "correlation", Value(found["r"], low, high)


PARTS = {
    "neurons": _neurons, "truthfulness": _direction, "refusal": _direction, "steering": _steering,
    "patching": _patching,
}  # fmt: skip
"""How the numbers of each part are read."""

_TRANSFERS = tuple(f"{a}_in_{b}" for a in ("base", "tuned") for b in ("base", "tuned"))
_STEERED = tuple(f"{a}_{x}_in_{b}" for x in ("added", "ablated") for a in ("base", "tuned") for b in ("base", "tuned"))
NUMBERS = {
    "neurons": ("iou", "score_correlation"),
    "truthfulness": ("cosine", *_TRANSFERS),
    "refusal": ("cosine", *_TRANSFERS),
    "steering": (*_STEERED, "share_of_base_in_tuned"),
    "patching": ("correlation",),
}
"""Names of the numbers of each part."""
