"""Where a dictionary is: a bundled one, a folder, or a folder in a repository of the hub."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from harness.files.paths import expand
from harness.plugin import HarnessError, suggest

CONFIGURATION, WEIGHTS = "cfg.json", "sae_weights.safetensors"
"""SAELens's names of the two files of a dictionary."""

BUNDLED = ("demo-last",)
"""Dictionaries that come with the harness: of the last layer of the bundled model."""

PICKLED = ("*.pt", "*.pth", "*.bin", "*.ckpt")


@dataclass(frozen=True)
class Folder:
    """The two files of a dictionary, and the commit of a repository that they are from."""

    configuration: Path
    weights: Path
    commit: str | None = None


def find(sae: str) -> Folder:
    """The files of a dictionary: ``demo-last``, a folder, or OWNER/REPOSITORY/FOLDER on the hub.

    Raises:
        HarnessError: there is no such folder or repository, it lacks a file, or holds pickles only.
    """
    folder = Path(str(files(__package__).joinpath("data", sae))) if sae in BUNDLED else expand(sae)
    if folder.is_dir():
        return _complete(folder)
    parts = sae.split("/")
    if sae.startswith((".", "/", "~")) or len(parts) < 2 or folder.exists():
        beside = [x.name for x in folder.parent.iterdir() if x.is_dir()] if folder.parent.is_dir() else []
        raise HarnessError(
            f'sae: there is no folder "{sae}": expected one with {CONFIGURATION} and {WEIGHTS}, '
            f"OWNER/REPOSITORY/FOLDER on the hub, or {' or '.join(BUNDLED)}.{suggest(folder.name, [*BUNDLED, *beside])}"
        )
    return _of_hub("/".join(parts[:2]), "/".join(parts[2:]))


def _complete(folder: Path) -> Folder:
    """Both files of a folder on this machine."""
    if not (folder / CONFIGURATION).is_file():
        inside = sorted(x.parent.relative_to(folder).as_posix() for x in folder.glob(f"**/{CONFIGURATION}"))
        more = f" It is in {', '.join(inside[:3])}: name one of these." if inside else ""
        raise HarnessError(f"sae: {folder} has no {CONFIGURATION}, hence is no dictionary as SAELens saves them.{more}")
    if not (folder / WEIGHTS).is_file():
        pickled = sorted(x.name for pattern in PICKLED for x in folder.glob(pattern))
        raise HarnessError(
            f"sae: {folder} has no {WEIGHTS}"
            + (f", only pickles ({pickled[0]}), which can run code and are not read; convert them" if pickled else "")
            + "."
        )
    return Folder(folder / CONFIGURATION, folder / WEIGHTS)


def _of_hub(repository: str, inside: str) -> Folder:
    from harness.model.sources import commit_of, fetch, hub_is_off

    offline, prefix = hub_is_off(), f"{inside}/" if inside else ""
    configuration, weights = (
        fetch(repository, f"{prefix}{name}", None, offline, "dictionary") for name in (CONFIGURATION, WEIGHTS)
    )
    return Folder(configuration, weights, commit_of(configuration))
