"""Induction heads, and the baseline heads that they are compared with (Stolfo et al. 2024, section 6.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from harness.plugin import HarnessError, Head, Selection, SelectionContext, Selector, counted

from ..analysis.effects_on_text import check_length

if TYPE_CHECKING:
    from harness.plugin import Model


class InductionHeads(Selector):
    """Attention heads with the highest prefix-matching scores; controls are drawn from baseline heads.

    The score of a head is the attention from a token of the second copy of random tokens to the token that followed its
    first occurrence, a mean over positions and sequences. Baseline heads (Stolfo et al. 2024, section 6.2) are idle on
    these sequences: they attend to the first token (more than min_bos of their attention, a mean over positions) and do
    not match prefixes (score below max_prefix).
    """

    name = "induction_heads"
    site = "heads"
    top: int = Field(3, ge=1, description="number of heads")
    sequences: int = Field(128, ge=1, description="random sequences (the paper: 1024)")
    length: int = Field(50, ge=2, description="random tokens of a sequence before it is duplicated")
    min_bos: float = Field(0.6, ge=0, le=1, description="baseline heads: least mean attention to the first token")
    max_prefix: float = Field(0.1, ge=0, le=1, description="baseline heads: prefix-matching scores below this")

    def reads_prompts(self) -> bool:
        return False

    def check(self, model: Model) -> None:
        n = model.anatomy.n_layers * model.anatomy.n_heads
        if self.top > n:
            raise HarnessError(f"selector induction_heads: top={self.top} heads were asked for; the model has {n}.")
        check_length(model, self.length, "selector induction_heads", twice=True)

    def select(self, context: SelectionContext) -> Selection:
        from ..analysis.attention_heads import head_scores, random_repeats

        model, anatomy = context.model, context.model.anatomy
        heads = tuple(Head(layer, i) for layer in range(anatomy.n_layers) for i in range(anatomy.n_heads))
        self.check(model)
        found = head_scores(model, random_repeats(model, self.sequences, self.length, context.seed), self.length)
        matching, first = found.prefix_matching.ravel(), found.first_token.ravel()
        best = np.argsort(-matching, kind="stable")[: self.top].tolist()
        baseline = [i for i in range(len(heads)) if first[i] > self.min_bos and matching[i] < self.max_prefix]
        pool = tuple(heads[i] for i in baseline if i not in best)
        return Selection(
            units=tuple(heads[i] for i in best),
            rule=f"the {self.top} of {counted(len(heads), 'head')} with the highest prefix-matching scores on "
            f"{self.sequences} "
            f"sequences of {counted(self.length, 'random token')}, each duplicated; "
            f"{counted(len(pool), 'baseline head')} (mean attention to "
            f"the first token > {self.min_bos:g}, prefix matching < {self.max_prefix:g})",
            candidates=heads,
            scores={"prefix_matching": matching, "first_token": first},
            special={"prefix_matching": "high"},
            details={"baseline_heads": [str(head) for head in pool]},
            pool=pool,
        )
