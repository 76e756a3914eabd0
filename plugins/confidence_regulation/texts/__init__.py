"""Plain English that comes with the plugin, for models that have no texts of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.resources import files

from harness.plugin import Corpus


class Prose(Corpus):
    """Thirty-two paragraphs of plain English, about 2,000 words, that were written for this project.

    What neurons do is measured on them where neither the user nor the model names a text: they need no network, state
    no fact that a task asks for, and were published with this project only.
    """

    name = "prose"

    def documents(self) -> Iterator[str]:
        yield from _read().strip().split("\n\n")

    def data_digest(self) -> str:
        return hashlib.sha256(_read().encode()).hexdigest()


def _read() -> str:
    return (files(__name__) / "prose.txt").read_text(encoding="utf-8")
