"""Caches of libraries where the user has no home, or none that can be written, and where nobody else can put code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import arguments, only
from image import environment as of_image

from harness.files import cache_folders as caches

pytestmark = pytest.mark.skipif(os.name != "posix", reason="homes and owners of POSIX")

STRANGER = 54321
"""A number that no user has."""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files; no cache is set, and the environment is put back."""
    for name in (*caches.LIBRARIES, "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "HOME"):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever is set
        monkeypatch.delenv(name)
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    caches.private.cache_clear()
    yield folder
    caches.private.cache_clear()


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only temporary folders can be written, whoever runs the tests."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and real(path, mode))


def test_nothing_changes_where_caches_can_be_written(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = dict(os.environ)
    caches.provide()
    assert dict(os.environ) == before
    assert not list(temporary.iterdir())


def test_who_has_no_home_gets_one(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    caches.provide()
    [home] = temporary.iterdir()
    assert os.environ["HOME"] == str(home)
    assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("unwritable")
def test_caches_that_can_only_be_read_are_still_read(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", "/mine")
    (tmp_path / ".cache/huggingface").mkdir(parents=True)
    caches.provide()
    [own] = temporary.iterdir()
    assert os.environ["XDG_CACHE_HOME"] == str(own)
    assert os.environ["HF_HOME"] == str(tmp_path / ".cache/huggingface")
    assert os.environ["MPLCONFIGDIR"] == str(own / "matplotlib")
    assert os.environ["TORCH_HOME"] == "/mine"


def test_who_has_no_name_does_not_need_one(temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("getpass.getuser", nobody)
    caches.provide()
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).parent.parent == temporary


def test_a_folder_that_somebody_else_could_write_is_not_used(temporary: Path, tmp_path: Path) -> None:
    usual = temporary / f"harness-caches-{os.getuid()}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)

    def found() -> Path | None:
        caches.private.cache_clear()
        return caches.private()

    assert found() == usual == found()
    usual.chmod(0o777)
    assert found() != usual
    usual.rmdir()
    usual.symlink_to(elsewhere)
    assert found() != usual
    usual.unlink()
    usual.write_bytes(b"")
    other = found()
    assert other is not None and other != usual and caches.is_private(other)
    shutil.rmtree(other)


def test_without_any_temporary_folder_there_is_none(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "missing"))
    assert caches.private() is None


def test_functions_are_compiled_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's folder, the user's and the temporary one can all not be written."""
    import numba

    def refuse(*given: object, **more: object) -> object:
        raise OSError(30, "Read-only file system")

    caches._numba_can_cache.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(numba.config, "CACHE_DIR", "")
        patch.setattr(tempfile, "TemporaryFile", refuse)  # how numba finds out
        patch.setattr(caches, "private", lambda: None)
        assert not caches._numba_can_cache()
        assert caches.njit(cache=True)(lambda x: x + 1)(1) == 2
    caches._numba_can_cache.cache_clear()


def as_stranger() -> list[str]:
    """The beginning of a command that is run as a user without a name, who may read everything and write nothing (the
    interpreter may lie in root's home)."""
    only_read = "-all,+dac_read_search"
    command = ["setpriv", "--reuid", str(STRANGER), "--regid", str(STRANGER), "--clear-groups"]
    return [*command, *(f"--{x}={only_read}" for x in ("inh-caps", "ambient-caps", "bounding-set"))]


def can_be_a_stranger() -> bool:
    try:
        return subprocess.run([*as_stranger(), sys.executable, "-c", ""], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can look into, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.mark.skipif(not can_be_a_stranger(), reason="only root can be another user")
@pytest.mark.slow
def test_a_container_with_any_user(small_facts: Path, open_folder: Path) -> None:
    """As another user, in a folder that this one cannot write, as it is in a container with a random uid; and with what
    our image sets and Docker gives a user without a name: the home ``/``. (``tests/project/test_image.py``)"""
    shutil.copy(small_facts, facts := open_folder / "facts.jsonl")
    facts.chmod(0o644)
    folders = output, reports, place = [open_folder / name for name in ("out", "reports", "tmp")]
    for folder in folders:
        folder.mkdir()
        os.chown(folder, STRANGER, STRANGER)
    nobody = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME")}
    nobody |= {"TMPDIR": str(place)}

    def compiled(given: list[object], environment: dict[str, str]) -> dict[Path, int]:
        """Run a command; returns what it has compiled, and when."""
        command = [*as_stranger(), sys.executable, "-m", "harness", *map(str, given)]
        done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return {path: path.stat().st_mtime_ns for path in place.rglob("numba_loops.*.nb?")}

    once = compiled(arguments(facts, output, metric="transitions"), nobody)
    assert once and (only(output) / "files.sha256").stat().st_uid == STRANGER

    image = {"HOME": "/"} | {k: v.replace("/reports", str(reports)) for k, v in of_image().items()}
    given = arguments(facts, output, metric="transitions")
    at = given.index("--output_path")  # the folder is the one that HARNESS_REPORTS_DIR names
    assert compiled(given[:at] + given[at + 2 :], nobody | image) == once  # once for all
    assert (only(reports) / "files.sha256").stat().st_uid == STRANGER
    assert not Path("/~").exists()
