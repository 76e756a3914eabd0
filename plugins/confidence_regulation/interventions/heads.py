"""Interventions on attention heads (Stolfo et al. 2024, sections 6.2 and I.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.plugin import Head, Intervention, by_layer

if TYPE_CHECKING:
    from harness.plugin import Edit, HeadStatistics


class BosAttention(Intervention[Head, None]):
    """BOS ablation: the heads attend to the prompt's first token only, from every position."""

    name = "bos_attention"
    site = "heads"
    needs_statistics = False

    def edits(self, units: Sequence[Head], statistics: None) -> tuple[Edit, ...]:
        from harness.plugin import AttendFirst

        return tuple(AttendFirst(layer, tuple(heads)) for layer, heads in by_layer(units).items())


class MeanAttentionOutput(Intervention[Head, "HeadStatistics"]):
    """Mean attention-output ablation: each head's output is replaced by its mean over the reference positions.

    Of induction tasks these are the second copy's, as in the paper.
    """

    name = "mean_attention_output"
    site = "heads"

    def edits(self, units: Sequence[Head], statistics: HeadStatistics) -> tuple[Edit, ...]:
        from harness.plugin import SetHeads

        return tuple(
            SetHeads(layer, tuple(heads), tuple(tuple(statistics.mean[layer][head].tolist()) for head in heads))
            for layer, heads in by_layer(units).items()
        )
