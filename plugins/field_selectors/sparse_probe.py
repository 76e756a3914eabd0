"""Neurons of a sparse probe: H-neurons (Gao et al. 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from harness.plugin import Selection, SelectionContext

from .groups import TwoGroups

if TYPE_CHECKING:
    from harness.plugin import Model

STRENGTHS = tuple(float(c) for c in np.logspace(-3, 3, 13))
"""Inverse strengths C of the penalty that are tried, the sparsest first."""


class SparseProbe(TwoGroups):
    """Neurons with a positive weight in an L1-regularised logistic regression that tells two classes of texts apart.

    H-neurons (Gao et al. 2025, arXiv:2512.01797): each text has a label t and a feature x_j for each neuron,

        minimise over w, b   |w|_1 + C . sum over texts of log(1 + exp(-t (w . x + b)))       t = +-1, classes balanced

    and neurons with w_j > 0 are chosen. The feature is the neuron's share of what its MLP writes (CETT, Zhang et al.
    2024), |a_j| |w_out_j| / |sum_i a_i w_out_i| at the last token, or the activation itself (Gurnee et al. 2023,
    Finding Neurons in a Haystack); features are standardised. C is the smallest of a grid at which ``top`` weights are
    positive, unless it is named. Of neurons that say the same, such a probe needs one: it is not made to find all.
    """

    name = "sparse_probe"
    feature: Literal["cett", "activation"] = Field("cett", description="what the probe reads of a neuron")
    C: float | None = Field(
        None, gt=0, description="inverse strength of the penalty; default: the smallest that serves"
    )

    def select(self, context: SelectionContext) -> Selection:
        values, positive, said = self.classes(context)
        if self.feature == "cett":
            values = contributions(context.model, values, self.layers(context.model))
        spread = values.std(0)
        x = (values - values.mean(0)) / np.where(spread > 0, spread, 1)
        for strength in STRENGTHS if self.C is None else (self.C,):
            probe = fitted(x, positive, strength, context.seed)
            weights = probe.coef_[0]
            if (weights > 0).sum() >= self.top:
                break
        accuracy = float((probe.predict(x) == positive).mean())
        return self.chosen(
            context.model,
            [-weights],
            {"weight": weights},
            f"the {self.top} largest positive weights of a probe with an L1 penalty (C = {strength:.3g}, "
            f"{int((weights != 0).sum())} weights that are not 0, accuracy {accuracy:.2f} on its own texts) of {said}",
            {"weight": "high"},
            {"C": strength, "nonzero": int((weights != 0).sum()), "accuracy_in_sample": accuracy, "texts": len(values)},
            among=weights > 0,
        )


def fitted(x: np.ndarray, positive: np.ndarray, strength: float, seed: int) -> Any:
    """The probe of standardised features [texts, n]."""
    import sklearn
    from sklearn.linear_model import LogisticRegression

    newer = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8)
    penalty: dict[str, Any] = {"l1_ratio": 1} if newer else {"penalty": "l1"}
    made = LogisticRegression(
        C=strength, solver="liblinear", class_weight="balanced", random_state=seed % 2**32, max_iter=1000, tol=1e-3,
        **penalty,
    )  # fmt: skip
    return made.fit(x, positive)


def contributions(model: Model, values: np.ndarray, layers: list[int]) -> np.ndarray:
    """CETT of activations [texts, layers * d_mlp]: the length of what each neuron writes over that of the MLP's sum."""
    found = values.reshape(len(values), len(layers), -1).astype(np.float64)
    for i, layer in enumerate(layers):
        weights = model.w_out(layer).double().cpu().numpy()
        whole = np.linalg.norm(found[:, i] @ weights, axis=1, keepdims=True)
        found[:, i] = np.abs(found[:, i]) * np.linalg.norm(weights, axis=1) / np.where(whole > 0, whole, 1)
    return found.reshape(len(values), -1)
