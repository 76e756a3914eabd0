"""One planted model for the tests of selectors, and what is planted in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness_plugins.planted import Planted, PlantedAnswer
from harness_plugins.planted.build import Places, places
from harness_plugins.planted.world import generate

from harness.engine import ClosedFormEngine
from harness.model import Model


@pytest.fixture(scope="session")
def planted() -> Model:
    return Planted(seed=1).load()


@pytest.fixture(scope="session")
def roles() -> Places:
    return places(1, 3)


@pytest.fixture(scope="session")
def prompts(planted: Model) -> list[tuple[int, ...]]:
    """Token ids of prompts of the planted task."""
    return [x.tokens for x in PlantedAnswer(prompts=60).prepare(ClosedFormEngine(planted), None, 0).prompts]


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of the two groups of letters, each labelled with its group."""
    path = tmp_path_factory.mktemp("labelled") / "texts.jsonl"
    rows = [{"text": x.rstrip("."), "label": kind} for kind in ("first", "second") for x in generate(kind, 60, 5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
