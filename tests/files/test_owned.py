"""Exports write what they make and remove what they have made, and names from files lead nowhere else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_runs
from commands import Harness, files
from hypothesis import given
from hypothesis import strategies as st
from small_runs import other

from harness.errors import HarnessError
from harness.files.owned import LONGEST, Written, path_name
from harness.report import latex, markdown
from harness.report.page import write_page
from harness.report.publishing import publish

OUTSIDE = ("../out", "/out", "a/b", "..", ".", ".hidden", "", "a\nb", "a\0b", "a\\b", "x" * 300, "\ud800", None, 7)
"""What no name may be."""


@pytest.fixture
def shown(conflict_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the run with another name, whose pictures are there."""

    def made(folder: str, **changes: Any) -> Path:
        copy = tmp_path / folder
        shutil.copytree(conflict_run, copy)
        record = small_runs.record(copy) | changes
        for figure in record["figures"]:
            (copy / "figures").mkdir(exist_ok=True)
            if changes.get("figures") is None:
                (copy / "figures" / f"{figure['name']}.png").write_bytes(b"a picture")
        (copy / "result.json").write_text(json.dumps(record), encoding="utf-8")
        return copy

    return made


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_elsewhere_are_refused(name: object) -> None:
    with pytest.raises(HarnessError, match=r"result\.json, name: .* cannot be the name of a file"):
        path_name(name, "result.json, name")


@given(st.text())
def test_a_name_is_one_part_of_a_path(name: str) -> None:
    try:
        path_name(name, "it")
    except HarnessError:
        return
    assert Path("folder", name).parent == Path("folder") and name not in (".", "..")
    assert len(name.encode()) <= LONGEST


def test_names_that_runs_and_measures_have_are_taken() -> None:
    for name in ("paper-copying.mean", "pair.neurons-neurons=-3.5-3.10", "acc_norm,none", "CKCR", "_x", "-1", "größe"):
        assert path_name(name, "it") == name


# -- pages -------------------------------------------------------------------------------------------------------------


def test_a_page_leaves_alone_what_is_in_its_folder(shown: Callable[..., Path], tmp_path: Path) -> None:
    page = tmp_path / "page"
    theirs = {"small/thesis.tex": b"years", "sweeps/thesis.tex": b"more years", "notes.md": b"mine"}
    for name, data in theirs.items():
        (page / name).parent.mkdir(parents=True, exist_ok=True)
        (page / name).write_bytes(data)
    for _ in range(2):
        markdown.export([shown_run := tmp_path / "a"] if (tmp_path / "a").exists() else [shown("a")], page, "T", "")
    found = files(page)
    assert all(found.pop(name) == data for name, data in theirs.items())
    figures = {f"small/{x['name']}.png" for x in small_runs.record(shown_run)["figures"]}
    assert found.keys() == {"README.md", "runs.json", ".harness-page.sha256", *figures}


def test_pictures_of_an_earlier_page_are_removed_unless_they_were_changed(
    shown: Callable[..., Path], tmp_path: Path
) -> None:
    page, first = tmp_path / "page", shown("a")
    markdown.export([first], page, "T", "")
    pictures = sorted(path.name for path in (page / "small").iterdir())
    assert len(pictures) >= 2
    (page / "small" / pictures[0]).write_bytes(b"retouched")
    _, kept = markdown.export([shown("b", name="other")], page, "T", "")
    assert kept == [f"small/{pictures[0]}"]
    assert [path.name for path in (page / "small").iterdir()] == [pictures[0]]
    (page / "small" / pictures[0]).unlink()
    assert markdown.export([first], page, "T", "")[1] == []
    assert not (page / "other").exists()  # empty now


