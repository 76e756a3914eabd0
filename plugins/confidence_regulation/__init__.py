"""Confidence regulation neurons (Stolfo et al., NeurIPS 2024): the entropy selector and ablation interventions."""

from __future__ import annotations

from harness import hookimpl
from harness.components import Intervention, Selector

from .interventions import Mean, MeanMinusSigma, MeanPlusSigma, Median, Mode, Zero
from .selectors import Entropy


@hookimpl
def harness_selectors() -> list[type[Selector]]:
    return [Entropy]


@hookimpl
def harness_interventions() -> list[type[Intervention]]:
    return [Mean, Median, Mode, MeanMinusSigma, MeanPlusSigma, Zero]
