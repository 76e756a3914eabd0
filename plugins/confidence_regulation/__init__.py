"""Confidence regulation neurons (Stolfo et al., NeurIPS 2024): the entropy selector and ablation interventions."""

from __future__ import annotations

from harness.plugin import Intervention, Metric, Selector, Task, hookimpl

from .dfa import Attributions, DirectFeatureAttribution
from .frequency import TokenFrequency
from .head_interventions import BosAttention, MeanAttentionOutput
from .head_response import HeadNeuronInteraction, HeadResponse
from .induction import Induction, InductionNatural, InductionSynthetic
from .induction_heads import InductionHeads
from .interventions import ClipMean
from .matched import ActivationMatchedRandom, NormMatchedRandom
from .mediation import Mediation, UnigramEntropy
from .metrics import ByPosition, Calibration, Effects, UnigramCorrelation
from .selectors import Entropy
from .shift import ActivationShift


@hookimpl
def harness_selectors() -> list[type[Selector]]:
    return [
        Entropy,
        TokenFrequency,
        ActivationShift,
        InductionHeads,
        NormMatchedRandom,
        ActivationMatchedRandom,
    ]


@hookimpl
def harness_interventions() -> list[type[Intervention]]:
    return [ClipMean, BosAttention, MeanAttentionOutput]


@hookimpl
def harness_tasks() -> list[type[Task]]:
    return [
        Mediation,
        UnigramEntropy,
        InductionSynthetic,
        InductionNatural,
        HeadNeuronInteraction,
        DirectFeatureAttribution,
    ]


@hookimpl
def harness_metrics() -> list[type[Metric]]:
    return [Effects, Calibration, ByPosition, UnigramCorrelation, Induction, HeadResponse, Attributions]
