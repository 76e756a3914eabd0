"""How post-training reshapes a model (Du et al., COLM 2025): base and tuned model beside each other."""

from __future__ import annotations

from harness.plugin import Intervention, Metric, Selector, Task, hookimpl

from .interventions import AblateDirection, AddDirection
from .selectors import DifferenceOfMeans
from .task import LabelledResponse, LabelledResponseMetric


@hookimpl
def harness_selectors() -> list[type[Selector]]:
    return [DifferenceOfMeans]


@hookimpl
def harness_interventions() -> list[type[Intervention]]:
    return [AddDirection, AblateDirection]


@hookimpl
def harness_tasks() -> list[type[Task]]:
    return [LabelledResponse]


@hookimpl
def harness_metrics() -> list[type[Metric]]:
    return [LabelledResponseMetric]
