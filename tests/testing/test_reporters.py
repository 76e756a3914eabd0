"""The check of reporters: ours pass it, and a broken promise is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from promises import broken

from harness.plugin import BegunRun, FinishedRun, Reporter
from harness.report.reporters import Console, Latex, Leaderboard, Markdown, Page
from harness.testing import check_reporter


class Deaf(Reporter):
    """Does nothing."""

    name = "deaf"


class Overwrites(Reporter):
    """Writes over the record."""

    name = "overwrites"

    def finished(self, run: FinishedRun) -> None:
        (run.folder / "result.json").write_text("{}")


class Forgets(Reporter):
    """Expects that every run is finished."""

    name = "forgets"

    def failed(self, run: BegunRun, why: str) -> None:
        raise KeyError(run.name)


def test_ours_keep_their_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.report.figure_files.render", lambda figure: (b"", b"<svg/>"))
    check_reporter(Page)
    check_reporter(Leaderboard)
    check_reporter(Console, progress=True)
    check_reporter(Console, report="none")
    check_reporter(Markdown, folder=tmp_path / "page")
    check_reporter(Latex, folder=tmp_path / "tables")
    assert (tmp_path / "page/README.md").is_file() and list((tmp_path / "tables").glob("demo-*.tex"))


def test_what_is_broken_is_named() -> None:
    assert broken(check_reporter, Deaf) == (
        "reporter deaf: it does nothing when it is told; override finished(), for example"
    )
    assert broken(check_reporter, Forgets).startswith("reporter forgets: failed() failed: KeyError")
    assert "reporter overwrites: " in broken(check_reporter, Overwrites)


def test_the_folders_of_finished_runs_are_told_at_the_end() -> None:
    class Lists(Reporter):
        """Says which runs there are."""

        name = "lists"

        def ended(self, folders: Sequence[Path]) -> None:
            assert [folder.name.split("-")[0] for folder in folders] == ["demo"]

    check_reporter(Lists)
