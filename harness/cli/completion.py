"""What a shell offers where a name is typed (``harness --install-completion``): components, their parameters, models
and runs of the registry, settings.

A shell asks at every Tab: nothing heavy is imported, and what goes wrong offers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

Offer = tuple[str, str]
"""A word and what it stands for."""
Offered = Callable[[typer.Context, str], list[Offer]]


def _quiet(found: Callable[[typer.Context, str], Iterable[Offer]]) -> Offered:
    """The words that begin like the one that is typed; none where a file or a plugin is broken."""

    def offered(ctx: typer.Context, incomplete: str) -> list[Offer]:
        try:
            return [(word, about) for word, about in found(ctx, incomplete) if word.startswith(incomplete)]
        except Exception:  # nobody can read an error in the midst of a line
            return []

    return offered


def components(kind: str) -> Offered:
    """Names of components of a kind, and parameters behind a name's colon; of models those of the registry, too.

    Commas separate what is named, as ``harness arena --selectors`` has it: the last one is completed.
    """

    def found(ctx: typer.Context, incomplete: str) -> Iterable[Offer]:
        from harness.plugin.catalogue import catalogue

        there = catalogue().components[kind]  # type: ignore[index]  # one of KINDS
        name, colon, rest = incomplete.partition(":")
        if colon and name in there:
            before = incomplete[: len(incomplete) - len(rest.rpartition(",")[2])]
            return [(f"{before}{key}=", x.description or "") for key, x in there[name].model_fields.items()]
        before = incomplete[: len(incomplete) - len(incomplete.rpartition(",")[2])]
        words = {key: cls.summary().replace("``", "") for key, cls in there.items()}
        if kind == "model":
            words |= dict.fromkeys(_registry(ctx).models, "a model of the registry")
        return [(before + word, about) for word, about in sorted(words.items())]

    return _quiet(found)


def named(kind: str, *names: str, help: str) -> Any:
    """An option whose value names components of a kind."""
    return typer.Option(*names, autocompletion=components(kind), help=help)


def _registry(ctx: typer.Context):  # type: ignore[no-untyped-def]  # imported when it is asked for
    from harness.cli.options import registry_at

    given = ctx.params.get("registry")
    return registry_at(None if given is None else Path(given))


@_quiet
def runs(ctx: typer.Context, incomplete: str) -> Iterable[Offer]:
    """Runs and suites of the registry; the runs of a matrix once its name and a point are typed."""
    known = _registry(ctx)
    yield from ((name, suite.description) for name, suite in known.suites.items())
    for name, specs in known.runs.items():
        yield name, specs[0].description
        if incomplete.startswith(f"{name}."):
            yield from ((spec.name, spec.description) for spec in specs)


@_quiet
def listed(ctx: typer.Context, incomplete: str) -> Iterable[Offer]:
    """What ``harness list`` can show."""
    from harness.plugin.base import PLURALS
    from harness.plugin.catalogue import catalogue

    yield from ((word, f"all {word}") for word in (*PLURALS.values(), "units", "runs", "plugins"))
    for of_kind in catalogue().components.values():
        yield from ((name, cls.summary().replace("``", "")) for name, cls in of_kind.items())


@_quiet
def settings(ctx: typer.Context, incomplete: str) -> Iterable[Offer]:
    """Settings of runs, for ``--set``."""
    from harness.running.changes import SETTINGS
    from harness.running.spec import RunSpec

    return [(f"{name}=", RunSpec.model_fields[name].description or "") for name in SETTINGS]


OF_FIELDS = {
    "model": components("model"),
    "task": components("task"),
    "selector": components("selector"),
    "intervention": components("intervention"),
    "metrics": components("metric"),
}
"""Of the fields of a request."""
