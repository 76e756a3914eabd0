"""Contrastive neuron attribution: differences of mean activations between two classes of prompts."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from harness.plugin import Selection, SelectionContext

from .groups import TwoGroups

QUANTILE = 0.999
"""A neuron fires on a text where it is among the 0.1% with the largest absolute activations there."""


class ContrastiveDifference(TwoGroups):
    """Neurons whose mean activation differs most between two classes of texts.

    Contrastive neuron attribution (Herring, Naviasky & Malhotra 2026, arXiv:2605.12290): with the activations a at the
    last token of positive and of negative texts,

        delta(l, i) = mean over positive texts of a  -  mean over negative texts of a

    and the neurons with the largest |delta| are chosen (the paper: 0.1% of all). Those that fire whatever the text
    is, among the 0.1% with the largest |a| on more than 80% of all texts, are left out. No gradient is taken: what a
    neuron does to the answer has no say in the choice.
    """

    name = "contrastive_difference"
    everywhere: float = Field(
        0.8, gt=0, le=1, description="neurons that fire on more than this share of all texts are left out; 1: none"
    )

    def select(self, context: SelectionContext) -> Selection:
        values, positive, said = self.classes(context)
        delta = values[positive].mean(0, dtype=np.float64) - values[~positive].mean(0, dtype=np.float64)
        size = np.abs(values)
        fires = (size > np.quantile(size, QUANTILE, axis=1, keepdims=True)).mean(0)
        return self.chosen(
            context.model,
            [-np.abs(delta)],
            {"difference": delta, "share_firing": fires},
            f"the {self.top} with the largest absolute difference of mean activations at the last token, of {said}; "
            f"without those that fire on more than {self.everywhere:g} of all",
            {},
            {"texts": len(values), "positive": int(positive.sum())},
            among=fires <= self.everywhere,
        )
