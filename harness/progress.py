"""How long work tells of itself: a stage has a title, and a number of steps where that is known."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

Advance = Callable[[int], None]
"""Called with a number of newly finished steps."""


class Stage(Protocol):
    """Begins a stage; the context gives a function to tell of progress. Stages may lie in one another."""

    def __call__(self, title: str, total: int | None = None) -> AbstractContextManager[Advance]: ...


@contextlib.contextmanager
def silent(title: str, total: int | None = None) -> Iterator[Advance]:
    """A stage that nobody is told of."""
    yield lambda n: None


def shares(advance: Advance, total: int) -> Callable[[float], None]:
    """A function that takes shares of ``total`` steps and tells of whole ones; shares that sum to 1 tell of all."""
    done, told = 0.0, 0

    def share(part: float) -> None:
        nonlocal done, told
        done += part * total
        whole = int(done + 1e-6 * total)
        if whole > told:
            advance(whole - told)
            told = whole

    return share
