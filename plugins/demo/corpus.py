"""Texts of the bundled model's synthetic world, as a corpus."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from pydantic import Field

from harness.files.digests import texts_digest
from harness.plugin import Corpus

KEPT = 10_000
"""Documents that are kept, where a corpus has no more: a process that makes several runs reads them each time."""


class WorldTexts(Corpus):
    """Texts of the synthetic world that the bundled model was trained on, drawn with another seed than its training's.

    Every kind of text in the proportions of training, without the sequences of random tokens, which are no text. The
    facts are those of training, so a short text may happen to be one that was trained on.
    """

    name = "world"
    size: int = Field(4000, ge=1, description="number of documents")
    seed: int = Field(1, ge=0, description="of the generator; training used 0")

    def documents(self) -> Iterator[str]:
        return _texts(self.size, self.seed)

    def data_digest(self) -> str:
        return _digest(self.size, self.seed)


def generate(documents: int, seed: int) -> Iterator[str]:
    """So many documents of the world; fewer are the first ones of more."""
    import random

    from .world import MIXTURE, TEXTS, World

    rng, world = random.Random(seed), World()
    kinds = [kind for kind in MIXTURE if kind in TEXTS]
    weights = [MIXTURE[kind] for kind in kinds]
    for _ in range(documents):
        kind = rng.choices(kinds, weights)[0]
        yield TEXTS[kind](rng, world)


def _texts(documents: int, seed: int) -> Iterator[str]:
    return iter(_kept(documents, seed)) if documents <= KEPT else generate(documents, seed)


@functools.lru_cache(maxsize=2)
def _kept(documents: int, seed: int) -> tuple[str, ...]:
    return tuple(generate(documents, seed))


@functools.lru_cache(maxsize=8)
def _digest(documents: int, seed: int) -> str:
    """sha256 of the texts themselves: of facts, wording, generator, seed and Python's random numbers at once."""
    return texts_digest(_texts(documents, seed))
