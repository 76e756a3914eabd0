"""Context copying modulation (Tighidet et al., EMNLP 2025): the knowledge-conflict task and its metrics."""

from __future__ import annotations

from pathlib import Path

from harness.plugin import Metric, PublishedNeurons, Register, Task, hookimpl

from .metrics.answer_matching import Matching
from .metrics.first_token import EntropyChange, LogOdds
from .metrics.relation_groups import RelationGroups
from .metrics.selected_neurons import SelectedNeurons
from .metrics.transitions import ConversionRatios, Transitions
from .published import published_neurons
from .task.knowledge_conflict import KnowledgeConflict


@hookimpl
def harness_claims() -> list[Register]:
    return [Register(Path(__file__).with_name("claims.yaml"))]


@hookimpl
def harness_published_neurons() -> list[PublishedNeurons]:
    return published_neurons()


@hookimpl
def harness_tasks() -> list[type[Task]]:
    return [KnowledgeConflict]


@hookimpl
def harness_metrics() -> list[type[Metric]]:
    return [Transitions, ConversionRatios, EntropyChange, LogOdds, RelationGroups, Matching, SelectedNeurons]
