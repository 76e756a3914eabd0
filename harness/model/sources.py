"""Where a model is: a folder, a GGUF file, what a Python package ships, or a repository of the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, suggest
from harness.files.paths import expand
from harness.model.checkpoints import read_object
from harness.model.gguf_weights import converted, in_folder, installed, is_gguf, of_package
from harness.model.transformers_calls import first_line, quietly

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Source:
    """What ``transformers`` is to load.

    Attributes:
        place: a folder, or a hub id.
        called: what results call the model.
        commit: of a hub id, what its revision resolves to.
        origin: what results say of weights that were not loaded as they are; JSON values only.
    """

    place: Path | str
    called: str
    commit: str | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)


def find(
    pretrained: str | None,
    revision: str | None,
    offline: bool,
    gguf_file: str | None = None,
    package: str | None = None,
) -> Source:
    """A local folder, or a hub id with the commit that the revision resolves to; GGUF files are made folders of.

    Args:
        pretrained: folder, file or hub id; beside ``package`` it serves where that is not installed.

    Raises:
        HarnessError: there is no such folder, file, package or repository, or what was asked for does not fit it.
    """
    if pretrained is None and package is None:
        raise HarnessError("a model needs pretrained=, a folder, file or hub id, or package=, one that ships weights.")
    if package is not None and (pretrained is None or installed(package)):
        if revision is not None:
            raise HarnessError(f'revision "{revision}" was asked for, but the package {package} is of one version.')
        return _unpacked(of_package(package, gguf_file), package, package=package)
    assert pretrained is not None
    path = expand(pretrained)
    if path.exists() and revision is not None:
        raise HarnessError(f'revision "{revision}" was asked for, but {pretrained} is local, without any.')
    if path.is_dir():
        if gguf_file is not None or (not (path / "config.json").is_file() and any(path.glob("*.gguf*"))):
            return _unpacked(in_folder(path, gguf_file, f"model folder {path}"), pretrained)
        return Source(path, pretrained)
    if path.is_file():
        if not is_gguf(path):
            raise HarnessError(
                f"{pretrained} is a file: expected a GGUF file, or the folder that holds config.json and "
                "model.safetensors."
            )
        return _unpacked([path], pretrained)
    if is_path(pretrained):
        raise HarnessError(f'model folder "{pretrained}" does not exist.{nearest(path)}')
    if gguf_file is None:
        return Source(pretrained, pretrained, commit_of(fetch(pretrained, "config.json", revision, offline)))
    file = fetch(pretrained, gguf_file, revision, offline)
    return _unpacked([file], pretrained, commit_of(file))


def _unpacked(files: Sequence[Path], called: str, commit: str | None = None, package: str | None = None) -> Source:
    folder, facts = converted(files)
    return Source(folder, called, commit, {"gguf": facts} | ({} if package is None else {"package": package}))


def is_path(source: str) -> bool:
    """Whether a name can only be that of a folder, not of a repository of the hub."""
    return source.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(source)


def nearest(folder: Path) -> str:
    """Which folder beside a missing one may have been meant."""
    parent = folder.parent
    return suggest(folder.name, [x.name for x in parent.iterdir() if x.is_dir()]) if parent.is_dir() else ""


def fetch(pretrained: str, name: str, revision: str | None, offline: bool, noun: str = "model") -> Path:
    """Fetch a file of the hub, for the commit in its cache path and for the hub's precise errors.

    Args:
        noun: what errors call a repository.
    """
    import huggingface_hub
    from huggingface_hub import errors

    at = f' at revision "{revision}"' if revision else ""
    try:
        with quietly():
            found = huggingface_hub.hf_hub_download(pretrained, name, revision=revision, local_files_only=offline)
    except errors.GatedRepoError:
        page = f"https://huggingface.co/{pretrained}"
        if huggingface_hub.get_token() is None:
            raise HarnessError(
                f'{noun} "{pretrained}" is gated: accept its licence at {page} and set HF_TOKEN (or `hf auth login`).'
            ) from None
        raise HarnessError(
            f'{noun} "{pretrained}" is gated, and your token has no access to it: accept its licence at {page}.'
        ) from None
    except errors.RevisionNotFoundError:
        raise HarnessError(f'{noun} "{pretrained}" has no revision "{revision}" on the hub.') from None
    except errors.RepositoryNotFoundError:
        raise HarnessError(
            f'{noun} "{pretrained}" was not found: there is no local folder of that name and no such {noun} on the hub '
            f"(a private one needs HF_TOKEN).{nearest(Path(pretrained))}"
        ) from None
    except errors.LocalEntryNotFoundError:
        if offline:
            raise HarnessError(
                f'{noun} "{pretrained}"{at} is not in the local cache, and the hub may not be asked (HF_HUB_OFFLINE); '
                f"there is no local folder of that name either.{nearest(Path(pretrained))}"
            ) from None
        raise HarnessError(
            f'{noun} "{pretrained}"{at} is not in the local cache, and the hub cannot be reached; check the network.'
        ) from None
    except errors.EntryNotFoundError:
        if name != "config.json":
            raise HarnessError(f'"{pretrained}"{at} has no file "{name}" on the hub.') from None
        raise HarnessError(
            f'"{pretrained}"{at} has no config.json on the hub: it is no transformers model (GGUF files are named with '
            "gguf_file=, adapters with peft= beside the model that they are of)."
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise HarnessError(f'{noun} "{pretrained}"{at} could not be fetched: {first_line(error)}') from error
    return Path(found)


def config_of(source: Source, revision: str | None, offline: bool) -> dict[str, Any]:
    """The model's config.json, of a hub id from the cache where :func:`find` has put it."""
    place = source.place
    file = (
        place / "config.json"
        if isinstance(place, Path)
        else fetch(place, "config.json", source.commit or revision, offline)
    )
    return read_object(file)


def commit_of(file: Path) -> str | None:
    """The commit of a file in the hub's cache."""
    snapshots = [parent for parent in file.parents if parent.parent.name == "snapshots"]
    return snapshots[0].name if snapshots else None


def hub_is_off() -> bool:
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in names)