@pytest.mark.parametrize("name", ["README.md", "runs.json"])
def test_a_page_that_is_not_ours_is_not_replaced(
    shown: Callable[..., Path], tmp_path: Path, harness: Harness, name: str
) -> None:
    page = tmp_path / "page"
    page.mkdir()
    (page / name).write_text("my project")
    code, _, err = harness("report", shown("a"), "--markdown", page)
    assert code == 2 and f"page/{name}: the harness did not write this, or it was changed since" in err
    assert files(page) == {name: b"my project"}
    # said before the work, too
    code, _, err = harness("run", "copying-null", "-o", tmp_path / "out", "--markdown", page)
    assert code == 2 and "the harness did not write this" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../precious", "/precious", "a/b", "."])
def test_a_record_whose_name_is_a_path_is_refused(
    shown: Callable[..., Path], tmp_path: Path, harness: Harness, name: str
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years")
    given = name if name != "/precious" else str(precious)
    bad = shown("a", name=given)
    for option in ("--markdown", "--latex"):
        code, _, err = harness("report", bad, option, tmp_path / "page")
        assert code == 2 and "cannot be the name of a file" in err, option
        assert not (tmp_path / "page").exists()
    assert files(precious) == {"thesis.tex": b"years"}


def test_a_figure_whose_name_is_a_path_is_not_read(shown: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    bad = shown("a", figures=[{"name": "../../secret", "title": "x"}])
    with pytest.raises(HarnessError, match=r"result\.json, figures: '\.\./\.\./secret' cannot be"):
        markdown.export([bad], tmp_path / "page", "T", "")
    with pytest.raises(HarnessError, match=r"result\.json, figures: '\.\./\.\./secret' cannot be"):
        write_page(bad)


def test_links_out_of_the_folder_are_not_followed(shown: Callable[..., Path], tmp_path: Path) -> None:
    page, precious = tmp_path / "page", tmp_path / "precious"
    precious.mkdir()
    page.mkdir()
    (page / "small").symlink_to(precious)
    with pytest.raises(HarnessError, match="the harness did not write this"):
        markdown.export([shown("a")], page, "T", "")
    assert files(precious) == {}


def test_a_list_that_names_files_elsewhere_is_refused(shown: Callable[..., Path], tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.mkdir()
    (tmp_path / "thesis.tex").write_text("years")
    digest = next(iter(Written.found(tmp_path, ["thesis.tex"]).entries))[0]
    for line in (f"{digest}  ../thesis.tex", f"{digest}  {tmp_path}/thesis.tex", "no digest"):
        (page / markdown.LISTING).write_text(line + "\n")
        with pytest.raises(HarnessError, match=r"\.harness-page\.sha256, line 1"):
            markdown.export([tmp_path / "a"] if (tmp_path / "a").exists() else [shown("a")], page, "T", "")
    assert (tmp_path / "thesis.tex").read_text() == "years"


# -- tables ------------------------------------------------------------------------------------------------------------


def test_tables_do_not_replace_what_is_not_ours(conflict_run: Path, tmp_path: Path) -> None:
    (tmp_path / "small-measures.tex").write_text("mine")
    with pytest.raises(HarnessError, match=r"small-measures\.tex: the harness did not write this"):
        latex.export([conflict_run], tmp_path)
    assert files(tmp_path) == {"small-measures.tex": b"mine"}


def test_tables_of_other_runs_stay(conflict_run: Path, tmp_path: Path) -> None:
    def renamed(record: dict[str, Any]) -> None:
        record["name"] = "second"

    tables = tmp_path / "tables"
    first = latex.export([conflict_run], tables)
    second = latex.export([other(conflict_run, tmp_path / "b", renamed)], tables)
    latex.export([conflict_run], tables)  # its own it replaces
    assert all(path.is_file() for path in (*first, *second))


# -- either ------------------------------------------------------------------------------------------------------------


def test_a_killed_export_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.report import publishing

    publish(tmp_path, ".list", {"a": b"1", "b": b"1", "c": b"1"}, whole=True)
    real, count = publishing.write_bytes, 0

    def dying(path: Path, data: bytes) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(publishing, "write_bytes", dying)
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path, ".list", {"a": b"2", "b": b"2"}, whole=True)
    monkeypatch.undo()
    assert publish(tmp_path, ".list", {"a": b"3", "b": b"3"}, whole=True) == []
    assert {name: data for name, data in files(tmp_path).items() if name != ".list"} == {"a": b"3", "b": b"3"}


def test_a_file_where_a_folder_belongs_stops_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(HarnessError, match="the harness did not write this"):
        publish(tmp_path, ".list", {"z": b"1", "a/b": b"1"}, whole=True)
    assert files(tmp_path) == {"a": b"mine"}


# -- siblings ----------------------------------------------------------------------------------------------------------


def test_counts_do_not_replace_another_file(tmp_path: Path, harness: Harness) -> None:
    path = tmp_path / "model.safetensors"
    given = ("unigrams", "--corpus", "world", "--max_tokens", 100, "--output", path, "--fresh", "--quiet")
    path.write_bytes(b"weights")
    code, _, err = harness(*given)
    assert code == 2 and "model.safetensors: this file holds no count" in err
    path.unlink()
    (tmp_path / "model.safetensors.unfinished").write_bytes(b"mine")
    code, _, err = harness(*given)
    assert code == 2 and "model.safetensors.unfinished: this file holds no count" in err
    assert files(tmp_path) == {"model.safetensors.unfinished": b"mine"}
    (tmp_path / "model.safetensors.unfinished").unlink()
    assert harness(*given)[0] == harness(*given)[0] == 0  # its own it replaces


def test_prepared_prompts_do_not_replace_another_file(tmp_path: Path, harness: Harness) -> None:
    given = ("lm-eval", "prepare", "--output", tmp_path, "--task", "induction_synthetic:sequences=4")
    own = tmp_path / "induction_synthetic"
    own.mkdir()
    (own / "scoring.py").write_text("mine")
    code, _, err = harness(*given)
    assert code == 2 and "induction_synthetic/scoring.py: the harness did not write this" in err
    assert files(tmp_path) == {"induction_synthetic/scoring.py": b"mine"}
    (own / "scoring.py").rename(own / "notes.py")
    for _ in range(2):
        code, _, err = harness(*given)
        assert code == 0, err
    assert (own / "notes.py").read_text() == "mine"


def test_training_does_not_replace_another_folder(tmp_path: Path) -> None:
    from harness_plugins.demo.train import refuse_foreign

    for wrong in ({"thesis.tex", "recipe.json"}, {"config.json"}):
        folder = tmp_path / "-".join(sorted(wrong))
        folder.mkdir()
        for name in wrong:
            (folder / name).touch()
        with pytest.raises(SystemExit, match="holds more than a model that was trained here"):
            refuse_foreign(folder)
    refuse_foreign(tmp_path / "new")


def test_a_worker_sends_only_files_of_the_runs_that_it_makes(tmp_path: Path) -> None:
    from small_runs import Silent

    from harness.plugin.catalogue import catalogue
    from harness.running.driver import Driver, Group
    from harness.running.execute import plan
    from harness.running.messages import Opened, Piece
    from harness.running.spec import Resources, RunSpec

    made = plan(RunSpec.model_validate({"name": "mine", "task": "knowledge_conflict", "selector": "entropy",
                                        "intervention": "mean"}), catalogue())  # fmt: skip
    driver = Driver(None, tmp_path / "out", "test", False, Silent(), 3, Resources(), False)  # type: ignore[arg-type]
    group = Group(driver, [made])
    with group.locks:
        for run in ("../mine-01234567", "other-01234567", "mine-../../..", "mine"):
            with pytest.raises(HarnessError, match="which it was not asked for"):
                group.open(Opened(run, False, "10.0.0.1"))
        group.open(Opened("mine-01234567", False, "10.0.0.1"))
        for path in ("../x", "/x", "figures/../../../x", "figures//x"):
            with pytest.raises(HarnessError, match="cannot be the name of a file"):
                group.put(Piece("mine-01234567", path, 0, b"x", last=True))
        with pytest.raises(HarnessError, match="which it was not asked for"):
            group.put(Piece("mine-89abcdef", "x", 0, b"x", last=True))
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
