"""A folder of finished runs, with their pages."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_runs

from harness.report.page import write_page


@pytest.fixture(scope="session")
def reports(small_facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on the same prompts."""
    folder = tmp_path_factory.mktemp("view") / "reports"
    for intervention in ("mean", "zero"):
        run = small_runs.finish(
            folder,
            task=f"knowledge_conflict:data={small_facts}",
            selector="entropy:top=3,rule=tighidet2025",
            intervention=intervention,
            controls=9,
            limit=20,
        )
        write_page(run)
    return folder


@pytest.fixture(scope="session")
def names(reports: Path) -> list[str]:
    """The runs' folders: under the mean, under zero."""
    found = sorted(path.name for path in reports.iterdir() if path.is_dir())
    return sorted(found, key=lambda name: '"name": "zero"' in (reports / name / "result.json").read_text())
