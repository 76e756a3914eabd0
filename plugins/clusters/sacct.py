"""What SLURM says of jobs, where it says anything: accounting may be switched off, slow, or never answer.

submitit asks, too (:class:`submitit.slurm.slurm.SlurmInfoWatcher`), but waits for an answer as long as there is none,
holds what was said once for true ever after, and takes a job that is suspended for one that has ended.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

EVERY = 30.0
"""Seconds between two questions, each about all jobs of a command; fewer while a job is young."""

ANSWER = 60.0
"""Seconds after which no answer is waited for."""

VALID = 300.0
"""Seconds for which an answer holds when no other one comes."""

ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
)
"""States out of which a job that is not requeued does not come. Out of SUSPENDED it does."""


class Accounts:
    """The states of a command's jobs. Nobody waits for an answer."""

    def __init__(self) -> None:
        self._jobs: set[str] = set()
        self._said: dict[str, tuple[float, str]] = {}
        self._youngest = self._asked = float("-inf")
        self._asking: threading.Thread | None = None

    def state(self, job: str) -> str | None:
        """The state of a job as it was last said; None where nothing was said of it for a while."""
        now = time.monotonic()
        if job not in self._jobs:
            self._jobs.add(job)
            self._youngest = now
        due = now - self._asked >= min(EVERY, max(2.0, (now - self._youngest) / 2))
        if due and (self._asking is None or not self._asking.is_alive()):
            self._asking = threading.Thread(target=self._ask, args=(sorted(self._jobs),), daemon=True)
            self._asking.start()
        when, state = self._said.get(job, (0.0, ""))
        return state if state and now - when < VALID else None

    def forget(self, job: str) -> None:
        """Ask no more about a job."""
        self._jobs.discard(job)

    def _ask(self, jobs: Sequence[str]) -> None:
        found = states(_answer("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(jobs)))
        self._asked = time.monotonic()
        self._said |= {job: (self._asked, state) for job, state in found.items()}


def states(answer: str) -> Mapping[str, str]:
    """By number of job, of lines such as ``77|CANCELLED by 1000``: the first word."""
    rows = (line.split("|") for line in answer.splitlines())
    return {row[0]: row[1].split()[0].upper() for row in rows if len(row) > 1 and row[1].strip()}


def _answer(*command: str) -> str:
    """What a program says; nothing where it fails, or takes too long."""
    try:
        told = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=ANSWER, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.decode(errors="replace")
