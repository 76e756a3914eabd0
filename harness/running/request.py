"""A run in the words of a person, on the command line or in Python, and the specification that they mean."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.controls.random import too_few
from harness.errors import HarnessError, suggest
from harness.files.paths import expand
from harness.plugin.catalogue import Catalogue
from harness.plugin.components import ComponentSpec, explain, parse_spec
from harness.plugin.notation import BARE, parse_params
from harness.running.registry import Registry, models_for
from harness.running.spec import RunSpec

Written = str | Mapping[str, Any] | ComponentSpec
"""A component: ``"entropy:top=6"``, ``{"name": "entropy", "top": 6}``, or what these are read as."""

WORD = re.compile(r"""\w+=[^\s,"']+""")
"""A parameter without commas, quotes or spaces."""


def reports_folder() -> Path:
    """Where runs are left when nobody says where: what HARNESS_REPORTS_DIR names, else ``reports``."""
    return Path(os.environ.get("HARNESS_REPORTS_DIR") or "reports")


def model_named(
    written: Written | Path,
    found: Catalogue,
    arguments: str = "",
    device: str | None = None,
    registry: Path | Registry | None = None,
) -> ComponentSpec:
    """The loader of a model: one with its parameters, a model of the registry, a hub id or a folder.

    Args:
        arguments: further parameters of the loader, ``pretrained=gpt2,dtype=float32``.
        registry: the registry or its file, which is read where the name may be in it; None: the default one.

    Raises:
        HarnessError: there is none of this name; suggests the nearest.
    """
    words = arguments.split()
    if len(words) > 1 and all(WORD.fullmatch(word) for word in words):  # lm-eval takes spaces for commas, too
        arguments = ",".join(words)
    given = parse_params(arguments, "--model_args")
    if device is not None:
        given["device"] = device
    name = str(written) if isinstance(written, str | Path) else None
    spec = parse_spec(written, "--model") if name is None else _loader(name, found, registry)
    return ComponentSpec(spec.name, {**spec.params, **given})


def _loader(name: str, found: Catalogue, registry: Path | Registry | None) -> ComponentSpec:
    loaders = found.components["model"]
    models = registry.models if isinstance(registry, Registry) else models_for(name, loaders, registry)
    if name.partition(":")[0] in loaders:
        return parse_spec(name, "--model")
    if name in models:
        return models[name]
    if "/" in name or expand(name).exists():
        return ComponentSpec("hf", {"pretrained": name})
    known = [*loaders, *models]
    raise HarnessError(
        f'--model: "{name}" is no loader, no model of the registry and no folder.{suggest(name, known)} '
        f"There are: {', '.join(known)}. For a hub model without an owner write hf:pretrained={name}."
    )


def specification(
    asker: str,
    *,
    model: ComponentSpec,
    task: Written,
    selector: Written,
    intervention: Written | None = None,
    metrics: Written | Sequence[Written] = (),
    name: str | None = None,
    **settings: Any,
) -> RunSpec:
    """The specification of one run.

    Args:
        asker: who asks, in errors: ``harness eval``.
        name: of the run; None: made of its components.
        settings: other fields of :class:`harness.running.spec.RunSpec`.

    Raises:
        HarnessError: a component cannot be read, or a setting is none, or out of bounds; names it.
    """
    asked, chosen = parse_spec(task, "--task"), parse_spec(selector, "--selector")
    change = None if intervention is None else parse_spec(intervention, "--intervention")
    several = [metrics] if isinstance(metrics, str | Mapping | ComponentSpec) else metrics
    try:
        return RunSpec(
            name=name or default_name(model, asked, chosen, change),
            model=model,
            task=asked,
            selector=chosen,
            intervention=change,
            metrics=tuple(parse_spec(item, "--metric") for item in several),
            **settings,
        )
    except ValidationError as error:
        raise HarnessError(explain(error, RunSpec, asker)) from error


