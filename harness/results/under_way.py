"""How far a run is, in a small file of its unfinished part, so that others can watch: it is no part of the run, is
removed with what else only a run under way needs, and nothing is computed from it."""

from __future__ import annotations

from pathlib import Path

from harness.files.owned import within
from harness.files.store import read_json, write_json
from harness.results.folder import UNFINISHED
from harness.results.on_disk import OnDisk, Real, Whole

FILE = "progress.json"


class Step(OnDisk):
    """Something that takes a while, since when, and how much of it is done; ``total`` where that is known."""

    title: str
    total: Whole | None
    done: Whole
    since: Real


class UnderWay(OnDisk):
    """What a process is doing.

    Attributes:
        runs: folders of the runs that it works at, on the same prompts; the file is in the first one's.
        waiting: folders of runs that have begun and that it comes back to.
        steps: what it does, each within the one before.
        began, told: when it began, and when it said so, in seconds since 1970, as a step's ``since``.
        ended: why it has ended, if it has.
        host, process: where it runs, and as which process.
    """

    runs: list[str]
    waiting: list[str]
    command: str
    steps: list[Step]
    began: Real
    told: Real
    ended: str | None = None
    host: str
    process: Whole

    def write(self, run: Path) -> None:
        """Write it to a run's folder, if that has an unfinished part.

        Raises:
            HarnessError: it cannot be written.
        """
        if (run / UNFINISHED).is_dir():
            write_json(run / UNFINISHED / FILE, self.to_dict(), indent=None)


def read(reports: Path, run: str) -> UnderWay | None:
    """What is said in the folder ``run`` of a folder of results; None where nothing is, or behind a link.

    Raises:
        HarnessError: it is damaged.
    """
    path = reports / run / UNFINISHED / FILE
    if not within(reports, f"{run}/{UNFINISHED}/{FILE}") or not path.is_file():
        return None
    return UnderWay.read(read_json(path), str(path))
