"""Plain text under every condition: what an intervention costs where nothing was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from harness.plugin import border
from harness.plugin.components import Metric, Task
from harness.plugin.parameters import ModelCorpus
from harness.plugin.records import Measurement, Outcomes, Prepared, Prompt, Step, per_prompt

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.engine.engine import Engine, Progress


class TextLoss(Task):
    """Plain text of a corpus: how much worse is it predicted once units are edited?

    What an intervention changes beside what it is meant to change: specificity. Any units in any layer.
    """

    name = "text_loss"
    shares_passes = True
    default_metrics: ClassVar[tuple[str, ...]] = ("text_loss",)
    corpus: ModelCorpus = Field(
        description="texts; half of the documents is used, selectors have the other; only the bundled models have a "
        "default",
    )
    sequences: int = Field(32, ge=2, description="how many sequences")
    length: int = Field(64, ge=4, description="tokens of a sequence, at most the model's positions")

    def data_digest(self) -> str:
        return border.data_digest(self.corpus)

    def gives(self) -> frozenset[str]:
        return frozenset({"loss", "tokens"})

    def acts_at(self) -> frozenset[str]:
        return frozenset()  # texts are scored whole

    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        from harness.data import sequences

        model = engine.model
        n = self.sequences if limit is None else min(limit, self.sequences)
        length = self.length if model.n_positions is None else min(self.length, model.n_positions)
        found = sequences(model, self.corpus, n, length, seed, "evaluate", across_documents=True)
        prompts = tuple(
            Prompt(f"{i:05d}", model.tokenizer.decode(list(x.tokens)), tuple(map(int, x.tokens)), f"{i:05d}")
            for i, x in enumerate(found)
        )
        why = f"of {length} tokens of the corpus {self.corpus.name}, evaluation half of its documents, joined"
        return Prepared(prompts, (Step("sequences", len(prompts), n - len(prompts), why),))

    def observe(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
    ) -> Outcomes:
        """Values: ``loss``, nats, summed over the tokens of a sequence that are predicted; ``tokens``, how many."""
        scores = engine.score([prompt.tokens for prompt in prompts], conditions, progress)
        loss = per_prompt(scores.loss, scores.prompt, len(prompts))
        tokens = np.bincount(scores.prompt, minlength=len(prompts)).astype(np.float64)
        return Outcomes(
            conditions=tuple(conditions),
            prompts=tuple(prompts),
            values={"loss": loss, "tokens": np.broadcast_to(tokens, loss.shape)},
        )


class TextLossMetric(Metric):
    """Change of the loss on plain text, a token."""

    name = "text_loss"
    needs = frozenset({"loss", "tokens"})

    def measure(self, outcomes: Outcomes) -> Measurement:
        from harness.statistics import Measure

        return Measurement(
            measures=(
                Measure(
                    "loss_change",
                    "change of the loss on plain text",
                    "nats",
                    outcomes.each(lambda seen: seen["loss"] - outcomes.baseline["loss"]),
                    outcomes["tokens"],
                    primary=True,
                    description="mean change of -log p of a token",
                ),
            )
        )
