"""The components that a command finds; what was left out is said on stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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


def _load(context: typer.Context, files: list[Path] | None) -> list[Path] | None:
    if context.resilient_parsing:  # a shell that completes a line runs nothing
        return files
    from harness.plugin.catalogue import catalogue
    from harness.plugin.plugin_files import add, read

    for file in files or ():
        add(read(file), catalogue())
    return files


PluginFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        callback=_load,
        help="Python file whose components this command knows; may be repeated. It is run: name what you trust.",
    ),
]
"""Of every command that looks for components: they are there when its own work begins."""
