"""The command line in tests: a small run of the main job, and the files that it leaves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

Harness = Callable[..., tuple[int, str, str]]
"""What the fixture `harness` gives: of arguments, the exit code, standard output and standard error."""

VOLATILE = ("provenance.json", "report.html")
"""What may differ between two runs of the same command: when and where, and the page, which says so."""


def arguments(facts: Path, output: Path, *more: object, **changes: str) -> list[object]:
    """A small run of the main job."""
    given = {
        "task": f"knowledge_conflict:data={facts}",
        "selector": "entropy:rule=tighidet2025",
        "intervention": "mean",
        "controls": "19",
        "output_path": str(output),
        **changes,
    }
    flags = [part for key, value in given.items() for part in (f"--{key}", value)]
    return ["eval", *flags, "--quiet", *more]


def after(program: str, given: Iterable[object]) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own, in which a program has changed something before."""
    begin = "\nimport sys\nsys.argv = ['harness', *sys.argv[1:]]\nfrom harness.cli.app import main\nmain()\n"
    return subprocess.run([sys.executable, "-c", program + begin, *map(str, given)], capture_output=True)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def only(folder: Path) -> Path:
    [run] = [path for path in folder.iterdir() if path.is_dir()]
    return run
