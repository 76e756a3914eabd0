"""Selectors that other papers have proposed, each by its paper's definition, to be compared in ``harness arena``.

``integrated_gradients``: knowledge neurons (Dai et al. 2022); ``gradient_activation``: first-order attribution;
``contrastive``: differences of means (Herring et al. 2026); ``sparse_probe``: H-neurons (Gao et al. 2025); ``lape``:
language-specific neurons (Tang et al. 2024); ``universal``: neurons that two models share (Gurnee et al. 2024).
``base`` and ``groups`` are what they share, ``gradients`` the derivatives.
"""

from __future__ import annotations

from harness.plugin import Selector, hookimpl

from .contrastive import ContrastiveDifference
from .gradient_activation import GradientActivation
from .integrated_gradients import IntegratedGradients
from .lape import Lape
from .sparse_probe import SparseProbe
from .universal import UniversalNeurons


@hookimpl
def harness_selectors() -> list[type[Selector]]:
    return [IntegratedGradients, GradientActivation, ContrastiveDifference, SparseProbe, Lape, UniversalNeurons]
