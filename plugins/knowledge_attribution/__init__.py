"""Knowledge attribution (Yu & Ananiadou, EMNLP 2024): value neurons and heads, query neurons, what ablation costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader

from harness.plugin import Metric, Register, Selector, Task, hookimpl

from .selectors.query import QueryNeurons
from .selectors.value import ValueHeads, ValueNeurons
from .task import TargetProbability, TargetProbabilityMetric

if TYPE_CHECKING:
    from .sentence.attribution import Attribution as Attribution
    from .sentence.attribution import attribute as attribute

# With pandas and PyTorch, when they are used: `harness list` is instant.
__getattr__, _, _ = lazy_loader.attach(__name__, submod_attrs={"sentence.attribution": ["Attribution", "attribute"]})


@hookimpl
def harness_claims() -> list[Register]:
    return [Register(Path(__file__).with_name("claims.yaml"))]


@hookimpl
def harness_selectors() -> list[type[Selector]]:
    return [ValueNeurons, ValueHeads, QueryNeurons]


@hookimpl
def harness_tasks() -> list[type[Task]]:
    return [TargetProbability]


@hookimpl
def harness_metrics() -> list[type[Metric]]:
    return [TargetProbabilityMetric]
