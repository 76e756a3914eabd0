"""Options: those that commands share, and those that the fields of a request make."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from harness.cli.completion import OF_FIELDS, components, settings
from harness.running.changes import changes_of
from harness.running.registry import Registry, default_path, load_registry
from harness.running.request import Request, Spelt

HINTS = get_type_hints(Request, include_extras=True)
"""Of every field of a request: its type, what it is, and how it is spelt."""


def spelt(name: str) -> Any:
    """How the command line spells a field of :class:`Request`, and what its help says."""
    about = get_args(HINTS[name])
    description = next(x.description for x in about if isinstance(x, FieldInfo))
    how = next((x for x in about if isinstance(x, Spelt)), Spelt())
    names = [how.each] if how.each else dict.fromkeys(f"--{x}" for x in (name, name.replace("_", "-")))
    return typer.Option(*names, *how.others, help=description, metavar=how.metavar, autocompletion=OF_FIELDS.get(name))


ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor",
        help="Where runs are made: local (in this process), ray:address=auto ...; see `harness list executors`.",
        autocompletion=components("executor"),
    ),
]
Output = Annotated[
    Path, typer.Option("--output_path", "--output-path", "-o", envvar="HARNESS_REPORTS_DIR", help="Folder for results.")
]
RegistryPath = Annotated[Path | None, spelt("registry")]
Device = Annotated[str | None, spelt("device")]
ModelArgs = Annotated[str, spelt("model_args")]
ModelArgument = Annotated[
    str,
    typer.Argument(
        help="Loader, model of the registry, hub id, folder or GGUF file; as --model.",
        autocompletion=OF_FIELDS["model"],
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget an earlier or interrupted run and start anew.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result record instead of the report.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Reports = Annotated[
    list[str] | None,
    typer.Option(
        "--report",
        help="Reporter to tell, beside the usual: wandb:project=neurons; may be repeated; no:page leaves one out.",
        metavar="NAME",
        autocompletion=components("reporter"),
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
DryRun = Annotated[bool, typer.Option("--dry_run", "--dry-run", help="Validate, print what would run, and stop.")]
CONFIG = "YAML file of settings: controls: 199, selector.top: 8, as --set takes them."
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help=CONFIG)]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        autocompletion=settings,
        help="Setting of runs, as controls=199 or selector.top=8; may be repeated.",
    ),
]
"""Both of what a run is made with; :func:`harness.running.changes.changes_of` reads them."""


def _typed(context: typer.Context, name: str) -> bool:
    """Whether a person has given an option, here or in the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def _in_file(context: typer.Context, config: Path | None) -> Path | None:
    """Options that must be given may be given in the file."""
    if config is not None and not context.resilient_parsing:
        told = {change.key[0] for change in changes_of((), config) if change.whole}
        context.default_map = {x.name: "" for x in context.command.params if x.required and x.name in told}
    return config


ConfigOfAll = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", is_eager=True, callback=_in_file, help=CONFIG)
]


def asks(left_out: Collection[str] = (), **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command that is written with the parameters ``request`` and ``changes`` takes an option for each field of
    :class:`Request`, and those for single settings and a file of them.

    Args:
        left_out: fields that stay as they are by default. defaults: of this command, in place of the fields' own.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        options = {
            x.name: option(x, defaults.get(x.name, x.default)) for x in fields(Request) if x.name not in left_out
        }
        own = list(inspect.signature(command, eval_str=True).parameters.values())

        @functools.wraps(command)
        def asked(context: typer.Context, config: Path | None, settings: list[str] | None, **given: Any) -> None:
            # A list that nobody has given is None; the request has a default of its own for it.
            words = {name: value for name in options if (value := given.pop(name)) is not None}
            typed = {name for name in words if _typed(context, name)}
            changes = changes_of(settings or (), config, typed)
            command(request=Request(**words), changes=changes, **given)

        parameters = [
            inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
            *options.values(),
            inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigOfAll),
            inspect.Parameter("settings", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Set),
            *(x.replace(kind=x.KEYWORD_ONLY) for x in own if x.name not in ("request", "changes")),
        ]
        asked.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads both
        asked.__annotations__ = {x.name: x.annotation for x in parameters}
        return asked

    return decorate


def option(of: Field[Any], default: Any) -> inspect.Parameter:
    """The option of a field of :class:`Request`, as a parameter of a command."""
    kind, *about = get_args(HINTS[of.name])
    several = any(isinstance(x, Spelt) and x.each for x in about)
    return inspect.Parameter(
        of.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else None if several else default,
        annotation=Annotated[list[str] | None if several else read_as(kind), spelt(of.name)],
    )


def read_as(kind: Any) -> Any:
    """What typer makes of a word: the first of a field's forms. A choice, and a number that may be something else, is
    text, so that what is none is refused in our words."""
    forms = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    several = int in forms and not {float, str}.isdisjoint(forms)
    first = str if several or get_origin(forms[0]) is Literal else forms[0]
    return first | None if NoneType in forms else first


def registry_at(path: Path | None) -> Registry:
    """The registry that ``--registry`` names, else the default one."""
    return load_registry(path or default_path())
