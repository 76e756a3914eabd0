"""To the hub: what is refused before anything is sent, and one commit that replaces what an earlier one left."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.plugin import HarnessError, counted
from harness.results.folder import read_record

from .card import RUN
from .repository import Files, files_of, refuse_secrets

if TYPE_CHECKING:
    from huggingface_hub import HfApi

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}")
KEPT = frozenset({".gitattributes"})
"""What the hub itself puts into a new repository."""


@dataclass(frozen=True)
class Target:
    """A repository that may be sent to: whether it is there, and private; ``there``: the files that it has."""

    to: str
    exists: bool
    private: bool
    there: tuple[str, ...] = ()


def push(
    folder: Path, to: str, public: bool, replace: bool, tell: Callable[[str], object] = lambda sentence: None
) -> str:
    """Send a finished run; returns the address of its repository.

    Args:
        tell: is told what is about to be sent, and where.

    Raises:
        HarnessError: the run, the name, the token or the repository is not as it must be (nothing was sent then), or
            the hub refuses.
    """
    files, record = files_of(folder, check_name(to)), read_record(folder)
    hub = api()
    refuse_secrets(files, str(hub.token))
    target = check_target(hub, to, record.run_id, public, replace)
    tell(f"sending {counted(len(files), 'file')} to the {'private' if target.private else 'public'} {to}")
    return send(hub, target, files, f"Run {record.name}, {record.run_id[:8]}")


def check_name(to: str, field: str = "--to") -> str:
    """The name of a repository.

    Raises:
        HarnessError: it is none.
    """
    if not NAME.fullmatch(to) or ".." in to or "--" in to or to.endswith((".git", "-", ".")):
        raise HarnessError(
            f'{field}: expected user/dataset (letters, digits, "-", "_" and "."), such as me/neurons, got "{to}".'
        )
    return to


def api() -> HfApi:
    """The hub that HF_ENDPOINT names, with the token that is known here.

    Raises:
        HarnessError: there is no token.
    """
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if not token:
        raise HarnessError("harness push: no token of the hub is known here; run `hf auth login`, or set HF_TOKEN.")
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token, library_name="neuron-harness")


def check_target(hub: HfApi, to: str, run_id: str, public: bool, replace: bool) -> Target:
    """Look whether a repository may be written to.

    Raises:
        HarnessError: it holds something else, another run, or is open to everybody though that was not asked for; or
            the hub does not answer.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    with _asking(f"{to} could not be looked at"):
        try:
            found = hub.repo_info(to, repo_type="dataset")
        except RepositoryNotFoundError as error:
            if error.response.status_code == 401:  # so the hub speaks of what it does not let one see
                raise HarnessError(f"harness push: the hub does not let this token look at {to}.") from error
            return Target(to, exists=False, private=not public)
    files = tuple(item.rfilename for item in found.siblings or ())
    held = None if found.card_data is None else found.card_data.to_dict().get(RUN)
    if held is None and set(files) - KEPT:
        raise HarnessError(f"--to: {to} exists and holds no run of the harness; choose another name.")
    if held is not None and held != run_id and not replace:
        raise HarnessError(f"--to: {to} holds another run ({held[:8]}); choose another name, or pass --replace.")
    if not found.private and not public:
        raise HarnessError(f"--to: {to} is there already, and everybody can read it; pass --public to send to it.")
    return Target(to, True, bool(found.private), tuple(file for file in files if file not in KEPT))


def send(hub: HfApi, target: Target, files: Files, message: str) -> str:
    """Make the repository if it is not there, and one commit; returns its address.

    Raises:
        HarnessError: the hub refuses, or does not answer.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [CommitOperationAdd(path, data) for path, data in files.items()]
    operations += [CommitOperationDelete(path) for path in target.there if path not in files]
    if not target.exists:
        with _asking(f"{target.to} could not be made"):
            hub.create_repo(target.to, repo_type="dataset", private=target.private)
    with _asking(f"{target.to} could not be written"):
        hub.create_commit(target.to, operations, commit_message=message, repo_type="dataset")
    return f"{hub.endpoint}/datasets/{target.to}"


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turn what the hub, or the network, refuses into a sentence."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        # Of a large file that could not be uploaded the client raises a RuntimeError, whose cause is the reason.
        said = _said(error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error)
        if said is None:
            raise
        raise HarnessError(f"harness push: {what}: {said}.") from error


def _said(error: BaseException) -> str | None:
    """What is the matter, of an error of the hub or of the network; None of another."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "the hub may not be asked (HF_HUB_OFFLINE)"
    if isinstance(error, HfHubHTTPError):
        return (error.server_message or " ".join(str(error).split())[:200]).rstrip(".")
    if isinstance(error, OSError) or type(error).__module__.startswith("httpx"):  # which, or its successor httpx2
        return f"the hub cannot be reached ({type(error).__name__})"
    return None
