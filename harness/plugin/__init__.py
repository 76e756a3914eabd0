"""The contract with plugins.

``hookspecs``: the hooks that a package implements. ``components``: what it offers (model loaders, corpora, selectors,
interventions, tasks, metrics); each is of ``base``, a pydantic model whose fields are its parameters, and
``parameters`` has types for these. ``specs``: how a user writes a component down, in the ``notation`` of parameters.
``reporters``: whom runs are told to, and what they are told. ``records``: what flows between components
(prompts, outcomes, measurements), ``joining`` parts of these. ``catalogue`` finds and builds components, by the
``entries`` of installed packages; ``sources`` and ``plugin_files`` identify those that no distribution carries.
``places``: layers and positions as parameters. ``executors``: where runs are made, and how.
Every call of a component goes through ``border``, which names whoever breaks a promise; what is handed over is looked
at in ``handed``, ``handed_selections``, ``handed_edits`` and ``handed_outcomes``.
``standing``: where selected units stand among the others; ``unit_kinds``: kinds of units that plugins bring.
``registers``: what a plugin hands over of its paper's claims; ``claims``: what these are.

An author needs one import: ``from harness.plugin import Selector, Selection, Neuron, hookimpl``. The names below are
all that there are; they come from where they are defined when they are first asked for, so that listing components
loads no torch. Measures' statistics are in :mod:`harness.statistics`, facts and corpora in :mod:`harness.data`, shapes
of figures in :mod:`harness.plotting`, checks for tests in :mod:`harness.testing`.
"""

from importlib import import_module
from typing import Any

_DEFINED = {
    "harness": "hookimpl",
    "harness.errors": "HarnessError PluginError suggest",
    "harness.plugin.base": "Component InputFile",
    "harness.plugin.components": "Corpus Intervention Metric ModelLoader SelectionContext Selector Task",
    "harness.plugin.executors": "Executor RunGroups",
    "harness.plugin.parameters": (
        "AnyCorpus AnyIntervention AnyModel AnySelector CountsPath ModelCorpus Source Template"
    ),
    "harness.plugin.places": "AnyLayers layers_in",
    "harness.plugin.unit_kinds": "mlp_site",
    "harness.plugin.records": (
        "Alone Figure Frame Matrix Measurement Outcomes Prepared Prompt PublishedNeurons Rows Series Step Table "
        "per_prompt"
    ),
    "harness.plugin.registers": "Evidence Register Value",
    "harness.plugin.reporters": "Asked AskedRun BegunRun FinishedRun Reporter Work",
    "harness.conditions.conditions": "BASELINE Condition Edit End Frozen Selection SetNeurons",
    "harness.conditions.head_edits": "AttendFirst SetHeads",
    "harness.conditions.positions": "Positions",
    "harness.conditions.residual_edits": "AddVector ProjectOut",
    "harness.conditions.units": "DIRECTIONS HEADS NEURONS Direction Head Neuron Site Unit by_layer",
    "harness.engine.engine": "Engine Progress",
    "harness.engine.scores": "Scores",
    "harness.engine.activation_summaries": "ActivationStatistics HeadStatistics",
    "harness.model.model": "Batch Model",
    "harness.files.wording": "agree counted plural the",
    "harness.statistics": "Aggregated AnyMeasure Each Functional Measure",
}
"""Public names by the module that defines them; ``__init__.pyi`` says the same to type checkers."""

_WHERE = {name: module for module, names in _DEFINED.items() for name in names.split()}

__all__ = sorted(_WHERE)  # the stub spells them out


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_WHERE[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
