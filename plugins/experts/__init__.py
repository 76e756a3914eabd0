"""Mixtures of experts: neurons of experts and whole experts as units, and how an expert is taken away."""

from __future__ import annotations

from harness.plugin import Intervention, Unit, hookimpl

from .ablation import ExpertAblation
from .units import Expert, ExpertNeuron


@hookimpl
def harness_units() -> list[type[Unit]]:
    return [ExpertNeuron, Expert]


@hookimpl
def harness_interventions() -> list[type[Intervention]]:
    return [ExpertAblation]
