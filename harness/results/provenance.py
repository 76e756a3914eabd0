"""What may differ between two runs of the same bytes."""

from __future__ import annotations

import platform
import re
import sys
import time
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import harness
from harness.results.on_disk import OnDisk, Real, Whole

DISTRIBUTION = "neuron-harness"

NUMERICAL = (DISTRIBUTION, "torch", "transformers", "tokenizers", "numpy", "scipy", "safetensors", "numba")
"""What the numbers of every run come from: the nodes of a cluster must agree on these."""


class Git(OnDisk):
    """The checkout that the harness ran from."""

    commit: str | None
    dirty: bool


class Provenance(OnDisk):
    """``provenance.json``.

    Attributes:
        batch_size: prompts in a pass, where a run took as many as fit: the fewest that were found.
    """

    run_id: str
    command: str
    started: str
    finished: str
    wall_seconds: Real
    peak_memory_mib: Whole
    python: str
    platform: str
    processor: str
    threads: Whole
    batch_size: Whole | None = None
    accelerator: str | None
    cuda: str | None = None
    packages: dict[str, str]
    git: Git | None

    @property
    def hardware(self) -> str:
        """What it was computed on."""
        return self.accelerator or self.processor


def provenance(command: str, started: float, run_id: str, batch_size: int | None = None) -> Provenance:
    """What may differ between two runs of the same bytes: when, where, how long, with which packages."""
    import resource

    import torch

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)  # in KiB
    cuda = torch.cuda.is_available()
    return Provenance(
        run_id=run_id,
        command=command,
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        wall_seconds=round(time.time() - started, 3),
        peak_memory_mib=peak // 1024,
        python=platform.python_version(),
        platform=platform.platform(),
        processor=platform.processor() or platform.machine(),
        threads=torch.get_num_threads(),
        **({} if batch_size is None else {"batch_size": batch_size}),
        accelerator=torch.cuda.get_device_name() if cuda else None,
        cuda=torch.version.cuda if cuda else None,
        packages=packages(),
        git=_git(),
    )


def packages() -> dict[str, str]:
    """Versions of the harness and of what it requires: first what the numbers come from, then the others by name."""
    required = (line for line in requires(DISTRIBUTION) or () if "extra ==" not in line)
    names = sorted({re.split(r"[^\w.-]", line)[0].lower() for line in required} - set(NUMERICAL))
    return {name: found for name in (*NUMERICAL, *names) if (found := _installed(name)) is not None}


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git() -> Git | None:
    """Commit of the harness's own checkout, if it runs from one."""
    import subprocess

    root = Path(harness.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None

    def ask(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True).stdout.strip()

    try:
        return Git(commit=ask("rev-parse", "HEAD") or None, dirty=bool(ask("status", "--porcelain")))
    except OSError:  # no git on this machine
        return None