def default_name(
    model: ComponentSpec, task: ComponentSpec, selector: ComponentSpec, intervention: ComponentSpec | None
) -> str:
    """What a run is called whose name nobody gives: its components; of lm-eval's tasks, these."""
    asked = _fit("_".join(task.params.get(BARE, ())).removesuffix(".yaml") or task.name, task.name)
    return "-".join([short_name(model), asked, selector.name, *([intervention.name] if intervention else [])])


def short_name(model: ComponentSpec) -> str:
    """A name for a model that can be part of a folder's name."""
    return _fit(str(model.params.get("pretrained", model.name)).rstrip("/").rsplit("/", 1)[-1], model.name)


def _fit(name: str, otherwise: str) -> str:
    """A name as it can be part of a folder's, if anything is left of it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:60] or otherwise


def named(
    names: Sequence[str],
    known: Registry,
    found: Catalogue,
    model: str | None = None,
    device: str | None = None,
    limit: int | None = None,
) -> list[RunSpec]:
    """The specifications of runs, matrices and suites of the registry, their models as loaders.

    Args:
        model: run them on this one instead, with the registry's settings for it. device, limit: override theirs.

    Raises:
        HarnessError: there is no such run, the registry has settings for what there is not, or a value is out of
            bounds.
    """
    _check_settings(known, found)
    specs = [spec for name in names for spec in known.find(name, model)]
    changes: dict[str, Any] = {}
    if limit is not None:
        if not 1 <= limit < 2**63:
            raise HarnessError(f"--limit: expected at least 1 and at most 64 bits, got {limit}.")
        changes["limit"] = limit
    return [
        spec.model_copy(update={"model": model_named(str(spec.model), found, "", device, known), **changes})
        for spec in specs
    ]


def _check_settings(known: Registry, found: Catalogue) -> None:
    """Refuse settings for components, and for models, that there are not: they would be passed over."""
    names = {name for components in found.components.values() for name in components}
    for model, components in known.settings.items():
        for name in components:
            if name not in names:
                place = known.document.where("settings", model, name)
                raise HarnessError(f'{place}: "{name}" is no component.{suggest(name, names)}')
    models = [*found.components["model"], *known.models]
    for section in ("settings", "resources"):
        for model in known.document.data.get(section) or ():
            if model not in models and not set("/:") & set(model):  # a hub id, a folder, a loader with parameters
                place = known.document.where(section, model)
                raise HarnessError(f'{place}: there is no model "{model}".{suggest(model, models)}')


def too_few_controls(specs: Sequence[RunSpec]) -> Iterator[str]:
    """What the numbers of controls that are asked for can never show, before any work is done."""
    short: dict[int, list[str]] = {}
    for spec in specs:
        if spec.controls and too_few(spec.controls):
            short.setdefault(spec.controls, []).append(spec.name)
    for number, names in short.items():
        which = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        yield f"{which}: {too_few(number)}"


def command_of(spec: RunSpec, output: Path) -> str:
    """The command that makes this run, in the folder that this one is made in.

    Settings that are as they would be by default are left out.
    """
    words = ["harness", "eval"]
    for option, written in (
        ("--model", spec.model), ("--task", spec.task), ("--selector", spec.selector),
        ("--intervention", spec.intervention), *(("--metric", metric) for metric in spec.metrics),
    ):  # fmt: skip
        words += [] if written is None else [option, str(written)]
    for field in ("controls", "match", "hold_out", "seed", "engine", "batch_size", "limit", "resamples"):
        value = getattr(spec, field)
        words += [] if value == RunSpec.model_fields[field].default else [f"--{field}", str(value)]
    for measure, margin in spec.margins.items():
        words += ["--margin", f"{measure}={margin}"]
    if spec.name != default_name(spec.model, spec.task, spec.selector, spec.intervention):
        words += ["--name", spec.name]
    return shlex.join([*words, *([] if output == reports_folder() else ["--output_path", str(output)])])
