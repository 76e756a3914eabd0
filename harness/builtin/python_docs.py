"""English prose that needs no network and no file: the language reference that comes with every Python."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.errors import HarnessError
from harness.files.digests import texts_digest
from harness.plugin.components import Corpus

_UNDERLINE = re.compile(r"[*=\-~^\"]{3,}")


class PythonDocs(Corpus):
    """The Python language reference, as ``help("topics")`` shows it: some 30,000 words of technical English.

    For a first look at a model that has no texts of its own, without the network. It is one register of one language:
    for what a paper claims, name a corpus of natural text (``text:path=...``). One document a topic; paragraphs of
    prose are joined to one line each, while headings, code and grammar are left out. The texts differ between versions
    of Python, and so does the digest that a record holds.
    """

    name = "python_docs"

    def documents(self) -> Iterator[str]:
        for topic in _topics().values():
            if text := prose(topic):
                yield text

    def data_digest(self) -> str:
        return texts_digest(self.documents())


def prose(topic: str) -> str:
    """The paragraphs of reStructuredText that are prose: unindented, more than one line, no heading; a line each."""
    paragraphs = (paragraph.splitlines() for paragraph in re.split(r"\n\s*\n", topic.strip("\n")))
    return "\n".join(
        " ".join(" ".join(lines).split())
        for lines in paragraphs
        if len(lines) > 1
        and not any(line[:1].isspace() for line in lines)
        and not any(_UNDERLINE.fullmatch(line) for line in lines)
    )


def _topics() -> dict[str, str]:
    """Raises HarnessError where this Python was built without them."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise HarnessError(
            "corpus python_docs: this Python comes without its language reference (pydoc_data); name another corpus, "
            "such as text:path=FILE."
        ) from error
    found: dict[str, str] = topics
    return found
