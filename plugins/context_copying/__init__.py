"""Context copying modulation (Tighidet et al., EMNLP 2025): the knowledge-conflict task and its metrics."""

from __future__ import annotations

from harness.plugin import Metric, PublishedNeurons, Task, hookimpl

from .groups import RelationGroups
from .looser import Matching
from .metrics import ConversionRatios, EntropyChange, LogOdds, Transitions
from .published import published_neurons
from .selected import SelectedNeurons
from .task import KnowledgeConflict


@hookimpl
def harness_published_neurons() -> list[PublishedNeurons]:
    return published_neurons()


@hookimpl
def harness_tasks() -> list[type[Task]]:
    return [KnowledgeConflict]


@hookimpl
def harness_metrics() -> list[type[Metric]]:
    return [Transitions, ConversionRatios, EntropyChange, LogOdds, RelationGroups, Matching, SelectedNeurons]
