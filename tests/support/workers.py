"""Workers that are threads of this process: jobs are made as elsewhere, messages go there and back as bytes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager

from harness.running import Job, Lost, Message, from_bytes, to_bytes, work


class Threads:
    """Jobs in threads.

    Attributes:
        fate: is asked of every message of a job before it is sent; where it says so, the worker is lost.
        at_once: how many.
        jobs: those that were given, in their order.
    """

    def __init__(self, fate: Callable[[Job, Message], bool] = lambda job, message: False, at_once: int = 1) -> None:
        self.fate = fate
        self.jobs: list[Job] = []
        self._turn = asyncio.Semaphore(at_once)

    async def run(self, job: Job) -> AsyncGenerator[Message, None]:
        async with self._turn:
            self.jobs.append(job)
            kept = {run: {name: path.read_bytes for name, path in files.items()} for run, files in job.kept.items()}
            messages = work(job.order, kept, "a thread")
            while (message := await asyncio.to_thread(next, messages, None)) is not None:
                if self.fate(job, message):
                    raise Lost("a test")
                yield from_bytes(to_bytes(message))


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Within the block, Ctrl-C is heard, which a test in the background is not told of; gives what presses it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield lambda: os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
