"""Where the checkout is, the golden files in it, and the reference data beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"


def reference(name: str) -> Path:
    """A file or folder of the reference data: published numbers, real texts and a small trained model, which stand
    beside the checkout in ``shared`` and not in it. Where they are absent the test, or every test of the fixture that
    asks, is skipped.
    """
    path = ROOT.parent / "shared" / name
    if not path.exists():
        pytest.skip(f"needs the reference data: there is no ../shared/{name}")
    return path
