"""What commands share: the installed components, and a model as a user writes it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError, suggest
from harness.files.paths import expand
from harness.files.terminal import Terminal, say
from harness.plugin.components import ComponentSpec, parse_spec
from harness.plugin.notation import parse_params

if TYPE_CHECKING:
    from harness.plugin.catalogue import Catalogue
    from harness.run.registry import Registry

WORD = re.compile(r"""\w+=[^\s,"']+""")
"""A parameter without commas, quotes or spaces."""


def installed() -> Catalogue:
    """The components of all plugins; says which of these were left out."""
    from harness.plugin.catalogue import catalogue

    found = catalogue()
    for broken in found.broken:
        Terminal(stderr=True).print(f"warning: left out {broken}", style="yellow")
        if "--debug" in sys.argv:
            say(broken.detail, err=True)
    return found


def model_spec(
    name: str, arguments: str, device: str | None, found: Catalogue, registry: Path | Registry | None = None
) -> ComponentSpec:
    """A model as the user wrote it: a loader, a model of the registry (that is read where it is needed), a hub id or a
    folder."""
    from harness.run.registry import Registry, models_for

    loaders = found.components["model"]
    models = registry.models if isinstance(registry, Registry) else models_for(name, loaders, registry)
    words = arguments.split()
    if len(words) > 1 and all(WORD.fullmatch(word) for word in words):  # lm-eval takes spaces for commas, too
        arguments = ",".join(words)
    given = parse_params(arguments, "--model_args")
    if device is not None:
        given["device"] = device
    head = name.partition(":")[0]
    if head in loaders:
        spec = parse_spec(name, "--model")
    elif name in models:
        spec = models[name]
    elif "/" in name or expand(name).exists():
        spec = ComponentSpec("hf", {"pretrained": name})
    else:
        known = [*loaders, *models]
        raise HarnessError(
            f'--model: "{name}" is no loader, no model of the registry and no folder.{suggest(name, known)} '
            f"There are: {', '.join(known)}. For a hub model without an owner write hf:pretrained={name}."
        )
    return ComponentSpec(spec.name, {**spec.params, **given})


def short_name(model: ComponentSpec) -> str:
    """A name for a model that can be part of a folder's name."""
    name = str(model.params.get("pretrained", model.name)).rstrip("/")
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name.rsplit("/", 1)[-1]).strip("._-")[:60] or model.name
