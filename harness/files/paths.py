"""Paths as users write them."""

from __future__ import annotations

import os.path
from pathlib import Path


def expand(path: str | Path) -> Path:
    """A path with ``~`` for a home; that of no user stays as it is, where ``Path.expanduser`` fails."""
    return Path(os.path.expanduser(path))
