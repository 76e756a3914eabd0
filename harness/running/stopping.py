"""Ctrl-C and SIGTERM (a scheduler's limit, a container that is stopped): a sentence says how to go on, no traceback."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

from harness.files import harmless


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived: what Ctrl-C ends, it ends in the same way."""


@contextlib.contextmanager
def terminations() -> Iterator[None]:
    """Within the block, SIGTERM raises :class:`Terminated`, unless somebody else has taken it."""
    free = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not free:
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def stopped(error: KeyboardInterrupt, then: str = "") -> int:
    """Say on stderr what has ended the command, and ``then`` what to do; returns the exit code, as shells have them."""
    terminated = isinstance(error, Terminated)
    word = "terminated" if terminated else "interrupted"
    print(harmless.line(f"{word}; {then}" if then else word), file=sys.stderr)
    return 128 + (signal.SIGTERM if terminated else signal.SIGINT)
