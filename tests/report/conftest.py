"""Finished runs with their pages."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import Silent

from harness.plugin.catalogue import catalogue
from harness.plugin.specs import parse_spec
from harness.running.execute import execute, plan
from harness.running.spec import RunSpec


def run(folder: Path, **fields: object) -> Path:
    spec = RunSpec(name="page", **fields)  # type: ignore[arg-type]
    return execute(plan(spec, catalogue()), folder, Silent(), "harness eval --task x").path  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def conflict(small_facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(
        tmp_path_factory.mktemp("conflict"),
        task=parse_spec(f"knowledge_conflict:data={small_facts}", "task"),
        selector="entropy",
        intervention="mean",
        controls=12,
        limit=25,
    )


@pytest.fixture(scope="session")
def induction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(
        tmp_path_factory.mktemp("induction"),
        task="induction_synthetic:sequences=4,length=20",
        selector="entropy:top=2",
        intervention="zero",
        controls=5,
    )
