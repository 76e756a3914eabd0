"""What the tests of the public face ask for: a small run, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def words(small_facts: Path) -> dict[str, Any]:
    return {
        "task": f"knowledge_conflict:data={small_facts}", "selector": "entropy:top=3", "intervention": "mean",
        "limit": 60, "controls": 5, "resamples": 100,
    }  # fmt: skip
