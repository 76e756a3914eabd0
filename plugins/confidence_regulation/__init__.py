"""Confidence regulation neurons (Stolfo et al., NeurIPS 2024): the entropy selector and ablation interventions."""

from __future__ import annotations

from pathlib import Path

from harness.plugin import Corpus, Intervention, Metric, Register, Selector, Task, hookimpl

from .interventions.clip_mean import ClipMean
from .interventions.heads import BosAttention, MeanAttentionOutput
from .metrics import ByPosition, Effects, UnigramCorrelation
from .selectors.activation_shift import ActivationShift
from .selectors.entropy import Entropy
from .selectors.induction_heads import InductionHeads
from .selectors.matched_random import ActivationMatchedRandom, NormMatchedRandom
from .selectors.token_frequency import TokenFrequency
from .tasks.direct_feature_attribution import Attributions, DirectFeatureAttribution
from .tasks.head_response import HeadNeuronInteraction, HeadResponse
from .tasks.induction import InductionSynthetic
from .tasks.induction_metric import Induction
from .tasks.mediation import Mediation
from .tasks.natural_induction import InductionNatural
from .tasks.unigram_entropy import UnigramEntropy
from .texts import Prose


@hookimpl
def harness_claims() -> list[Register]:
    return [Register(Path(__file__).with_name("claims.yaml"))]


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
    return [Effects, ByPosition, UnigramCorrelation, Induction, HeadResponse, Attributions]


@hookimpl
def harness_corpora() -> list[type[Corpus]]:
    return [Prose]
