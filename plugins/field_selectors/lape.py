"""Language-specific neurons by the entropy of activation probabilities (Tang et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from harness.plugin import Selection, SelectionContext

from .groups import Group, GroupSelector

if TYPE_CHECKING:
    import torch


class Lape(GroupSelector):
    """Neurons that are active in few of several groups of texts: language-specific ones, where groups are languages.

    Language activation probability entropy (Tang et al. 2024, ACL, arXiv:2402.16438, eq. 2 to 4): over all tokens of
    group k,

        p_k  = share of tokens at which the pre-activation (of a gated MLP: of the gate) is above 0
        p'_k = p_k / sum over groups of p
        LAPE = - sum over k of p'_k log p'_k

    Neurons whose largest p_k is not above the 95th percentile of all p are left out, and of the others the lowest LAPE
    are chosen. Ties, which few texts make likely, go to the larger p_k. It works on any groups; what the neurons do to
    an answer has no say in it.
    """

    name = "lape"
    active: float = Field(
        0.95, ge=0, lt=1, description="quantile of all activation probabilities that a neuron must exceed in some group"
    )

    def select(self, context: SelectionContext) -> Selection:
        groups, said = self.groups(context)
        p = np.stack([activation_probabilities(context, group, self.layers(context.model)) for group in groups], 1)
        entropy, most = lape(p), p.max(1)
        enough = most > np.sort(p, axis=None)[max(0, round(p.size * self.active) - 1)]
        scores = {"lape": entropy, "probability": most}
        scores |= {f"probability_{i}": p[:, i] for i in range(len(groups))}
        return self.chosen(
            context.model,
            [entropy, -most],
            scores,
            f"the {self.top} with the lowest entropy of activation probabilities over {said}, of those whose largest "
            f"is above the {self.active:g} quantile of all",
            {"lape": "low"},
            {"groups": [group.label for group in groups], "passed": int(enough.sum())},
            among=enough,
        )


def lape(p: np.ndarray) -> np.ndarray:
    """LAPE [n] of activation probabilities [n, groups], nats; log(groups) of neurons that are never active."""
    total = p.sum(1, keepdims=True)
    share = np.where(total > 0, p / np.where(total > 0, total, 1), 1 / p.shape[1])
    found: np.ndarray = -(share * np.log(np.where(share > 0, share, 1))).sum(1)
    return found


def activation_probabilities(context: SelectionContext, group: Group, layers: list[int]) -> np.ndarray:
    """Share of the group's tokens (without the model's prefix) at which each neuron is active, [layers * d_mlp]."""
    import torch

    from harness.model import read_in

    model = context.model
    weights = [read_in(model, layer) for layer in layers]
    active, n, seen = np.zeros((len(layers), model.anatomy.d_mlp)), 0, {}

    def keep(i: int) -> Any:
        def hook(_module: Any, _args: Any, output: torch.Tensor) -> None:
            seen[i] = output[..., weights[i].columns] > 0

        return hook

    for start in range(0, len(group.tokens), context.engine.batch_size):
        batch = model.pad([list(x) for x in group.tokens[start : start + context.engine.batch_size]])
        real = (batch.attention_mask.bool() & (batch.position_ids >= len(model.prefix))).reshape(-1)
        handles = [w.projection.register_forward_hook(keep(i)) for i, w in enumerate(weights)]
        try:
            with torch.no_grad(), model.without_logits():
                model.forward(batch)
        finally:
            for handle in handles:
                handle.remove()
        for i in range(len(layers)):
            active[i] += seen[i].reshape(len(real), -1)[real.to(seen[i].device)].sum(0).cpu().numpy()
        n += int(real.sum())
    return (active / n).reshape(-1)
