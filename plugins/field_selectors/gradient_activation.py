"""Gradient times activation: what first-order attribution says of taking a neuron away."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.plugin import Selection, SelectionContext

from .base import FieldSelector, drawn


class GradientActivation(FieldSelector):
    """Neurons whose activation times gradient is largest: what the prediction would lose without them, to first order.

    For prompt x, the token y that the model predicts after it, and neuron i of layer l with activation a at the last
    position,

        score(l, i) = mean over x of  a . d log p(y | x) / d a

    which is log p(y) less its value at a = 0 in a first-order expansion (input times gradient: Shrikumar, Greenside,
    Shcherbina & Kundaje 2016, arXiv:1605.01713; as attribution patching: Syed, Rager & Conmy 2023, arXiv:2310.10348).
    All layers take one backward pass. Negative scores are of neurons that speak against the prediction.
    """

    name = "gradient_activation"
    prompts: int = Field(64, ge=1, description="prompts it is measured on, drawn by the seed if there are more")
    sign: Literal["positive", "either"] = Field(
        "positive", description="positive: neurons that raise the prediction; either: the largest absolute values"
    )

    def select(self, context: SelectionContext) -> Selection:
        from .gradients import gradients

        model = context.model
        prompts, where = drawn(context, self.prompts, self.name)
        found = gradients(model, prompts, self.layers(model), context.engine.batch_size)
        product = (found.activation * found.gradient).reshape(len(prompts), -1)
        score = product.mean(0)
        what = "mean" if self.sign == "positive" else "absolute mean"
        return self.chosen(
            model,
            [-score if self.sign == "positive" else -abs(score)],
            {"attribution": score, "share_positive": (product > 0).mean(0)},
            f"the {self.top} with the largest {what} activation times gradient of log p of the predicted token, at the "
            f"end of {where}",
            {"attribution": "high"} if self.sign == "positive" else {},
            {"prompts": len(prompts), "sign": self.sign},
        )
