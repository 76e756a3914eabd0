"""``harness new-plugin``: an installable package with one working component, for its author to change."""

from __future__ import annotations

import keyword
import re
import shlex
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Debug
from harness.errors import HarnessError, suggest
from harness.files.terminal import say
from harness.plugin.base import KINDS, Kind

if TYPE_CHECKING:
    from harness.plugin.catalogue import Catalogue

NAME = re.compile(r"[A-Za-z]([A-Za-z0-9._-]*[A-Za-z0-9])?")
"""Names of distributions (PyPA name specification) that begin with a letter, so that a module can be called so."""

EXAMPLES: dict[Kind, str] = {
    "model": "--model {} --task knowledge_conflict --selector entropy --intervention mean --limit 80",
    "corpus": "--task mediation:corpus={},sequences=8,length=64 --selector entropy --intervention mean",
    "selector": "--task knowledge_conflict --selector {} --intervention mean --limit 80",
    "intervention": "--task knowledge_conflict --selector entropy --intervention {} --limit 80",
    "task": "--task {} --selector entropy --intervention mean",
    "metric": "--task knowledge_conflict --selector entropy --intervention mean --metric {} --limit 80",
    "reporter": "--task knowledge_conflict --selector entropy --intervention mean --report {} --limit 80",
    "executor": "--task knowledge_conflict --selector entropy --intervention mean --limit 80 --executor {}",
}
"""Arguments of `harness eval` that use a component of each kind, on the bundled model."""


@dataclass(frozen=True)
class Names:
    """What things are called in a package; its fields are the placeholders of the templates.

    Attributes:
        distribution: what pip installs. module: what Python imports. component: what users type.
        class_: in the module.
        example: a command that uses the component.
    """

    kind: Kind
    distribution: str
    module: str
    component: str
    class_: str
    example: str


def names_of(name: str, kind: Kind) -> Names:
    """``harness-loudest`` holds the module ``harness_loudest`` with the component ``loudest``, class
    ``LoudestSelector``.

    Raises:
        HarnessError: no distribution, or no module, can be called so.
    """
    if not NAME.fullmatch(name):
        raise HarnessError(
            f'NAME: "{name}" is no name for a package: expected letters, digits, ".", "-" and "_", a letter first and '
            "a letter or digit last, for example harness-loudest."
        )
    module = re.sub(r"[-_.]+", "_", name).lower()
    component = module.removeprefix("harness_")
    reserved = keyword.iskeyword(module) or module in sys.stdlib_module_names
    if reserved or not component[0].isalpha():
        raise HarnessError(f'NAME: "{name}" would make a module that Python cannot have; choose for example my-{name}.')
    class_ = "".join(part.capitalize() for part in component.split("_"))
    if class_ == kind.capitalize() or not class_.endswith(kind.capitalize()):  # never that of the base class
        class_ += kind.capitalize()
    return Names(kind, name, module, component, class_, f"harness eval {EXAMPLES[kind].format(component)}")


def check_free(names: Names, catalogue: Catalogue) -> None:
    """Refuse names that are taken: of an installed distribution, of an importable module, of a component.

    Raises:
        HarnessError: says by whom.
    """
    installed = {re.sub(r"[-_.]+", "_", found.name).lower() for found in distributions() if found.name}
    if names.module in installed:
        raise HarnessError(f'NAME: a package "{names.distribution}" is installed already; choose another name.')
    if find_spec(names.module) is not None:
        raise HarnessError(f"NAME: there is a module {names.module} already; choose another name than it.")
    wanted = [(kind, names.component) for kind in KINDS]
    if names.kind == "task":  # it comes with a metric
        wanted.append(("metric", f"{names.component}_loss"))
    for kind, component in wanted:
        taken = catalogue.components[kind].get(component)
        if taken is not None:
            raise HarnessError(
                f'NAME: the {kind} "{component}" is already provided by {catalogue.origins[taken]}; choose another '
                f"name than {names.distribution}."
            )


def write_package(names: Names, folder: Path) -> None:
    """Write pyproject.toml, README.md, the module and its test to a new folder.

    Raises:
        HarnessError: the folder exists, or cannot be written.
    """
    from harness.files.store import writing

    if folder.exists():
        raise HarnessError(f"{folder} exists already; choose another NAME or --path, or remove it.")
    templates = files("harness") / "templates" / "new_plugin"
    wanted = {
        "pyproject.toml": "pyproject.toml.txt",
        "README.md": "README.md.txt",
        f"{names.module}.py": f"{names.kind}.py.txt",
        f"test_{names.module}.py": f"test_{names.kind}.py.txt",
    }
    texts = {file: (templates / source).read_text(encoding="utf-8") for file, source in wanted.items()}
    with writing(folder):
        folder.mkdir(parents=True)
        for file, text in texts.items():
            (folder / file).write_text(Template(text).substitute(vars(names)), encoding="utf-8", newline="\n")


def new_plugin(
    name: Annotated[str, typer.Argument(help="Name of the package, for example harness-loudest.")],
    kind: Annotated[str, typer.Option("--kind", "-k", help=f"Component: {', '.join(KINDS)}.")] = "selector",
    path: Annotated[Path, typer.Option("--path", help="Folder in which the package's folder is made.")] = Path(),
    debug: Debug = False,
) -> None:
    """Write an installable package with one working component and its test, to start from."""
    from harness.plugin.catalogue import catalogue

    chosen = next((known for known in KINDS if known == kind), None)
    if chosen is None:
        raise HarnessError(f'--kind: expected one of {", ".join(KINDS)}, got "{kind}".{suggest(kind, KINDS)}')
    names = names_of(name, chosen)
    check_free(names, catalogue())
    folder = path / name
    write_package(names, folder)
    say(f"wrote {folder}: a package with the {kind} {names.component}, in {names.module}.py. Next:\n")
    steps = [shlex.join(["cd", str(folder)]), 'pip install -e ".[test]"', f"harness list {names.component}"]
    for line in (*steps, names.example, "pytest"):
        say(f"  {line}")
