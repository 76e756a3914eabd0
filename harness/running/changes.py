"""Settings that a person changes in runs: ``--set selector.top=8``, and files of them (``--config``).

A key is a setting of runs (``controls``, ``selector``), or a parameter of a component, measure or resource within one
(``selector.top``, ``margins.CKCR``, ``resources.cpus``). A changed run is the run whose entry in the registry says so:
of the same identity.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from harness.errors import HarnessError, suggest
from harness.files.yaml import load_yaml
from harness.plugin.base import Component
from harness.plugin.components import Intervention, ModelLoader, Selector, Task
from harness.plugin.notation import BARE, parse_value
from harness.plugin.specs import ComponentSpec, explain, parse_spec
from harness.running.spec import COMPONENT_FIELDS, RunSpec

if TYPE_CHECKING:
    from harness.plugin.catalogue import Catalogue

SETTINGS = tuple(name for name in RunSpec.model_fields if name != "name")
MAPPINGS = ("margins", "resources")
BASES: Mapping[str, type[Component]] = {
    "model": ModelLoader,
    "task": Task,
    "selector": Selector,
    "intervention": Intervention,
}


@dataclass(frozen=True)
class Change:
    """A setting and its new value, as a registry would hold it.

    Attributes:
        place: where it was said, for errors: ``--set selector.top``, or a file and a line.
    """

    place: str
    key: tuple[str, ...]
    value: Any

    @property
    def whole(self) -> bool:
        """Whether it is of a setting, not of a part of one."""
        return len(self.key) == 1


def changes_of(
    words: Sequence[str] = (), config: Path | None = None, given: Collection[str] = ()
) -> tuple[Change, ...]:
    """What ``--set KEY=VALUE`` and ``--config FILE`` ask for; a word takes the place of what the file says of it.

    Args:
        given: settings for which an option was given: of these the file says nothing, either.

    Raises:
        HarnessError: a setting that there is not, one that is given twice, or what cannot be read; names it, and the
            nearest.
    """
    said: dict[tuple[str, ...], Change] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise HarnessError(f'--set: expected KEY=VALUE, for example controls=199 or selector.top=8, got "{word}".')
        change = _change(f"--set {key.strip()}", key.strip(), _read(key.strip(), value))
        if change.key in said:
            raise HarnessError(f"{change.place}: it is given twice.")
        said[change.key] = change
    told = [] if config is None else _of_file(config)
    words_for = [*((name,) for name in given), *said]
    return (*(x for x in told if not any(x.key[: len(key)] == key for key in words_for)), *said.values())


def _read(key: str, written: str) -> Any:
    """A value; ``none`` is a word where a setting is text (``match``), and elsewhere no value."""
    value = parse_value(written, f"--set {key}")
    if key not in SETTINGS or not isinstance(RunSpec.model_fields[key].default, str):
        return value
    words = ["none" if x is None else x for x in (value if isinstance(value, list) else [value])]
    return words if isinstance(value, list) else words[0]


def changes_in(given: Mapping[str, Any]) -> tuple[Change, ...]:
    """Those that Python names: ``{"controls": 199, "selector.top": 8}``."""
    return tuple(_change(f"changes: {key}", key, value) for key, value in given.items())


def _of_file(path: Path) -> list[Change]:
    """What a file says: keys as ``--set`` has them, or a mapping of parameters under a component."""
    document, found = load_yaml(path), []
    for name, value in document.data.items():
        place = document.where(name)
        if name in COMPONENT_FIELDS and isinstance(value, dict) and "name" not in value:
            found += [_change(document.where(name, key), f"{name}.{key}", item) for key, item in value.items()]
        else:
            found.append(_change(place, name, value))
    return found


def _change(place: str, key: str, value: Any) -> Change:
    first, *rest = key.split(".")
    if first not in SETTINGS:
        raise HarnessError(
            f'{place}: a run has no setting "{first}".{suggest(first, SETTINGS)} It has: {", ".join(SETTINGS)}.'
        )
    if rest and (first not in (*COMPONENT_FIELDS, *MAPPINGS) or not all(rest)):
        raise HarnessError(f'{place}: "{first}" has no parts; write {first}=VALUE.')
    if rest and first in MAPPINGS:
        rest = [".".join(rest)]  # measures have names with points
    return Change(place, (first, *rest), value)


def changed(spec: RunSpec, changes: Sequence[Change], found: Catalogue) -> RunSpec:
    """A run with other values of some of its settings.

    Raises:
        HarnessError: a component has no such parameter, or a value is none; names what was said.
    """
    values: dict[str, Any] = dict(spec)
    for change in changes:
        field, *path = change.key
        if field in COMPONENT_FIELDS and path:
            values[field] = _with(values[field], path, change, f"run {spec.name} has no {field}", BASES[field], found)
        elif path:
            values[field] = {**dict(values[field]), path[0]: change.value}
        else:
            values[field] = change.value
    try:
        return RunSpec(**values)
    except ValidationError as error:
        first = str(error.errors()[0]["loc"][0])
        place = next((x.place for x in changes if x.key[0] == first), "--set")
        raise HarnessError(f"{place}: {explain(error, RunSpec, f'run {spec.name}')}") from error


def _with(
    written: Any, path: Sequence[str], change: Change, missing: str, base: type[Component], found: Catalogue
) -> ComponentSpec:
    """A component with another value of a parameter, or of one of a component that is its parameter."""
    if written is None:
        raise HarnessError(f"{change.place}: {missing}.")
    spec, key = parse_spec(written, change.place), path[0]
    params = dict(spec.params)
    if base is not Component:  # of what lies deeper, the component itself knows what it is
        cls = found.get(base, spec.name, change.place)
        if key not in cls.model_fields:
            known = sorted(cls.model_fields)
            raise HarnessError(
                f'{change.place}: {spec.name} has no parameter "{key}".{suggest(key, known)} It has: '
                f"{', '.join(known) or 'none'}."
            )
        if key == cls.positional:
            params.pop(BARE, None)
    if len(path) == 1:
        return ComponentSpec(spec.name, {**params, key: change.value})
    inner = _with(params.get(key), path[1:], change, f"{spec.name} is given no {key}", Component, found)
    return ComponentSpec(spec.name, {**params, key: {"name": inner.name, **inner.params}})
