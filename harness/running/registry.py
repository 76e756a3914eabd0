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
    suites:
      both: {description: a paper, runs: [copying, copying-values]}
    settings:                                 # parameters of components that a run of this model leaves open
      gpt2: {entropy: {null_dims: 12}}
    report: [wandb:project=neurons]           # whom runs of this file are told to, beside the usual reporters
    resources:                                # what the runs of this model take of a cluster's node
      gpt2: {cpus: 4, gpus: 1}                # a run may set resources of its own

A list at model, task, selector, intervention, controls, match or seed is an axis; the runs of a matrix are named
``copying-values.mean``, ``copying-values.median`` ... A component is written as everywhere
(:mod:`harness.plugin.notation`), or as a mapping with its name.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.errors import HarnessError, suggest
from harness.files.yaml import Document, load_yaml
from harness.plugin.specs import ComponentSpec, explain, parse_spec
from harness.running.changes import Change
from harness.running.spec import COMPONENT_FIELDS, RunSpec

RUN_KEYS = ("extends", *(key for key in RunSpec.model_fields if key != "name"))
AXES = (*COMPONENT_FIELDS, "controls", "match", "seed")
FILENAME = "registry.yaml"
KEYS = ("version", "models", "runs", "suites", "settings", "resources", "report")
VERSION = "1"
"""Of the format; absent means this one, too."""
MOST_RUNS = 1000
"""Runs that one matrix may make."""
MOST_IN_ALL = 10_000
LONGEST_CHAIN = 50
"""Runs that extend one another."""


