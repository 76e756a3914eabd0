"""Token counts that others have published, by name: what the file is called, and which bytes it has.

They come with the code of Stolfo et al. 2024 and are nowhere else that we know of, so they are not fetched: whoever
wants them puts the file where :func:`counts_file` looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError
from harness.files.cache_folders import kept_in
from harness.files.digests import bytes_digest

WHERE = "the folder datasets of github.com/bpwu1/confidence-regulation-neurons"


@dataclass(frozen=True)
class PublishedCounts:
    """A ``.npy`` file of counts by token id.

    Attributes:
        file: its name. sha256: of its bytes. about: whose tokens were counted in what.
    """

    file: str
    sha256: str
    about: str


PUBLISHED = {
    "openwebtext-gpt2": PublishedCounts(
        "gpt2-small-unigrams_openwebtext-2M_rows_500000.npy",
        "fa9039d6a5acced4b2c5dc9b6f55862574e4d13002b1246b19b55bec1518c9ef",
        "GPT-2's tokens in OpenWebText",
    ),
    "pile-pythia": PublishedCounts(
        "pythia-unigrams.npy",
        "76e5945bc51540b823f5dbd26bda082995f9beb4334b2c315f9da637f0fa3a8f",
        "Pythia's tokens in the Pile",
    ),
    "c4-phi-2": PublishedCounts(
        "phi-2-unigrams_c4_en_validation.npy",
        "d6edcf022e6b955c6b7e890a33be81975ec8000fda49f0b8a3ae4505715191e3",
        "Phi-2's tokens in the validation part of C4",
    ),
}


def counts_file(source: str) -> Path:
    """The file of a published name, else the path that ``source`` is; it need not be a file of counts.

    Raises:
        HarnessError: the file of a name is not there, or is another one; says what to download and where to put it.
    """
    known = PUBLISHED.get(source)
    if known is None:
        return Path(source)
    path = kept_in("token-counts") / known.file
    if not path.is_file():
        raise HarnessError(
            f"unigram={source}: {path} is not there; download {known.file} ({known.about}) from {WHERE} to that "
            "folder, or name another file of counts (`harness unigrams` counts one)."
        )
    if bytes_digest(path) != known.sha256:
        raise HarnessError(
            f"unigram={source}: {path} is not the published file (its sha256 is not {known.sha256[:12]}...); download "
            f"it again from {WHERE}, or name it by its path."
        )
    return path
