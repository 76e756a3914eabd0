"""What the selectors of attributed components share: which predictions are read, how components are ranked, tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from harness.plugin import (
    AnyCorpus,
    AnyLayers,
    HarnessError,
    SelectionContext,
    Selector,
    agree,
    counted,
    layers_in,
    mlp_site,
    the,
)

if TYPE_CHECKING:
    import torch

    from harness.plugin import Model, Unit

    from ..analysis.last_position import LastPosition

TOKENS = 10
"""Promoted and suppressed tokens that are recorded of each selected component."""


class Attribution(Selector):
    """Base: on which predictions contributions are measured, and how many components are taken."""

    noun: ClassVar[str]

    top: int = Field(10, ge=1, description="how many")
    layer: AnyLayers | None = Field(
        None, description="one layer, negative counts from the last, or several (8-12); default: all layers"
    )
    prompts: int = Field(64, ge=1, description="predictions it is measured on, drawn by the seed if there are more")
    corpus: AnyCorpus | None = Field(
        None,
        description="measure on texts that tasks do not evaluate on; default: on prompts that are held out",
    )
    length: int = Field(32, ge=2, description="with corpus: tokens before each prediction")

    def reads_prompts(self) -> bool:
        return self.corpus is None

    def check(self, model: Model) -> None:
        heads = self.site == "heads"
        layers = self.layers(model)
        counts = [model.anatomy.n_heads if heads else mlp_site(model, x).count(model, x) or 0 for x in layers]
        self.check_top(sum(counts))
        if self.corpus is not None and model.n_positions is not None and self.length > model.n_positions:
            raise HarnessError(
                f"selector {self.name}: length={self.length} tokens do not fit the {model.n_positions} positions of "
                f"{model.name}."
            )

    def read(self, context: SelectionContext) -> tuple[list[Sequence[int]], str]:
        """The token sequences whose next token is attributed, and where they come from, in words.

        Raises:
            HarnessError: the task has no prompts, or the corpus no sequence of this length.
        """
        if self.corpus is not None:
            from harness.data import sequences

            read = sequences(
                context.model, self.corpus, self.prompts, self.length, context.seed, "select", across_documents=True
            )
            return [x.tokens for x in read], (
                f"after {counted(len(read), 'sequence')} of {counted(self.length, 'token')} of the corpus "
                f"{self.corpus.name} (documents that "
                "tasks do not evaluate on)"
            )
        n = len(context.prompts)
        if n == 0:
            raise HarnessError(f"selector {self.name}: the task has no prompts; name a corpus (corpus=text:path=FILE).")
        rows = np.sort(np.random.default_rng(context.seed).permutation(n)[: self.prompts]).tolist()
        whose = (
            f"{counted(n, 'prompt')} that {agree(n, 'is', 'are')} held out for selectors; the run is evaluated on "
            "others"
            if context.held_out
            else f"the task's own {counted(n, 'prompt')}, on which the run is evaluated, too"
        )
        return [context.prompts[row] for row in rows], f"at the end of {len(rows)} of {whose}"

    def layers(self, model: Model) -> list[int]:
        n = model.anatomy.n_layers
        return list(range(n)) if self.layer is None else layers_in(self.layer, n, f"selector {self.name}")

    def check_top(self, available: int) -> None:
        if self.top > available:
            raise HarnessError(
                f"selector {self.name}: top={counted(self.top, self.noun)} were asked for, but there are only "
                f"{available}."
            )

    def rank(self, score: np.ndarray) -> list[int]:
        """Rows of the candidates with the highest scores [n], best first; ties go to the earlier one."""
        rows: list[int] = np.argsort(-score, kind="stable")[: self.top].tolist()
        return rows

    def rule(self, what: str, where: str, layers: Sequence[int]) -> str:
        scope = f"layers {layers[0]} to {layers[-1]}"
        if isinstance(self.layer, int):
            scope = f"layer {layers[0]}"
        elif self.layer is not None:
            scope = f"layers {', '.join(map(str, layers))}"
        return f"{scope}: {the(self.top, self.noun)} with the largest mean {what}, {where}"


def processing(model: Model) -> str:
    """How contributions are read, for records."""
    return "final norm's gain folded into W_U, its denominator held at the last position's" + (
        "; writes centred over d_model (LayerNorm)" if model.readout.centre_writes else ""
    )


def tokens_of(model: Model, units: Sequence[Unit], writes: Sequence[torch.Tensor]) -> dict[str, dict[str, list[str]]]:
    """Promoted and suppressed tokens of the units' writes, by name."""
    import torch

    from ..analysis.promoted_tokens import top_tokens

    found = top_tokens(model, torch.stack(list(writes)), TOKENS)
    return {str(unit): row for unit, row in zip(units, found, strict=True)}


def by_module(model: Model, states: LastPosition) -> dict[str, list[float]]:
    """Mean increase by the whole attention and the whole MLP of each layer."""
    from ..analysis.head_outputs import module_increases

    means = [module_increases(model, states, layer).mean(0, dtype=np.float64) for layer in range(len(states.before))]
    return {"attention": [float(x[0]) for x in means], "mlp": [float(x[1]) for x in means]}
