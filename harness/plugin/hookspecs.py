"""The hook points: what a plugin may add to the harness.

A plugin is any importable module that is named by an entry point of the group ``harness`` and that implements one or
more of these hooks. Each hook is called once, when the harness starts, without arguments, and returns a list of
component *classes* (see :mod:`harness.plugin.components`). A plugin of one file::

    from harness import hookimpl
    from harness.plugin.components import Selector

    class Loudest(Selector):
        '''The neurons with the largest output weights.'''
        name = "loudest"
        top: int = 6
        def select(self, context): ...

    @hookimpl
    def harness_selectors():
        return [Loudest]

with, in its ``pyproject.toml``::

    [project.entry-points.harness]
    loudest = "harness_loudest"

Commands of the command line are found by name alone, through entry points of their own group, so that ``harness
--help`` imports nobody's package; each names a function, or a ``typer.Typer`` of sub-commands::

    [project.entry-points."harness.commands"]
    loudest-norms = "harness_loudest:norms"
"""

from __future__ import annotations

import pluggy

from harness.conditions.units import Unit
from harness.plugin.components import Corpus, Intervention, Metric, ModelLoader, Selector, Task
from harness.plugin.executors import Executor
from harness.plugin.records import PublishedNeurons
from harness.plugin.registers import Register
from harness.plugin.reporters import Reporter

CONTRACT_VERSION = 2
"""Raised when a hook changes so that plugins must change; a plugin may state the one it was written for in
``HARNESS_CONTRACT`` and is refused by name when it asks for a newer one."""

RENAMED = {("Selection", "neurons"): "units"}
"""What an older contract called otherwise: class and name there -> its name now."""

hookspec = pluggy.HookspecMarker("harness")


@hookspec
def harness_model_loaders() -> list[type[ModelLoader]]:  # type: ignore[empty-body]
    """Return model loaders: ``load()`` gives a :class:`harness.model.model.Model`."""


@hookspec
def harness_corpora() -> list[type[Corpus]]:  # type: ignore[empty-body]
    """Return corpora: ``documents()`` gives texts."""


@hookspec
def harness_selectors() -> list[type[Selector]]:  # type: ignore[empty-body]
    """Return neuron selectors: ``select(context)`` gives a :class:`harness.conditions.conditions.Selection`."""


@hookspec
def harness_interventions() -> list[type[Intervention]]:  # type: ignore[empty-body]
    """Return interventions: ``edits(units, statistics)`` says how the units are changed."""


@hookspec
def harness_tasks() -> list[type[Task]]:  # type: ignore[empty-body]
    """Return tasks: ``prepare(engine)`` makes prompts, ``observe(engine, prompts, conditions)`` runs them."""


@hookspec
def harness_metrics() -> list[type[Metric]]:  # type: ignore[empty-body]
    """Return metrics: ``measure(outcomes)`` gives measures, tables and figures."""


@hookspec
def harness_reporters() -> list[type[Reporter]]:  # type: ignore[empty-body]
    """Return reporters: they are told when runs begin, what they do, and what they have found."""


@hookspec
def harness_executors() -> list[type[Executor]]:  # type: ignore[empty-body]
    """Return executors: ``execute(work)`` makes runs, here or elsewhere."""


@hookspec
def harness_units() -> list[type[Unit]]:  # type: ignore[empty-body]
    """Return kinds of units: how one is named, and the :class:`harness.conditions.units.Site` where it lives."""


@hookspec
def harness_published_neurons() -> list[PublishedNeurons]:  # type: ignore[empty-body]
    """Return lists of neurons that were published: the selector ``neurons`` knows them by their names."""


@hookspec
def harness_claims() -> list[Register]:  # type: ignore[empty-body]
    """Return registers of papers' claims: ``harness claims`` says which of them runs confirm."""


HOOKS: dict[str, str] = {
    "model": "harness_model_loaders",
    "corpus": "harness_corpora",
    "selector": "harness_selectors",
    "intervention": "harness_interventions",
    "task": "harness_tasks",
    "metric": "harness_metrics",
    "reporter": "harness_reporters",
    "executor": "harness_executors",
}
"""The hook that adds components of each kind."""
