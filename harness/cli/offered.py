"""Commands that installed packages add to ``harness``, through entry points of the group ``harness.commands``.

An entry point's name is the command's, its value says where the function, or ``typer.Typer`` of sub-commands, is. It is
imported when the command is used; until then the package is known by its name alone.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from importlib.metadata import EntryPoint
from typing import Any

import typer
from typer.core import TyperCommand

from harness.errors import HarnessError, PluginError
from harness.files import harmless
from harness.files.terminal import Terminal
from harness.plugin import border
from harness.plugin.entries import FIRST_PARTY, TYPED, commands, origin, strict

PANEL = "Commands of plugins"

MENDABLE = (HarnessError, OSError, EOFError, MemoryError, RecursionError, UnicodeError)
"""What is a sentence of its own, or becomes one (:func:`harness.errors.mendable`)."""


class OfferedCommand(TyperCommand):
    """A command that is imported when it is used.

    Raises:
        PluginError: it cannot be imported, is neither a function nor a ``typer.Typer``, or raises what is no sentence.
    """

    def __init__(self, entry: EntryPoint) -> None:
        of = origin(entry)
        self.first_party = of.distribution == FIRST_PARTY
        self.entry, self.owner = entry, f"command {entry.name} of {of.distribution} {of.version}"
        about = harmless.line(f"Of {of.distribution} {of.version}; see harness {entry.name} --help.")
        super().__init__(entry.name, help=about, rich_help_panel=PANEL)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        context = self.own.make_context(info_name, args, parent, **extra)
        context.command = self
        return context

    def invoke(self, ctx: Any) -> Any:
        ctx.command = self.own
        try:
            return self.own.invoke(ctx)
        except Exception as error:
            if isinstance(error, MENDABLE) or _typers(error):
                raise
            raise PluginError(f"{self.owner} raised {border.said(error)}.") from error

    @functools.cached_property
    def own(self) -> Any:
        """The command itself."""
        try:
            return _command(self.entry.name, self.entry.load())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a stranger's module may end the process
            said = str(error) if isinstance(error, HarnessError) else border.said(error)
            raise PluginError(f"{self.owner} cannot be loaded ({self.entry.value}): {said.rstrip('.')}.") from error


def _command(name: str, value: Any) -> Any:
    """A function, or an app with its commands, as a command."""
    if isinstance(value, typer.Typer):
        return typer.main.get_command(value)
    if not callable(value):
        raise HarnessError(f"expected a function or a typer.Typer, got {value!r}")
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(name)(value)
    return typer.main.get_command(app)


def _typers(error: Exception) -> bool:
    """Whether it is typer's own way to end or to refuse."""
    return isinstance(error, (typer.Exit, typer.Abort)) or hasattr(error, "format_message")


def offered(ours: Collection[str]) -> Mapping[str, OfferedCommand]:
    """Commands of installed packages by name; one that cannot be had is left out with a warning.

    Args:
        ours: names that are taken.

    Raises:
        HarnessError: HARNESS_STRICT_PLUGINS=1, and one cannot be had.
    """
    found: dict[str, OfferedCommand] = {}
    for entry in commands():
        if not TYPED.fullmatch(entry.name):
            why = "its name cannot be typed, expected letters, digits, _, - and ."
        elif entry.name in ours:
            why = "harness has a command of this name itself"
        elif entry.name in found:
            why = f"{found[entry.name].owner} has the name"
        else:
            found[entry.name] = OfferedCommand(entry)
            continue
        of = origin(entry)
        said = f"command {entry.name!r} of {of.distribution} {of.version}: {why}"
        if strict():
            raise HarnessError(f"HARNESS_STRICT_PLUGINS: {said}.")
        Terminal(stderr=True).print(f"warning: left out {said}", style="yellow")
    return found
