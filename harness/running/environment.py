"""What libraries read of the process's environment, once, when they are first imported."""

from __future__ import annotations

import os
import warnings

from harness.files import cache_folders


def prepare() -> None:
    """Have libraries give the same numbers every time, and find caches that they can write.

    To be called before torch is imported; afterwards it changes nothing of what has been read already.
    """
    # MKL otherwise rounds by where an array happens to lie in memory.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    cache_folders.provide()
    # tqdm's, of a notebook without ipywidgets: whatever imports it would show no bar of its own in a run.
    warnings.filterwarnings("ignore", "IProgress not found")
