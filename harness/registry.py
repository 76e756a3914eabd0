"""registry.yaml: names for models, and named runs (or matrices of runs).

::

    models:
      gpt2: {name: hf, pretrained: gpt2}
    runs:
      copying:
        task: knowledge_conflict
        selector: entropy
        intervention: mean
      copying-values:
        extends: copying                      # takes every key that it does not set itself
        intervention: [mean, median, mode]    # a list is an axis of a matrix: three runs

A list at model, task, selector, intervention, controls or seed is an axis; the runs of a matrix are named
``copying-values.mean``, ``copying-values.median`` ...
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.components import ComponentSpec, explain, parse_spec
from harness.errors import HarnessError, suggest
from harness.spec import COMPONENT_FIELDS, RunSpec
from harness.yamlfile import Document, load_yaml

AXES = (*COMPONENT_FIELDS, "controls", "seed")
FILENAME = "registry.yaml"


@dataclass(frozen=True)
class Registry:
    """Named models, and named runs, each with the specs that its matrix expands to."""

    path: Path
    models: Mapping[str, ComponentSpec]
    runs: Mapping[str, tuple[RunSpec, ...]]

    def find(self, name: str) -> tuple[RunSpec, ...]:
        """The runs called ``name``: a whole matrix, or one run of it (``copying-values.mean``).

        Raises:
            HarnessError: no such run; suggests the nearest.
        """
        if name in self.runs:
            return self.runs[name]
        single = {spec.name: spec for specs in self.runs.values() for spec in specs}
        if name in single:
            return (single[name],)
        known = ", ".join(self.runs) or "none"
        raise HarnessError(
            f'{self.path} has no run called "{name}".{suggest(name, [*self.runs, *single])} There are: {known}.'
        )


def default_path() -> Path:
    """``registry.yaml`` of the current folder if there is one, else the one that ships with the harness."""
    here = Path(FILENAME)
    return here if here.is_file() else Path(str(files("harness") / FILENAME))


def load_registry(path: Path) -> Registry:
    """Read and validate a registry; components' own parameters are validated when a run is resolved.

    Raises:
        HarnessError: names file, line and place of the first mistake.
    """
    document = load_yaml(path)
    unknown = [key for key in document.data if key not in ("version", "models", "runs")]
    if unknown:
        raise HarnessError(
            f'{document.where(unknown[0])}: unknown key "{unknown[0]}".{suggest(unknown[0], ["models", "runs"])} '
            "Expected: version, models, runs."
        )
    models = {
        name: parse_spec(value, document.where("models", name)) for name, value in _section(document, "models").items()
    }
    entries = _section(document, "runs")
    runs = {name: _expand(document, name, _inherit(document, entries, name, ())) for name in entries}
    return Registry(path, models, runs)


def _section(document: Document, key: str) -> dict[str, Any]:
    section = document.data.get(key) or {}
    if not isinstance(section, dict):
        raise HarnessError(f"{document.where(key)}: expected a mapping of names.")
    return section


def _inherit(document: Document, entries: Mapping[str, Any], name: str, chain: tuple[str, ...]) -> dict[str, Any]:
    """The entry of a run with everything that it extends."""
    entry = entries[name]
    place = document.where("runs", name)
    if not isinstance(entry, dict):
        raise HarnessError(f"{place}: expected a mapping with task, selector, intervention ...")
    parent = entry.get("extends")
    own = {key: value for key, value in entry.items() if key != "extends"}
    if parent is None:
        return own
    place = document.where("runs", name, "extends")
    if parent == name or parent in chain:
        raise HarnessError(f"{place}: a cycle of extends: {' -> '.join([*chain, name, parent])}.")
    if parent not in entries:
        raise HarnessError(f'{place}: there is no run called "{parent}" to extend.{suggest(str(parent), entries)}')
    inherited = _inherit(document, entries, parent, (*chain, name))
    return {key: value for key, value in inherited.items() if key != "description"} | own


def _expand(document: Document, name: str, entry: Mapping[str, Any]) -> tuple[RunSpec, ...]:
    axes = [key for key in AXES if isinstance(entry.get(key), list)]
    for key in axes:
        if not entry[key]:
            raise HarnessError(f"{document.where('runs', name, key)}: the list is empty; name at least one.")
    specs = []
    for values in itertools.product(*(entry[key] for key in axes)):
        point = dict(zip(axes, values, strict=True))
        suffix = "".join(f".{_label(value)}" for value in values)
        specs.append(_spec(document, name, {**entry, **point, "name": name + suffix}))
    return tuple(specs)


def _label(value: Any) -> str:
    """A component or number as a part of a file name."""
    text = str(parse_spec(value, "it")) if isinstance(value, dict) else str(value)
    return re.sub(r"[^A-Za-z0-9=._+-]+", "-", text).strip("-.")


def _spec(document: Document, name: str, values: Mapping[str, Any]) -> RunSpec:
    for key in COMPONENT_FIELDS:
        if key in values:
            parse_spec(values[key], document.where("runs", name, key))
    try:
        return RunSpec(**values)
    except ValidationError as error:
        first = error.errors()[0]["loc"]
        raise HarnessError(
            f"{document.where('runs', name, *first)}: {explain(error, RunSpec, f'run {name}')}"
        ) from error
