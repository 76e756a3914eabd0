"""A run is finished when everything is there: one that is killed, or finds the disk full, at any file is continued,
and in the end its folder is what it is without the accident."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import blank
import pytest
from commands import VOLATILE, Harness, after, arguments, files, only
from small_runs import Silent, spec

from harness.errors import HarnessError
from harness.files import store
from harness.plugin.catalogue import catalogue
from harness.results import folder as results
from harness.results.folder import RunFolder, read_record
from harness.running import execute as run

pytestmark = pytest.mark.usefixtures("blank_figures")

STAGES = (
    "unfinished/prepared.json",
    "unfinished/part-00000000.json",
    "unfinished/part-00000016.safetensors",
    "tables/transition_cells.csv",
    "figures/norm_logit_var.svg",
    "samples.jsonl",
    "outcomes.safetensors",
    "result.json",
    "files.sha256",
    "report.html",
)
"""Files at which a run is killed: one of each kind, in the order in which they are written."""

COMPUTED = STAGES.index("files.sha256")
"""From here on nothing is left to be computed."""


class Killed(KeyboardInterrupt):
    """What SIGKILL leaves: nobody cleans up after it."""


@contextmanager
def accident(path: str, error: BaseException) -> Iterator[None]:
    """Within the block, what writes this file of a run fails when it is all but in place."""
    replace, unlink = os.replace, os.unlink

    def put(source: Path, place: Path) -> None:
        if str(place).endswith(f"/{path}"):
            raise error
        replace(source, place)

    def remove(*given: object, **more: object) -> None:
        if not isinstance(error, Killed):
            unlink(*given, **more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.os, "replace", put)
        patch.setattr(store.os, "unlink", remove)
        yield


Make = Callable[[Path], run.Finished]


@pytest.fixture
def make(small_facts: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr(run, "PART", 16)
    return making(small_facts)


def making(facts: Path) -> Make:
    planned = run.plan(spec("mean", facts, metrics=["transitions"]), catalogue())
    return lambda output: run.execute(planned, output, Silent(), "test")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(small_facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the run has been made, and its leaderboard; not to be changed."""
    output = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.report.figure_files.render", blank.render)
        patch.setattr(run, "PART", 16)
        making(small_facts)(output)
    return output


@pytest.fixture
def whole(finished: Path, tmp_path: Path) -> Path:
    """The finished run, in this test's own folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return only(tmp_path)


def same(one: Path, other: Path) -> None:
    """Two folders hold the same files, and the same bytes."""
    found = files(one), files(other)
    assert found[0].keys() == found[1].keys()
    assert [name for name in found[0] if not name.endswith(VOLATILE) and found[0][name] != found[1][name]] == []


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


@pytest.mark.slow
def test_every_stage_is_killed_and_the_run_continued(make: Make, finished: Path, tmp_path: Path) -> None:
    """The same command again and again, killed a stage later each time."""
    assert set(STAGES[3:]) <= files(only(finished)).keys()
    with pytest.MonkeyPatch.context() as patch:
        for i, stage in enumerate(STAGES):
            if i > COMPUTED:
                patch.setattr(run, "_work", None)  # the model's work is not done again
                patch.setattr(run, "_finish", None)
            with accident(stage, Killed()), pytest.raises(Killed):
                make(tmp_path)
            left = only(tmp_path)
            assert RunFolder(left).complete == (stage == "report.html")  # which a reporter writes
            assert any(results.TEMPORARY.fullmatch(name) for name in names(left)), stage
        again = make(tmp_path)
    assert again.reused
    same(only(finished), again.path)
    rows = [(output / "leaderboard.jsonl").read_text().count("\n") for output in (finished, tmp_path)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("stage", ["unfinished/part-00000016.safetensors", "samples.jsonl"])
def test_what_a_killed_run_leaves_is_continued_at_once(stage: str, make: Make, finished: Path, tmp_path: Path) -> None:
    """As above, but nothing else happens between: of the model's work, and of what is made of it."""
    with accident(stage, Killed()), pytest.raises(Killed):
        make(tmp_path)
    again = make(tmp_path)
    assert not again.reused
    same(only(finished), again.path)


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_the_run_continues(make: Make, finished: Path, tmp_path: Path) -> None:
    for stage in ("unfinished/prepared.json", "figures/norm_logit_var.svg", *STAGES[COMPUTED - 1 : -1]):
        with accident(stage, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):
            with pytest.raises(HarnessError, match=r"No space left on device\. Free some space") as said:
                make(tmp_path)
            assert Path(stage).name in str(said.value)
        assert not any(results.TEMPORARY.fullmatch(name) for name in names(tmp_path)), stage
    same(only(finished), make(tmp_path).path)


