"""What a run says of where it was made."""

from __future__ import annotations

import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import harness
from harness.results.provenance import NUMERICAL, packages, provenance

ROOT = Path(harness.__file__).resolve().parents[1]


def test_every_distribution_that_takes_part_is_listed() -> None:
    found = packages()
    assert list(found)[: len(NUMERICAL)] == list(NUMERICAL)
    assert {"accelerate", "datasets", "lm-eval", "numba", "rapidfuzz", "statsmodels"} <= set(found)
    assert not {"pytest", "ruff", "ray"} & set(found)  # of extras
    assert all(found[name] == version(name) for name in found)


def test_the_commit_is_that_of_the_checkout() -> None:
    found = provenance("harness eval", time.time(), "0")
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert (found.git.commit if found.git else "") == head
    assert (found.cuda is None) == (found.accelerator is None)
