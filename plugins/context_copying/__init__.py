"""Context copying modulation (Tighidet et al., EMNLP 2025): the knowledge-conflict task and its metrics."""

from __future__ import annotations

from harness import hookimpl
from harness.components import Metric, Task

from .metrics import ConversionRatios, EntropyChange, LogOdds, Transitions
from .task import KnowledgeConflict


@hookimpl
def harness_tasks() -> list[type[Task]]:
    return [KnowledgeConflict]


@hookimpl
def harness_metrics() -> list[type[Metric]]:
    return [Transitions, ConversionRatios, EntropyChange, LogOdds]
