"""Knowledge neurons by integrated gradients (Dai et al. 2022)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.plugin import Selection, SelectionContext

from .base import FieldSelector, drawn

THRESHOLD = 0.2
"""t of the paper: a neuron counts on a prompt from this share of the prompt's largest attribution on."""


class IntegratedGradients(FieldSelector):
    """Knowledge neurons: those along which the integrated gradient of the answer's probability is largest.

    Dai, Dong, Hao, Sui, Chang & Wei 2022 (ACL), eq. 3 to 5: with P(w) = p(y | x, a = w) and the activation w0 that the
    neuron has at the position that predicts,

        Attr(l, i) = w0 . integral over alpha from 0 to 1 of dP(alpha w0) / dw
                  ~= w0 / m . sum over k = 1 ... m of dP(k / m . w0) / dw          m = 20

    y is the token that the model predicts (of facts that it knows, the answer); the baseline is 0. The formula scales
    one neuron; the authors' code scales all neurons of a layer together, and so does this, which makes the sum over a
    layer what p(y) loses without its MLP's neurons (completeness). The paper's refinement keeps neurons whose
    attribution exceeds 0.2 times the prompt's largest on a share of the prompts: that share is the score
    ``share``, and rank=share sorts by it.
    """

    name = "integrated_gradients"
    prompts: int = Field(32, ge=1, description="prompts it is measured on, drawn by the seed if there are more")
    steps: int = Field(20, ge=1, le=1000, description="m, steps of the integral")
    rank: Literal["mean", "share"] = Field(
        "mean", description="by the mean attribution, or by the share of prompts on which it is 0.2 of the largest"
    )

    def select(self, context: SelectionContext) -> Selection:
        from .gradients import integrated_gradients

        model, layers = context.model, self.layers(context.model)
        prompts, where = drawn(context, self.prompts, self.name)
        with context.stage("integrated gradients", len(prompts) * len(layers)) as advance:
            found = integrated_gradients(model, prompts, layers, self.steps, advance).reshape(len(prompts), -1)
        mean, share = found.mean(0), (found > THRESHOLD * found.max(1, keepdims=True)).mean(0)
        by = {"mean": "mean attribution", "share": f"share of prompts with {THRESHOLD} of the largest attribution"}
        return self.chosen(
            model,
            [-mean] if self.rank == "mean" else [-share, -mean],
            {"attribution": mean, "share": share},
            f"the {self.top} with the largest {by[self.rank]}: integrated gradients of p of the predicted token "
            f"({self.steps} steps from 0), at the end of {where}",
            {"attribution": "high"},
            {"prompts": len(prompts), "steps": self.steps, "threshold": THRESHOLD},
        )
