"""JSON Schema of what a run leaves on the disk, and of the leaderboard: what ``harness schema`` prints."""

from __future__ import annotations

from typing import Any

from harness.results.beside import Candidate, ControlSet, Labels, Sample
from harness.results.on_disk import OnDisk
from harness.results.provenance import Provenance
from harness.results.record import SCHEMA_VERSION, RunRecord

FILES: dict[str, tuple[str, type[OnDisk]]] = {
    "record": ("result.json", RunRecord),
    "provenance": ("provenance.json", Provenance),
    "sample": ("a row of samples.jsonl", Sample),
    "neuron": ("a row of neurons.jsonl", Candidate),
    "control": ("a row of controls.jsonl", ControlSet),
    "outcomes": ('what the entry "outcomes" of the metadata of outcomes.safetensors says', Labels),
}
"""By name: what it is on the disk, and its model."""


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one of ``FILES``."""
    where, cls = FILES[name]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"harness {name}: {where}, schema {SCHEMA_VERSION}",
        **{key: found for key, found in cls.model_json_schema().items() if key != "title"},
    }
