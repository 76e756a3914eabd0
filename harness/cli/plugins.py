"""The components that a command finds; what was left out is said on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from harness.files.terminal import Terminal, say

if TYPE_CHECKING:
    from harness.plugin.catalogue import Catalogue


def installed() -> Catalogue:
    """All installed components. A plugin that is left out is named, with ``--debug`` why in full."""
    from harness.plugin.catalogue import catalogue

    found = catalogue()
    for broken in found.broken:
        Terminal(stderr=True).print(f"warning: left out {broken}", style="yellow")
        if "--debug" in sys.argv:
            say(broken.detail, err=True)
    return found
