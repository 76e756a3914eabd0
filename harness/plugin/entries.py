"""Which entry points count: those of plugins, and of commands that packages add to the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

GROUP = "harness"
COMMANDS = "harness.commands"
"""The group of commands: an entry point has the command's name and says where its function, or ``typer.Typer``, is. So
``harness --help`` names commands without importing anything of whoever offers them."""
FIRST_PARTY = "neuron-harness"

TYPED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""Names of components and commands: what can be typed before a colon."""


@dataclass(frozen=True)
class Origin:
    """Where a component comes from."""

    plugin: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} (plugin {self.plugin})"


def origin(entry: EntryPoint) -> Origin:
    """Whose entry point it is."""
    of = entry.dist
    return Origin(entry.name, of.name if of else "?", of.version if of else "?")


def wanted(entries: Iterable[EntryPoint]) -> tuple[list[EntryPoint], list[Origin]]:
    """Entry points to use, our own first, then by distribution and name; and those that HARNESS_LOAD_PLUGINS leaves
    out of the others."""
    only = os.environ.get("HARNESS_LOAD_PLUGINS")
    names = None if only is None else {name.strip() for name in only.split(",") if name.strip()}
    origins = {entry: origin(entry) for entry in entries}
    kept = [
        entry
        for entry, of in origins.items()
        if names is None or of.distribution == FIRST_PARTY or names & {of.plugin, of.distribution}
    ]
    return sorted(kept, key=_place), [of for entry, of in origins.items() if entry not in kept]


def _place(entry: EntryPoint) -> tuple[bool, str, str]:
    of = origin(entry).distribution
    return of != FIRST_PARTY, of, entry.name


def commands() -> list[EntryPoint]:
    """Entry points of commands, in that order: of distributions of which HARNESS_LOAD_PLUGINS leaves something in."""
    found = list(entry_points(group=COMMANDS))
    used = {origin(entry).distribution for entry in wanted([*entry_points(group=GROUP), *found])[0]}
    return sorted((entry for entry in found if origin(entry).distribution in used), key=_place)


def strict() -> bool:
    """Whether a broken plugin is an error (HARNESS_STRICT_PLUGINS=1), rather than left out."""
    return os.environ.get("HARNESS_STRICT_PLUGINS") == "1"
