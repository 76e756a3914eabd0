"""harness: find neurons in language models, intervene on them, and measure what changes."""

from __future__ import annotations

import pluggy

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("harness")
"""Marks a plugin's functions that implement the hooks of :mod:`harness.plugin.hookspecs`."""
