"""Finished runs as dataset repositories of the Hugging Face hub: ``harness push RUN --to user/dataset``.

``repository``: the files of one, with ``card``, its README. ``sending``: what is refused before anything is sent, and
the commit. ``command``, and ``reporter``: the same for the runs of ``harness eval``. Nothing is sent unless one of
these is asked for, and then to a private repository.
"""

from __future__ import annotations

from harness.plugin import Reporter, hookimpl

from .reporter import Hub


@hookimpl
def harness_reporters() -> list[type[Reporter]]:
    return [Hub]
