"""JSON Schema of what a run leaves on the disk, and of the leaderboard: what ``harness schema`` prints."""

from __future__ import annotations

from typing import Any

from harness.results.beside import Candidate, ControlSet, Labels, Sample
from harness.results.leaderboard import COLUMNS, Type
from harness.results.on_disk import OnDisk
from harness.results.provenance import Provenance
from harness.results.record import SCHEMA_VERSION, RunRecord

MODELS: dict[str, type[OnDisk]] = {
    "record": RunRecord,
    "provenance": Provenance,
    "sample": Sample,
    "neuron": Candidate,
    "control": ControlSet,
    "outcomes": Labels,
}

WHERE = {
    "record": "a run's result.json",
    "provenance": "a run's provenance.json",
    "sample": "a row of samples.jsonl",
    "neuron": "a row of neurons.jsonl",
    "control": "a row of controls.jsonl",
    "outcomes": "the metadata of outcomes.safetensors",
    "leaderboard": "a row of leaderboard.jsonl",
}
"""The schemas by name, and what on the disk each is of."""

_JSON_TYPES: dict[Type, str] = {"text": "string", "integer": "integer", "number": "number", "yes/no": "boolean"}


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one of ``WHERE``."""
    found = _leaderboard() if name == "leaderboard" else MODELS[name].model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **found,
        "title": f"harness {name}: {WHERE[name]}, schema version {SCHEMA_VERSION}",
    }


def _leaderboard() -> dict[str, Any]:
    texts = {"type": ["array", "null"], "items": {"type": "string"}}
    columns = {name: texts if of == "list" else {"type": [_JSON_TYPES[of], "null"]} for name, of in COLUMNS.items()}
    return {
        "description": "A run's measure; every row has these columns.",
        "type": "object",
        "properties": columns | {"row_id": {"type": "string"}},
        "required": ["row_id"],
    }
