"""``harness list``: what is installed, and what one component takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from harness.cli.completion import listed
from harness.cli.options import Debug, RegistryPath, registry_at
from harness.cli.plugins import PluginFiles, installed
from harness.errors import HarnessError, suggest
from harness.files.terminal import Terminal
from harness.plugin.base import KINDS, PLURALS, Component
from harness.plugin.components import Intervention
from harness.plugin.entries import FIRST_PARTY, commands, origin

if TYPE_CHECKING:
    from harness.plugin.catalogue import Catalogue
    from harness.running.registry import Registry


def list_components(
    what: Annotated[
        str | None,
        typer.Argument(
            help="A kind (selectors), a component (entropy), units, runs or plugins.", autocompletion=listed
        ),
    ] = None,
    registry: RegistryPath = None,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """List components, or show one with its parameters.

    A component is written name:key=value,key=value. Lists: key=\\[a,b]. Mappings: key={a: b}. A value that holds a
    comma goes in quotes, within the shell's: 'labelled_response:data=a.jsonl,template="Q, {text}"'. A component within
    another goes in quotes, too: 'mediation:corpus="text:path=a.jsonl,column=body"'.
    """
    found = installed()
    show(Terminal(), found, what, lambda: registry_at(registry))


def show(console: Terminal, found: Catalogue, what: str | None, registry: Callable[[], Registry]) -> None:
    """Print everything, one kind, one component, the registry's runs, or the plugins.

    Raises:
        HarnessError: ``what`` is none of these; suggests the nearest.
    """
    kinds = {word: kind for kind in KINDS for word in (kind, PLURALS[kind])}
    if what is None:
        for kind in KINDS:
            console.print(_kind(found, kind, PLURALS[kind]))
        console.print(
            "harness list NAME shows a component's parameters; harness list runs, the registry's runs; harness list "
            "units, what can be edited. Parameters are written name:key=value,key=[a,b]; values with commas in quotes "
            "(harness list --help).",
            style="dim",
            markup=False,
        )
    elif what in kinds:
        console.print(_kind(found, kinds[what], PLURALS[kinds[what]]))
    elif what in ("units", "unit"):
        console.print(_units(found))
    elif what in ("runs", "run"):
        found_runs = registry()
        console.print(_runs(found_runs))
        if found_runs.suites:
            console.print(_suites(found_runs))
    elif what in ("plugins", "plugin"):
        console.print(_plugins(found))
    else:
        matches = [cls for kind in KINDS for name, cls in found.components[kind].items() if name == what]
        if not matches:
            names = sorted({name for kind in KINDS for name in found.components[kind]})
            raise HarnessError(
                f'"{what}" is no component.{suggest(what, [*names, *kinds, "units", "runs", "plugins"])} '
                f"There are: {', '.join(names)}; or {', '.join(PLURALS.values())}, units, runs, plugins."
            )
        for cls in matches:
            _component(console, found, cls)


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), show_edge=False
    )
    for column in columns:
        table.add_column(
            column, no_wrap=column == "name", style="cyan" if column == "name" else None, header_style="dim"
        )
    return table


def _kind(found: Catalogue, kind: Any, title: str) -> Table:
    table = _table(title, "name", "what it is", "from")
    for name, cls in sorted(found.components[kind].items()):
        table.add_row(name, cls.summary().replace("``", ""), found.origins[cls].distribution)
    return table


def _units(found: Catalogue) -> Table:
    table = _table("units", "name", "at the site", "what it is", "matched in", "from")
    for word, kind in found.units.items():
        example = kind.form.rpartition(" ")[2]
        of = found.units_by[word].distribution if word in found.units_by else FIRST_PARTY
        about = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("``", "").replace("\n", " ")
        table.add_row(f"{word} {example}", kind.site, about, ", ".join(kind.variables), of)
    return table


def _runs(registry: Registry) -> Table:
    table = _table(f"runs of {registry.path}", "name", "runs", "what it asks")
    for name, specs in registry.runs.items():
        table.add_row(name, str(len(specs)), specs[0].description)
    return table


def _suites(registry: Registry) -> Table:
    table = _table("suites of runs", "name", "what it is", "runs")
    for name, suite in registry.suites.items():
        table.add_row(name, suite.description, ", ".join(suite.runs))
    return table


def _plugins(found: Catalogue) -> Table:
    table = _table("plugins", "name", "distribution", "offers")
    for plugin in found.plugins:
        offers = [f"{cls.kind} {cls.name}" for cls, of in found.origins.items() if of == plugin]
        offers += [f"unit {word}" for word, of in found.units_by.items() if of == plugin]
        offers += [f"neurons {name}" for name, of in found.published_by.items() if of == plugin]
        table.add_row(plugin.plugin, f"{plugin.distribution} {plugin.version}", ", ".join(offers))
    for entry in commands():
        of = origin(entry)
        table.add_row(entry.name, f"{of.distribution} {of.version}", f"command harness {entry.name}")
    for broken in found.broken:
        table.add_row(broken.origin.plugin, str(broken.origin.distribution), f"left out: {broken.reason}")
    return table


def _component(console: Terminal, found: Catalogue, cls: type[Component]) -> None:
    about = f" ({cls.kind}, version {cls.version}, {found.origins[cls]})"
    console.print(Text.assemble((cls.name, "bold cyan"), (about, "dim")))
    for paragraph in inspect.cleandoc(cls.__doc__ or "").split("\n\n"):
        console.print(" ".join(paragraph.replace("``", "").split()))
    rows = parameters(cls)
    if not rows:
        console.print("It takes no parameters.\n")
        return
    table = _table("\nparameters", "name", "type", "default", "what it is")
    for name, *words in rows:
        table.add_row(name, *words)
    console.print(table)
    written = [name for name, _, default, _ in rows if default == "required"] or [rows[0][0]]
    console.print(f"\nWritten as {cls.name}:{','.join(f'{name}=...' for name in written)}\n", style="dim")


def parameters(cls: type[Component]) -> list[tuple[str, str, str, str]]:
    """Name, type, default and description of each parameter, in words; the default is empty where there is none."""
    rows = []
    for name, field in cls.model_json_schema()["properties"].items():
        info = cls.model_fields[name]
        value = None if info.is_required() else info.get_default(call_default_factory=True)
        default = "required" if info.is_required() else "" if value in (None, {}) else str(value)
        rows.append((name, _type(field), default, field.get("description", "")))
    shared = Intervention.model_fields if issubclass(cls, Intervention) else {}
    return sorted(rows, key=lambda row: row[0] in shared)  # what all have comes last


def _type(field: dict[str, Any]) -> str:
    """A JSON-schema type in words: ``integer >= 1``; that a parameter may be left out is not said."""
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"] if option != {"type": "null"})
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    words = str(field.get("type", "any"))
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return " ".join([words, *(f"{sign} {field[key]}" for key, sign in bounds.items() if key in field)])
