"""The record that reports and the leaderboard are tried with, and where it comes from."""

from __future__ import annotations

import json
from typing import Any

from checkout import GOLDEN

from harness.results.provenance import Git, Provenance

PROVENANCE = Provenance(
    run_id="0" * 64,
    command="harness eval --task knowledge_conflict",
    started="2026-01-02T09:59:48Z",
    finished="2026-01-02T10:00:00Z",
    wall_seconds=12,
    peak_memory_mib=512,
    python="3.11.7",
    platform="Linux",
    processor="x86_64",
    threads=1,
    accelerator=None,
    packages={},
    git=Git(commit="0" * 40, dirty=False),
)


def golden(name: str) -> Any:
    """What a golden JSON file holds, read anew."""
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))
