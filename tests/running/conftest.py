"""What tests of runs share."""

from __future__ import annotations

import pytest


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without figures and pages, which take long."""
    monkeypatch.setattr("harness.running.execute.write_shown", lambda folder, shown, advance: None)
    monkeypatch.setattr("harness.report.page.write_page", lambda folder: None)
