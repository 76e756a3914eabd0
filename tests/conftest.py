"""Shared fixtures: a small offline world for every test."""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from array_types import check_arrays
from hypothesis import settings

if TYPE_CHECKING:
    from harness.model.model import Model

check_arrays()  # before any of their modules is imported

settings.register_profile("patient", deadline=None)  # no test may fail because a machine is slow
settings.load_profile("patient")
os.environ["HF_HUB_OFFLINE"] = "1"  # before any Hugging Face library is imported: no test may reach for the network
os.environ["HF_DATASETS_OFFLINE"] = "1"
# What is kept between runs is kept between tests only; those of tests/real go back to the user's own.
os.environ.setdefault("HARNESS_OWN_CACHE_DIR", os.environ.get("HARNESS_CACHE_DIR", ""))
os.environ["HARNESS_CACHE_DIR"] = tempfile.mkdtemp(prefix="harness-tests-")
atexit.register(shutil.rmtree, os.environ["HARNESS_CACHE_DIR"], ignore_errors=True)
# Tiny models run faster on one thread, and workers in parallel do not fight for cores; subprocesses inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_CBWR"] = "AUTO,STRICT"  # as the command line sets it: read when torch is first imported
os.environ.update(RAY_gcs_rpc_server_connect_timeout_s="120")  # in Ray's 5 seconds a busy machine starts no cluster
os.fsync = lambda file: None  # no test cuts the power: their thousands of files need not wait for the disk


class DeprecationsAreErrors(logging.Handler):
    """transformers logs some of its deprecations instead of warning; tests fail at either."""

    def emit(self, record: logging.LogRecord) -> None:
        if "deprecated" in (message := record.getMessage()):
            raise DeprecationWarning(message)


logging.getLogger("transformers").addHandler(DeprecationsAreErrors())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the list are marked long. Files with slow tests come first, whole, so that no worker begins one when the
    others have finished."""
    long = set(Path(__file__).with_name("long.txt").read_text(encoding="utf-8").splitlines())
    for item in items:
        if item.nodeid in long:
            item.add_marker("long")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What has been imported stays: to look through it for garbage again and again takes a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def columns() -> int:
    """Width of the terminal that :func:`harness` runs in."""
    return 200


@pytest.fixture
def harness(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: ``harness("eval", "--task", ...)`` gives (exit code, stdout, stderr)."""
    from harness.cli.app import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["harness", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", str(columns))
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def stories() -> Model:
    """A Llama of 260 thousand parameters that this project did not train, of the reference data; not to be changed."""
    from checkout import reference

    from harness.model.loading import load_hf

    return load_hf(str(reference("models/stories260k")))


@pytest.fixture(scope="session")
def small_facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few of the bundled facts: the first ones of some relations."""
    from harness_plugins.context_copying.task.knowledge_conflict import KnowledgeConflict

    wanted = {"capital": 20, "city_country": 20, "book_author": 15, "car_maker": 15}
    path = tmp_path_factory.mktemp("facts") / "facts.jsonl"
    lines = []
    for fact in KnowledgeConflict().facts():
        if wanted.get(fact.relation.name, 0) > 0:
            wanted[fact.relation.name] -= 1
            row = {"relation": fact.relation.name, "subject": fact.subject, "object": fact.object}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def conflict_run(tmp_path_factory: pytest.TempPathFactory, small_facts: Path) -> Path:
    """A finished run on them."""
    import small_runs

    return small_runs.finish(
        tmp_path_factory.mktemp("runs"),
        task=f"knowledge_conflict:data={small_facts}",
        selector="entropy:top=3,rule=tighidet2025",
        intervention="mean",
        controls=9,
    )


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are blank pictures: for tests that are about other things."""
    import blank

    monkeypatch.setattr("harness.report.figure_files.render", blank.render)