def test_what_is_finished_is_cleaned_of_what_a_killed_process_left(make: Make, whole: Path, tmp_path: Path) -> None:
    before = files(whole)
    (whole / "unfinished").mkdir()
    left = (".result.json.a1b2c3d4", "figures/.neurons.png.0_abcdef", "unfinished/.prepared.json.partial")
    for name in (*left, "unfinished/prepared.json", "unfinished/part-00000256.safetensors"):
        (whole / name).write_bytes(b"x")
    assert make(tmp_path).reused
    assert files(whole) == before


def test_what_is_not_ours_stays_beside_it(make: Make, whole: Path, tmp_path: Path) -> None:
    theirs = ("notes.txt", ".gitignore", ".vimrc.swp", "figures/mine.png", "unfinished/notes.txt")
    (whole / "unfinished").mkdir()
    for name in theirs:
        (whole / name).write_bytes(b"mine")
    make(tmp_path)
    assert all((whole / name).read_bytes() == b"mine" for name in theirs)


def test_an_older_finished_run_has_no_mark_and_gets_one(make: Make, whole: Path, tmp_path: Path) -> None:
    before = files(whole)
    (whole / "files.sha256").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_work", None)
        assert make(tmp_path).reused
    assert files(whole) == before


def test_a_page_that_was_removed_is_made_again(make: Make, whole: Path, tmp_path: Path) -> None:
    before = files(whole)
    (whole / "report.html").unlink()
    assert make(tmp_path).reused
    assert files(whole) == before


def test_the_mark_is_what_sha256sum_checks(whole: Path) -> None:
    import hashlib

    lines = [line.split("  ") for line in (whole / "files.sha256").read_text().splitlines()]
    found = {name: data for name, data in files(whole).items() if name not in (*VOLATILE, "files.sha256")}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in found.items()} == {x[1]: x[0] for x in lines}


def test_fresh_removes_what_was_written_and_nothing_else(small_facts: Path, tmp_path: Path, harness: Harness) -> None:
    given = arguments(small_facts, tmp_path, metric="entropy_change", limit="20", controls="5")
    assert harness(*given)[0] == 0
    folder = only(tmp_path)
    before = files(folder)
    theirs = {"notes.txt": b"mine", "figures/mine.png": b"mine", "more/samples.jsonl": b"mine"}
    for name, data in theirs.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "figures/old.png").write_bytes(b"of an older version")
    mark = folder / "files.sha256"
    digest = "1e1ca7a2bc4a7ed3d0b5a0a4e5f0aa5d7a9ba9d8f9b9a1a2fbb8d7c9cf5bd0aa"
    mark.write_text(mark.read_text() + f"{digest}  figures/old.png\n")  # not its digest: changed since
    assert harness(*given, "--fresh")[0] == 0
    after = files(folder)
    assert all(after.pop(name) == data for name, data in theirs.items())
    assert after.pop("figures/old.png") == b"of an older version"
    assert after.keys() == before.keys()
    assert [name for name in after if not name.endswith(VOLATILE) and after[name] != before[name]] == []


def test_fresh_removes_figures_that_are_not_made_any_more(whole: Path) -> None:
    from harness.files.owned import Written

    (whole / "figures/old.png").write_bytes(b"of an older version")
    mark = whole / "files.sha256"
    mark.write_bytes((Written.read(mark) | Written.found(whole, ["figures/old.png"])).to_bytes())
    RunFolder(whole).open(fresh=True)
    assert names(whole) == {"unfinished", "writable"}


def test_a_run_that_fails_early_leaves_what_was_there(small_facts: Path, tmp_path: Path, harness: Harness) -> None:
    planned = run.plan(spec("mean", small_facts, selector="entropy:top=3000", metrics=["entropy_change"]), catalogue())
    with pytest.raises(HarnessError, match="top=3000"):
        run.execute(planned, tmp_path, Silent(), "test")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    [lock] = tmp_path.glob(".mean-*.lock")
    folder = tmp_path / lock.name.removeprefix(".").removesuffix(".lock")
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(HarnessError, match="top=3000"):
        run.execute(planned, tmp_path, Silent(), "test")  # type: ignore[arg-type]
    assert files(folder) == {"notes.txt": b"mine"}


