"""Names that become parts of paths, and files that are provably the harness's: no others are replaced or removed.

A folder's list of what was written to it has the form that ``sha256sum`` writes and checks: one digest and one path a
line. A file is ours while its digest is the one that the list gives for its path.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError

LONGEST = 200
"""Bytes of a name; file systems end at 255, and endings are added to it."""

_NAME = re.compile(r"[\w=+-][\w=+,.()% -]*")
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def path_name(name: object, where: str) -> str:
    """A name from a file, an option or a plugin that is to be the name of a file or folder, or the beginning of one.

    Args:
        where: what the name is, for the error: ``runs/a/result.json, name``.

    Raises:
        HarnessError: it could lead elsewhere, or no file can be called so.
    """
    if isinstance(name, str) and _NAME.fullmatch(name) and len(name.encode()) <= LONGEST:
        return name
    shown = repr(name if len(str(name)) <= 80 else f"{str(name)[:80]}...")
    raise HarnessError(
        f"{where}: {shown} cannot be the name of a file: expected at most {LONGEST} letters, digits, spaces and any of "
        "_ - + = , . ( ) %, no dot or space first."
    )


def sha256_of(path: Path) -> str:
    """Digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Written:
    """What the harness wrote to a folder: pairs of digest and path.

    A path may have two digests while its file is being replaced: then either content is ours.
    """

    entries: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def read(cls, path: Path) -> Written:
        """The list in a file; nothing was written where there is none.

        Raises:
            HarnessError: it is no such list, or names files outside its folder.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return cls()
        except NotADirectoryError as error:
            file = next(parent for parent in path.parents if parent.is_file())
            raise HarnessError(f"{file}: this is a file; expected a folder, which may be a new one.") from error
        except (OSError, ValueError) as error:
            raise HarnessError(f"{path}: this list of written files cannot be read ({error}).") from error
        entries = set()
        for number, line in enumerate(lines, 1):
            found = _LINE.fullmatch(line)
            if found is None:
                raise HarnessError(f"{path}, line {number}: expected a sha256 and a path, as sha256sum writes them.")
            for part in found[2].split("/"):
                path_name(part, f"{path}, line {number}")
            entries.add((found[1], found[2]))
        return cls(frozenset(entries))

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Written:
        """Files by their paths, as they are about to be written."""
        return cls(frozenset((hashlib.sha256(data).hexdigest(), path) for path, data in files.items()))

    @classmethod
    def found(cls, folder: Path, paths: Iterable[str]) -> Written:
        """Files of a folder, as they are."""
        return cls(frozenset((sha256_of(folder / path), path) for path in paths))

    def __or__(self, other: Written) -> Written:
        return Written(self.entries | other.entries)

    @property
    def paths(self) -> list[str]:
        return sorted({path for _, path in self.entries})

    def to_bytes(self) -> bytes:
        return "".join(f"{digest}  {path}\n" for digest, path in sorted(self.entries, key=lambda x: x[::-1])).encode()

    def holds(self, folder: Path, path: str) -> bool:
        """Whether the file at a path is there as it was written; a link is not, nor is what lies behind one."""
        place = folder / path
        return within(folder, path) and place.is_file() and (sha256_of(place), path) in self.entries


def within(folder: Path, path: str) -> bool:
    """Whether a path in a folder leads to no other place: neither it nor a folder on its way is a link."""
    place = folder
    for part in path.split("/"):
        place /= part
        if place.is_symlink():
            return False
    return True


def remove_empty(folder: Path, paths: Iterable[str]) -> None:
    """Remove the folders of removed files, below ``folder``, that are empty now."""
    parents = {parent.as_posix() for path in paths for parent in Path(path).parents} - {"."}
    for parent in sorted(parents, key=len, reverse=True):
        try:
            os.rmdir(folder / parent)
        except OSError:  # something else is in it, or it is gone
            continue
