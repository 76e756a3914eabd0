"""Runs that are not finished, as the list shows them: what is done, how long it takes, and what became of the rest."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.report.progress import duration
from harness.results.under_way import Step, UnderWay, read

QUIET = 90.0
"""Seconds without a word after which it is said since when."""


def listed(folder: Path, unfinished: Sequence[str]) -> list[dict[str, Any]]:
    """What is under way, then what was interrupted: ``names`` of folders, ``step``, ``done`` and ``total`` where they
    are known, ``said`` in a sentence, and whether it is ``still``."""
    found: dict[str, UnderWay] = {}
    for name in unfinished:
        try:
            one = read(folder, name)
        except HarnessError:  # of another version, or being removed
            one = None
        if one is not None:
            found[name] = one
    told = {x for one in found.values() if one.ended is None for x in (*one.runs, *one.waiting)}
    shown = [_shown(one) for one in found.values()]
    alone = [name for name in unfinished if name not in told and name not in found]
    if alone:
        said = "not finished; the command that began one continues it"
        shown.append({"names": alone, "step": "", "done": None, "total": None, "said": said, "still": True})
    return sorted(shown, key=lambda one: one["still"])


def _shown(one: UnderWay) -> dict[str, Any]:
    now = time.time()
    step = next((x for x in one.steps if x.total), one.steps[-1] if one.steps else None)
    why = one.ended or ("its process has ended; the same command continues it" if _gone(one) else "")
    parts = [" / ".join(x.title for x in one.steps)] if one.steps else []
    if why:
        parts = [f"{why.rstrip('.')}: {one.command}"]
    else:
        parts += _times(one, step, now)
        if one.waiting:
            parts.append(f"then {len(one.waiting)} more")
    return {
        "names": one.runs,
        "step": step.title if step else "",
        "done": step.done if step else None,
        "total": step.total if step else None,
        "said": "; ".join(parts),
        "still": bool(why),
    }


def _times(one: UnderWay, step: Step | None, now: float) -> list[str]:
    """Since when it works, how long the step still takes at its pace, and when it was last heard of."""
    told = [f"{_long(now - one.began)} so far"]
    if step is not None and step.total and step.done and one.told > step.since:
        left = (one.told - step.since) / step.done * (step.total - step.done) - (now - one.told)
        told.append(f"about {_long(left)} left of this step")
    if now - one.told > QUIET:
        told.append(f"last heard of {_long(now - one.told)} ago")
    return told


def _long(seconds: float) -> str:
    return f"{max(round(seconds), 0)} s" if seconds < 90 else duration(seconds)


def _gone(one: UnderWay) -> bool:
    """Whether the process was on this machine and is no more, or is one that nobody asks how it ended: in a container
    process 1 often does not."""
    if one.host != socket.gethostname() or os.name != "posix":
        return False
    try:
        os.kill(one.process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        return False
    try:
        about = Path(f"/proc/{one.process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system, or it has just ended
        return False
    return about.rpartition(")")[2].split()[:1] in (["Z"], ["X"])  # behind its name, which may hold anything
