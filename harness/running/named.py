"""Runs of the registry that a person names, and what is said of them before any work is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.controls.random import too_few
from harness.errors import HarnessError, suggest
from harness.plugin.catalogue import Catalogue
from harness.running.changes import Change, changed
from harness.running.registry import Registry
from harness.running.request import model_named
from harness.running.spec import RunSpec


def named(
    names: Sequence[str],
    known: Registry,
    found: Catalogue,
    model: str | None = None,
    device: str | None = None,
    limit: int | float | str | None = None,
    changes: Sequence[Change] = (),
) -> list[RunSpec]:
    """The specifications of runs, matrices and suites of the registry, their models as loaders.

    Args:
        model: run them on this one instead, with the registry's settings for it. device, limit: override theirs.
        changes: of their settings, and of their components' parameters.

    Raises:
        HarnessError: there is no such run, the registry has settings for what there is not, or a value is out of
            bounds.
    """
    _check_settings(known, found)
    whole = [*([] if limit is None else [Change("--limit", ("limit",), limit)]), *(x for x in changes if x.whole)]
    specs = [spec for name in names for spec in known.find(name, model, whole)]
    loaders = [model_named(str(spec.model), found, "", device, known) for spec in specs]
    parts = [change for change in changes if not change.whole]
    return [
        changed(spec.model_copy(update={"model": loader}), parts, found)
        for spec, loader in zip(specs, loaders, strict=True)
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
