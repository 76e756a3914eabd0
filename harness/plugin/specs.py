"""How a component is written down, ``entropy:top=6,null_dims=12``, and what it is built from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import HarnessError, suggest
from harness.plugin.base import Component
from harness.plugin.notation import BARE, not_key_value, parse_params, write_params


@dataclass(frozen=True)
class ComponentSpec:
    """A component as written by a user, before its plugin is known: a name and raw parameters."""

    name: str
    params: Mapping[str, Any]

    def __str__(self) -> str:
        if not self.params:
            return self.name
        return f"{self.name}:{write_params(self.params)}"


def parse_spec(value: Any, field: str) -> ComponentSpec:
    """Read ``"entropy"``, ``"entropy:top=6"`` or ``{"name": "entropy", "top": 6}``.

    Raises:
        HarnessError: names ``field`` (``--selector``, or a place in a registry).
    """
    if isinstance(value, ComponentSpec):
        return value
    if isinstance(value, str) and value.strip():
        name, _, rest = value.strip().partition(":")
        return ComponentSpec(name, parse_params(rest, field, bare=True))
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return ComponentSpec(value["name"], {key: item for key, item in value.items() if key != "name"})
    raise HarnessError(f"{field}: expected a component such as entropy:top=6 or {{name: entropy, top: 6}}.")


ComponentT = TypeVar("ComponentT", bound=Component)


def build(cls: type[ComponentT], spec: ComponentSpec, field: str, corpus: str | None = None) -> ComponentT:
    """Validate the parameters of ``spec`` and construct the component.

    ``corpus``: what is read where a component needs texts and none are named (:data:`ModelCorpus`).

    Raises:
        HarnessError: one sentence for the first wrong parameter, with the nearest valid name.
    """
    params = dict(spec.params)
    if bare := params.pop(BARE, None):
        if cls.positional is None:
            raise not_key_value(bare[0], field)
        if cls.positional in params:
            raise HarnessError(f'{field}: parameter "{cls.positional}" is given twice.')
        params[cls.positional] = bare[0] if len(bare) == 1 else bare
    try:
        return cls.model_validate(params, context={"corpus": corpus})
    except ValidationError as error:
        raise HarnessError(f"{field}: {explain(error, cls, spec.name)}") from error


def explain(error: ValidationError, cls: type[BaseModel], owner: str) -> str:
    """One sentence for the first error of a validation, in the words of a person."""
    errors = error.errors()  # what is missing may be there, misspelt
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    path = ".".join(str(part) for part in first["loc"])
    fields = {info.alias or name for name, info in cls.model_fields.items()}
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(fields)) or "none"
        return f'{owner} has no parameter "{path}".{suggest(path, fields)} It has: {known}.'
    if first["type"] == "missing":
        return f'{owner} needs the parameter "{path}".'
    message = re.sub(r"^(Value error|Assertion failed), ", "", first["msg"])
    given = repr(first["input"])
    got = "" if first["type"] == "value_error" else f", got {given if len(given) <= 80 else given[:80] + '...'}"
    choices = re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected", "")))
    near = suggest(str(first["input"]), choices) if first["type"] == "literal_error" else ""
    whose = f'parameter "{path}" of {owner}' if path else owner
    end = "" if message.endswith("?") else "."
    return f"{whose}: {message[:1].lower()}{message[1:].rstrip('.')}{got}{end}{near}"
