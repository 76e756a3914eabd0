"""Where we keep what was dear to make, and somewhere to write for libraries that keep caches, where there is no home,
or none that can be written.

So it is in containers that run as any user: the package's folder is root's, and HOME is unset, ``/`` or read-only.
"""

from __future__ import annotations

import atexit
import getpass
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

LIBRARIES = {
    "HF_HOME": "huggingface",
    "MPLCONFIGDIR": "matplotlib",
    "TORCH_HOME": "torch",
    "TRITON_CACHE_DIR": "triton",
}
"""Variables that say where a library's cache is, and its folder's name among the user's caches."""


def provide() -> None:
    """Set the environment so that every library finds a cache that it can write; to be called before they are imported.

    Nothing changes where the user's caches can be written. What is in caches that can only be read is still found, and
    what the user has set stays as it is. Where not even a temporary folder can be written, libraries are left to what
    they do without.
    """
    if os.name != "posix":
        return
    if not _has_name() and (own := private()) is not None:  # torch would ask for it to name its folder
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(own / "torchinductor"))
    if not _has_home():
        if (own := private()) is not None:
            os.environ["HOME"] = str(own)
            os.environ.setdefault("XDG_CACHE_HOME", str(own))  # as below, so that one place serves both
        return
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if _can_be_written(caches) or (own := private()) is None:
        return
    for variable, name in LIBRARIES.items():
        kept = (caches / name).is_dir() and os.access(caches / name, os.R_OK | os.X_OK)
        os.environ.setdefault(variable, str(caches / name if kept else own / name))
    os.environ["XDG_CACHE_HOME"] = str(own)


def kept_in(name: str) -> Path:
    """The folder ``name`` of what the harness itself keeps: in HARNESS_CACHE_DIR, else ``neuron-harness`` of the user's
    caches. It need not be there."""
    own = os.environ.get("HARNESS_CACHE_DIR")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(own) if own else caches / "neuron-harness") / name


def _has_home() -> bool:
    """Whether anybody can say where the user's home is; else libraries make a folder ``~`` wherever they are called."""
    return os.path.expanduser("~") != "~"


def _has_name() -> bool:
    try:
        getpass.getuser()
    except (KeyError, OSError):  # by Python's version: nobody has this number
        return False
    return True


def _can_be_written(folder: Path) -> bool:
    """Whether a folder can be written, or made."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
    except OSError:  # it may not even be looked at
        return False
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


@cache
def private() -> Path | None:
    """A temporary folder that is this user's alone, for caches hold code that is run; the same in every process.

    Where somebody else has taken its name, one for this process. None where there is no place for temporary files.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"harness-caches-{os.getuid()}"
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            if not is_private(folder):
                folder = Path(tempfile.mkdtemp(prefix="harness-caches-"))
                atexit.register(shutil.rmtree, folder, ignore_errors=True)
    except OSError:
        return None
    return folder


def is_private(folder: Path) -> bool:
    """Whether it is a folder, no link, of this user, into which nobody else can look or write."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba's decorator, with a cache where there is a place for one: without, it refuses to be imported."""
    import numba

    found: Callable[[Callable[..., Any]], Any] = numba.njit(
        **options | {"cache": bool(options.get("cache")) and _numba_can_cache()}
    )
    return found


@cache
def _numba_can_cache() -> bool:
    """Whether numba finds a place for what is compiled in this package: its folder, the user's, or a temporary one."""
    import numba

    def anything() -> None: ...

    for own in (False, True):
        if (own or not _has_home()) and (folder := private()) is not None:
            numba.config.CACHE_DIR = str(folder / "numba")
        try:
            numba.njit(cache=True)(anything)
        except RuntimeError:  # "no locator available"
            continue
        return True
    return False
