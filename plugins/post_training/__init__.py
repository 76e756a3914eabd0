"""How post-training reshapes a model (Du et al., COLM 2025): base and tuned model beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.plugin import Evidence, Intervention, Metric, Register, Selector, Task, hookimpl

from .brought_directions import Directions
from .interventions import AblateDirection, AddDirection
from .selectors import DifferenceOfMeans
from .task import LabelledResponse, LabelledResponseMetric


def read_comparison(data: Any) -> Evidence | None:
    """What a comparison of two models says of the paper's claims; None of anything else."""
    from .evidence import evidence  # claims alone ask for it

    return evidence(data)


@hookimpl
def harness_claims() -> list[Register]:
    return [Register(Path(__file__).with_name("claims.yaml"), reads=read_comparison)]


@hookimpl
def harness_selectors() -> list[type[Selector]]:
    return [DifferenceOfMeans, Directions]


@hookimpl
def harness_interventions() -> list[type[Intervention]]:
    return [AddDirection, AblateDirection]


@hookimpl
def harness_tasks() -> list[type[Task]]:
    return [LabelledResponse]


@hookimpl
def harness_metrics() -> list[type[Metric]]:
    return [LabelledResponseMetric]
