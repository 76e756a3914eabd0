"""The record that reports and the leaderboard are tried with, and where it comes from."""

from __future__ import annotations

import json
from typing import Any

from checkout import GOLDEN

PROVENANCE = {
    "finished": "2026-01-02T10:00:00Z",
    "git": {"commit": "0" * 40, "dirty": False},
    "command": "harness eval --task knowledge_conflict",
    "accelerator": None,
    "processor": "x86_64",
    "wall_seconds": 12,
}


def golden(name: str) -> Any:
    """What a golden JSON file holds, read anew."""
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))
