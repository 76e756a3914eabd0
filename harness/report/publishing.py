"""Files for a folder of the user's choice: written beside what is there, replacing and removing only our own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.errors import HarnessError
from harness.files.owned import Written, remove_empty, within
from harness.files.store import write_bytes, writing


def publish(folder: Path, listing: str, files: Mapping[str, bytes], whole: bool) -> list[str]:
    """Write files, by their paths in the folder; ``listing`` there lists them with their digests for the next time.

    Args:
        whole: these files are all that there should be: what was listed before and is not among them is removed.

    Returns:
        Files that were listed and would be removed, but were changed since: they are kept.

    Raises:
        HarnessError: a file is in the way that the harness did not write, or that was changed since; nothing is
            written then. Or the folder cannot be written.
    """
    known, made = Written.read(folder / listing), Written.of(files)
    for path in files:
        refuse_foreign(folder, path, known | made)
    stale = [path for path in known.paths if path not in files] if whole else []
    # Before the files, for a killed process leaves some of the old and some of the new ones.
    write_bytes(folder / listing, (known | made).to_bytes())
    for path, data in files.items():
        write_bytes(folder / path, data)
    kept = [path for path in stale if not _remove(folder, path, known)]
    remove_empty(folder, stale)
    rest = frozenset() if whole else frozenset(x for x in known.entries if x[1] not in files)
    write_bytes(folder / listing, (made | Written(rest)).to_bytes())
    return kept


def refuse_foreign(folder: Path, path: str, known: Written) -> None:
    """Refuse to replace what is not ours.

    Raises:
        HarnessError: something is there that is not as it was written.
    """
    place = folder / path
    parents = [folder / parent for parent in Path(path).parents]
    free = all(parent.is_dir() or not parent.exists() for parent in parents) and not place.exists()
    if within(folder, path) and (free or known.holds(folder, path)):
        return
    raise HarnessError(
        f"{place}: the harness did not write this, or it was changed since, so it is not replaced; move it away or "
        "choose another folder."
    )


def _remove(folder: Path, path: str, known: Written) -> bool:
    """Remove a file that is as it was written; whether it is gone."""
    with writing(folder / path):
        if known.holds(folder, path):
            (folder / path).unlink()
        return within(folder, path) and not (folder / path).exists()