def test_an_unfinished_run_is_called_so(make: Make, tmp_path: Path) -> None:
    with accident("samples.jsonl", Killed()), pytest.raises(Killed):
        make(tmp_path)
    with pytest.raises(HarnessError, match="this run is not finished; the command that began it continues it"):
        read_record(only(tmp_path))


def test_a_process_that_is_killed_before_the_page(small_facts: Path, tmp_path: Path, harness: Harness) -> None:
    script = (
        "import os, signal\n"
        "from harness.report import figure_files\nfigure_files.render = lambda figure: (b'', b'<svg/>')\n"
        "from harness.report import page\npage.write_page = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    given = arguments(small_facts, tmp_path, metric="entropy_change", limit="20", controls="5")
    assert after(script, given).returncode == -signal.SIGKILL
    left = only(tmp_path)
    assert (left / "result.json").is_file() and not (left / "report.html").exists()
    assert not (tmp_path / "leaderboard.jsonl").exists()
    code, _, err = harness(*given)
    assert code == 0, err
    assert (left / "report.html").is_file() and not (left / "unfinished").exists()
    record = json.loads((left / "result.json").read_text())
    assert len((tmp_path / "leaderboard.jsonl").read_text().splitlines()) == len(record["measures"])


# -- before the work ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["local", "ray"])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda path: path.mkdir(), "cannot write .*leaderboard.jsonl: Is a directory"),
        (lambda path: path.write_text("mine\n"), "leaderboard.jsonl, line 1: this is not a leaderboard row"),
        (lambda path: path.with_name("leaderboard.jsonl.lock").mkdir(), "cannot write .*leaderboard.jsonl"),
    ],
    ids=["a folder", "not a leaderboard", "no lock"],
)
def test_a_leaderboard_that_cannot_be_written_is_found_before_the_run(
    small_facts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: str, wrong: Callable[[Path], object],
    says: str,
) -> None:  # fmt: skip
    from harness.running.executors import executor_of, make

    tmp_path.joinpath("out").mkdir()
    wrong(tmp_path / "out/leaderboard.jsonl")
    planned = run.plan(spec("mean", small_facts), catalogue())
    monkeypatch.setattr(type(planned.model), "load", lambda self: pytest.fail("the model was loaded"))
    with pytest.raises(HarnessError, match=says):
        list(make(executor_of(executor), [[planned]], tmp_path / "out", "test", False, Silent()))
    assert {x.name for x in (tmp_path / "out").iterdir()} <= {"leaderboard.jsonl", "leaderboard.jsonl.lock"}


def test_a_file_where_a_folder_belongs_is_called_so(tmp_path: Path, harness: Harness) -> None:
    (tmp_path / "file").write_text("mine")
    for output in ("file", "file/below/it"):
        code, _, err = harness("run", "copying-null", "-o", tmp_path / output)
        assert code == 2 and f"{tmp_path}/file is a file, not a folder" in err


# -- SIGTERM -----------------------------------------------------------------------------------------------------------

TERMINATED = """
import os, signal
from harness.running import execute as run
from harness.results.folder import RunFolder
run.PART = 20
real = RunFolder.save_part
def save(self, start, part):
    real(self, start, part)
    os.kill(os.getpid(), signal.SIGTERM)
RunFolder.save_part = save
"""


def test_sigterm_says_how_to_go_on(
    small_facts: Path, tmp_path: Path, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = arguments(small_facts, tmp_path, metric="transitions", controls="19", limit="60")
    done = after(TERMINATED, given)
    assert done.returncode == 143
    assert done.stderr == b"terminated; the same command continues from the prompts that are finished\n"
    assert (only(tmp_path) / "unfinished/part-00000000.safetensors").is_file()
    made: list[int] = []
    save = RunFolder.save_part
    monkeypatch.setattr(run, "PART", 20)
    monkeypatch.setattr(RunFolder, "save_part", lambda self, start, part: (made.append(start), save(self, start, part)))
    code, _, err = harness(*given)
    assert code == 0, err
    assert made and 0 not in made
    assert (only(tmp_path) / "files.sha256").is_file()


# -- permissions -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("umask", [0o077, 0o002])
def test_what_is_written_follows_the_umask(make: Make, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        make(tmp_path / "out")
    finally:
        os.umask(before)
    for path in (tmp_path / "out").rglob("*"):
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert path.stat().st_mode & 0o777 == wanted, path
