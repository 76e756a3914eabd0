"""Digests of files and texts, which runs and corpora are identified by."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.errors import HarnessError


def files_digest(files: Sequence[Path]) -> str:
    """sha256 over the sha256 of every file's bytes, in order; names do not matter."""
    return hashlib.sha256("\n".join(map(bytes_digest, files)).encode()).hexdigest()


def bytes_digest(file: Path) -> str:
    """sha256 of the bytes of one file, as others publish it.

    Raises:
        HarnessError: it cannot be read.
    """
    try:
        stat = file.stat()
    except OSError as error:
        raise HarnessError(f"{file}: cannot be read ({error.strerror}).") from error
    return _file_digest(str(file), stat.st_size, stat.st_mtime_ns)


def texts_digest(texts: Iterable[str]) -> str:
    """sha256 of texts, in order; each ends with a NUL byte."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


@functools.lru_cache(maxsize=4096)
def _file_digest(path: str, size: int, changed: int) -> str:
    """sha256 of a file's bytes; ``size`` and ``changed`` (ns) make it be read anew after a change."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}).") from error