@dataclass(frozen=True)
class Suite:
    """Runs that belong together: all figures of a paper."""

    description: str
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Registry:
    """Named models, named runs with the specs that their matrices expand to, and suites of runs."""

    document: Document
    models: Mapping[str, ComponentSpec]
    runs: Mapping[str, tuple[RunSpec, ...]]
    suites: Mapping[str, Suite]
    report: tuple[str, ...] = ()
    """Reporters of whoever makes its runs, as ``--report`` takes them."""

    @property
    def path(self) -> Path:
        return self.document.path

    @property
    def settings(self) -> Mapping[str, Mapping[str, Any]]:
        """Model -> component -> parameters."""
        return _section(self.document, "settings")

    def find(self, name: str, model: str | None = None, changes: Sequence[Change] = ()) -> tuple[RunSpec, ...]:
        """The runs called ``name``: a suite, a whole matrix, or one run of it (``copying-values.mean``).

        Args:
            model: run them on this model instead; the registry's settings for it are taken, if there are any.
            changes: of whole settings; a list is an axis of a matrix.

        Raises:
            HarnessError: no such run; suggests the nearest. A change is no value, or is of what tells one run of a
                matrix from the others.
        """
        if model is not None:
            changes = (Change("--model", ("model",), model), *changes)
        if name in self.suites:
            return tuple(spec for run in self.suites[name].runs for spec in self.find(run, None, changes))
        if name in self.runs:
            return _expand(self.document, name, changes) if changes else self.runs[name]
        owners = {spec.name: run for run, specs in self.runs.items() for spec in specs}
        if name in owners:
            _check_point(self.document, owners[name], name, changes)
            return tuple(spec for spec in self.find(owners[name], None, changes) if spec.name == name)
        names = [*self.suites, *self.runs]
        raise HarnessError(
            f'{self.path} has no run called "{name}".{suggest(name, [*names, *owners])} There are: '
            f"{', '.join(names) or 'none'}."
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
    document = _document(path)
    for model, components in _section(document, "settings").items():
        if not isinstance(components, dict) or not all(isinstance(x, dict) for x in components.values()):
            place = document.where("settings", model)
            raise HarnessError(
                f"{place}: expected parameters by component, for example {{entropy: {{null_dims: 12}}}}."
            )
    runs: dict[str, tuple[RunSpec, ...]] = {}
    for name in _section(document, "runs"):
        runs[name] = _expand(document, name)
        if sum(map(len, runs.values())) > MOST_IN_ALL:
            raise HarnessError(f"{document.where('runs', name)}: the file makes more than {MOST_IN_ALL} runs.")
    suites = {name: _suite(document, name, runs) for name in _section(document, "suites")}
    return Registry(document, _models(document), runs, suites, _reports(document))


def models_for(name: str, loaders: Collection[str], path: Path | None = None) -> Mapping[str, ComponentSpec]:
    """The registry's models, among which a user's ``name`` may be.

    The registry is not read for what can be none of them, a loader or a path, unless ``path`` names one.

    Raises:
        HarnessError: as :func:`load_registry`, but of models only.
    """
    if path is None and (name.partition(":")[0] in loaders or name.startswith(("/", ".", "~"))):
        return {}
    return _models(_document(path or default_path()))


def _document(path: Path) -> Document:
    """The file, if all its keys are known."""
    document = load_yaml(path)
    unknown = [key for key in document.data if key not in KEYS]
    if unknown:
        raise HarnessError(
            f'{document.where(unknown[0])}: unknown key "{unknown[0]}".{suggest(unknown[0], KEYS)} '
            f"Expected: {', '.join(KEYS)}."
        )
    version = document.data.get("version")
    if version not in (None, VERSION):
        raise HarnessError(
            f"{document.where('version')}: this harness reads registries of version {VERSION}, not {version}; upgrade "
            "the harness, or write the file for this one."
        )
    return document


def _models(document: Document) -> dict[str, ComponentSpec]:
    return {
        name: parse_spec(value, document.where("models", name)) for name, value in _section(document, "models").items()
    }


def _reports(document: Document) -> tuple[str, ...]:
    found = document.data.get("report") or []
    if not isinstance(found, list):
        raise HarnessError(f"{document.where('report')}: expected a list of reporters, for example [wandb].")
    return tuple(
        x if isinstance(x, str) else str(parse_spec(x, document.where("report", i))) for i, x in enumerate(found)
    )


def _suite(document: Document, name: str, runs: Mapping[str, Any]) -> Suite:
    entry, place = document.data["suites"][name], document.where("suites", name)
    if name in runs:
        raise HarnessError(f"{place}: there is a run of this name; choose another.")
    if not isinstance(entry, dict) or not isinstance(entry.get("runs"), list) or set(entry) - {"runs", "description"}:
        raise HarnessError(f"{place}: expected runs (a list of names) and a description.")
    for run in entry["runs"]:
        if not isinstance(run, str) or run not in runs:
            raise HarnessError(f'{place}: there is no run called "{run}".{suggest(str(run), runs)}')
    return Suite(str(entry.get("description", "")), tuple(entry["runs"]))


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
    for key in own:
        if key not in RUN_KEYS:
            raise HarnessError(
                f'{document.where("runs", name, key)}: a run has no parameter "{key}".{suggest(key, RUN_KEYS)} It has: '
                f"{', '.join(RUN_KEYS)}."
            )
    if parent is None:
        return own
    place = document.where("runs", name, "extends")
    if not isinstance(parent, str):
        raise HarnessError(f"{place}: expected the name of one run, got {parent!r}.")
    if len(chain) > LONGEST_CHAIN:
        raise HarnessError(f"{place}: more than {LONGEST_CHAIN} runs extend one another.")
    if parent == name or parent in chain:
        raise HarnessError(f"{place}: a cycle of extends: {' -> '.join([*chain, name, parent])}.")
    if parent not in entries:
        raise HarnessError(f'{place}: there is no run called "{parent}" to extend.{suggest(parent, entries)}')
    inherited = _inherit(document, entries, parent, (*chain, name))
    return {key: value for key, value in inherited.items() if key != "description"} | own


def _check_point(document: Document, run: str, point: str, changes: Sequence[Change]) -> None:
    """Refuse to change what tells the runs of a matrix apart in one of them."""
    entry = _inherit(document, _section(document, "runs"), run, ())
    for change in changes:
        key = change.key[0]
        if key in AXES and (isinstance(entry.get(key), list) or isinstance(change.value, list)):
            raise HarnessError(f"{change.place}: {point} is the run of {run} that has its own {key}; ask for {run}.")


def _expand(document: Document, name: str, changes: Sequence[Change] = ()) -> tuple[RunSpec, ...]:
    """The specs of a run, each point of its matrix one; ``changes`` take the place of what its entry says."""
    entry = _inherit(document, _section(document, "runs"), name, ()) | {x.key[0]: x.value for x in changes}
    axes = [key for key in AXES if isinstance(entry.get(key), list)]
    for key in axes:
        if not entry[key]:
            raise HarnessError(f"{document.where('runs', name, key)}: the list is empty; name at least one.")
    count = math.prod(len(entry[key]) for key in axes)
    if count > MOST_RUNS:
        sizes = " x ".join(f"{len(entry[key])} at {key}" for key in axes)
        raise HarnessError(
            f"{document.where('runs', name)}: the lists of run {name} make {count:,} runs ({sizes}); at most "
            f"{MOST_RUNS:,} can be made of one."
        )
    specs = []
    points = [[(value, f".{_label(value)}") for value in entry[key]] for key in axes]
    for chosen in itertools.product(*points):
        point = {key: value for key, (value, _) in zip(axes, chosen, strict=True)}
        suffix = "".join(label for _, label in chosen)
        specs.append(_spec(document, name, {**entry, **point, "name": name + suffix}, changes))
    return tuple(specs)


def _label(value: Any) -> str:
    """A component or number as a part of a file name."""
    text = str(parse_spec(value, "it")) if isinstance(value, dict) else str(value)
    return re.sub(r"[^A-Za-z0-9=._+-]+", "-", text).strip("-.")


def _spec(document: Document, name: str, values: Mapping[str, Any], changes: Sequence[Change]) -> RunSpec:
    said = {change.key[0]: change.place for change in changes}
    parsed = {
        key: parse_spec(values[key], said.get(key) or document.where("runs", name, key))
        for key in COMPONENT_FIELDS
        if values.get(key) is not None
    }
    settings = _section(document, "settings").get(str(parsed.get("model", "")), {})
    for key, spec in parsed.items():
        parsed[key] = ComponentSpec(spec.name, {**settings.get(spec.name, {}), **spec.params})
    needs = _section(document, "resources").get(str(parsed.get("model", "")), {})
    own = values.get("resources", {})
    both = {**needs, **own} if isinstance(needs, dict) and isinstance(own, dict) else own or needs
    try:
        return RunSpec(**{**values, **parsed, "resources": both})
    except ValidationError as error:
        first = error.errors()[0]["loc"]
        place = said.get(str(first[0])) if first else None
        raise HarnessError(
            f"{place or document.where('runs', name, *first)}: {explain(error, RunSpec, f'run {name}')}"
        ) from error
