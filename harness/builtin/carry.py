"""How much of the model's uncertainty selected neurons carry: can it be read from their activations?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from harness.files.wording import agree, counted
from harness.plugin.components import Metric
from harness.plugin.records import Measurement

if TYPE_CHECKING:
    from harness.plugin.records import Outcomes

AT_ONCE = 16
"""Conditions whose activations are held in float64: few, so that what is made of them stays in the cache."""


class Carry(Metric):
    """Held-out share of the entropy's variance that the treated neurons' activations explain, beside control sets.

    The untouched model's entropy of each prompt is predicted from the activations of the condition's neurons there, by
    ridge regression (one prompt's worth of shrinkage, activations standardised) on all folds but the prompt's own;
    prompts of one cluster are in one fold. 0 is what the mean of the other folds predicts; below 0 is worse than that.
    Neurons may carry the entropy and not cause it, and cause it and not carry it: nothing is treated here.

    Nothing where the task keeps no activations (of heads and directions there are none).
    """

    name = "carry"
    needs = frozenset({"entropy"})
    folds: int = Field(5, ge=2, le=20, description="parts of the clusters, each predicted from the others")

    def measure(self, outcomes: Outcomes) -> Measurement:
        from harness.statistics import Each, Measure

        clusters = outcomes.clusters
        n = int(clusters.max()) + 1
        if "activations" not in outcomes.values:
            return Measurement()
        if n < 2 * self.folds:
            return Measurement(
                remarks=(
                    f"carry: {counted(n, 'independent item')} {agree(n, 'is', 'are')} too few for {self.folds} folds",
                )
            )
        entropy = np.asarray(outcomes.baseline["entropy"], np.float64)
        fold = clusters % self.folds
        mean = np.array([entropy[fold != i].mean() for i in range(self.folds)])[fold]
        around = (entropy - mean) ** 2

        def less(rows: slice) -> np.ndarray:
            """What the activations leave less, of some conditions; in the same groups whatever is asked for."""
            starts = range(rows.start // AT_ONCE * AT_ONCE, rows.stop, AT_ONCE)
            groups = (outcomes["activations"][start : start + AT_ONCE] for start in starts)
            left = np.concatenate([(entropy - predicted(group, entropy, fold)) ** 2 for group in groups])
            found: np.ndarray = around - left[rows.start - starts.start : rows.stop - starts.start]
            return found

        measure = Measure(
            "carry",
            "share of the entropy's variance in the activations",
            "share",
            Each(len(outcomes.conditions), less).kept(),
            np.broadcast_to(around, (len(outcomes.conditions), len(entropy))),
            description="held-out R2 of the untouched entropy from the activations of the condition's neurons",
        )
        return Measurement((measure,))


def predicted(activations: np.ndarray, y: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Ridge predictions [C, N] of y [N] from activations [C, N, k], of each fold [N] from the others; a column of NaN
    says nothing."""
    x = np.nan_to_num(np.asarray(activations, np.float64))
    across = np.ascontiguousarray(x.transpose(1, 0, 2))  # [N, C, k]: rows of C k numbers are added up faster than of k
    found = np.empty(x.shape[:2])
    for held in np.unique(fold):
        known, out = fold != held, fold == held
        others = across[known]
        centre, spread, middle = others.mean(0)[:, None], others.std(0)[:, None], y[known].mean()
        z = (x - centre) / np.where(spread > 0, spread, 1.0)
        inside = z[:, known]
        gram = inside.transpose(0, 2, 1) @ inside + np.eye(x.shape[2])
        weights = np.linalg.solve(gram, inside.transpose(0, 2, 1) @ (y[known] - middle)[:, None])
        found[:, out] = middle + (z[:, out] @ weights)[..., 0]
    return found
