"""Prompts that are kept for the next run on the same model and data: what a model says of its facts is asked once.

They lie in the folder ``prompts`` of the harness's cache, one JSON file each, named by everything that they depend on.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
from pathlib import Path
from typing import Any

import harness
from harness.errors import HarnessError
from harness.files.cache_folders import kept_in
from harness.files.digests import files_digest
from harness.files.store import digest, read_json, write_json
from harness.model.model import Model
from harness.plugin import border
from harness.plugin.components import Task
from harness.plugin.records import Prepared
from harness.results.prepared import from_json, to_json
from harness.running.plan import Plan

FORMAT = 1
"""Of the files; raised when another version of the harness could not read them."""

MOST = 100
"""Files that are kept; the ones that were not used for longest go first."""

_OURS = re.compile(r"[0-9a-f]{64}\.json")


def path_of(plan: Plan, model: Model) -> Path | None:
    """Where the prompts of a plan are kept, whether or not they are there; None: its task makes them without asking.

    The file's name is the digest of the model's provenance, the task with its parameters, its code and its data, and
    what a run says of them: seed, limit, batch size, engine.
    """
    spec, task = plan.spec, plan.task
    if not task.keeps_prompts:
        return None
    depends = {
        "format": FORMAT,
        "harness_version": harness.__version__,
        "model": model.provenance(),
        "task": plan.components()["task"],
        "code_sha256": _code(task),
        "data_sha256": border.data_digest(task),
        "inputs_sha256": border.inputs(task),
        "seed": spec.seed,
        "limit": spec.limit,
        "batch_size": spec.batch_size,
        "engine": spec.engine,
    }
    return kept_in("prompts") / f"{digest(depends)}.json"


def load(path: Path) -> Prepared | None:
    """The prompts that were kept there; None where there are none, or the file is damaged."""
    if not path.is_file():
        return None
    with contextlib.suppress(HarnessError, OSError, KeyError, TypeError):
        kept = read_json(path)
        if kept["sha256"] == digest(kept["prepared"]):
            prepared = from_json(kept["prepared"], str(path))
            os.utime(path)
            return prepared
    return None


def save(path: Path, prepared: Prepared) -> None:
    """Keep prompts, if there is where to write, and let go of the oldest where there are more than :data:`MOST`."""
    written: dict[str, Any] = to_json(prepared)
    with contextlib.suppress(HarnessError):
        write_json(path, {"sha256": digest(written), "prepared": written}, indent=None)
    with contextlib.suppress(OSError):
        ours = [x for x in path.parent.iterdir() if _OURS.fullmatch(x.name)]
        for old in sorted(ours, key=lambda x: x.stat().st_mtime_ns)[:-MOST]:
            old.unlink(missing_ok=True)


def _code(task: Task) -> str:
    """Digest of the modules beside the task's own: one that is being written changes without its version."""
    try:
        module = Path(inspect.getfile(type(task)))
        return files_digest(sorted(module.parent.glob("*.py")))
    except (TypeError, OSError):  # made in a session, of which no file tells
        return ""
