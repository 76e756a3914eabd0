"""The task of the planted models: after a cue comes its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from harness.files.digests import texts_digest
from harness.plugin import Condition, HarnessError, Outcomes, Prepared, Prompt, Step, Task

from .world import CUES, FIRST, SECOND, TOKENS, answers, words

if TYPE_CHECKING:
    from harness.plugin import Engine, Model, Progress


class PlantedAnswer(Task):
    """Random words that end with a cue: how probable is the cue's answer, in a model in which that is planted?

    Which neurons raise the answers, and by how many nats, is known of the models of the loader ``planted``. Prompts are
    drawn by the run's seed.
    """

    name = "planted_answer"
    shares_passes = True
    default_metrics: ClassVar[tuple[str, ...]] = ("target_probability",)
    prompts: int = Field(200, ge=2, description="number of prompts")

    def data_digest(self) -> str:
        return texts_digest(["planted_answer 1", *TOKENS])

    def n_items(self) -> int:
        return self.prompts

    def gives(self) -> frozenset[str]:
        return frozenset({"log_p", "entropy", "kept"})

    def acts_at(self) -> frozenset[str]:
        return frozenset({"prompt"})  # no generated token is read

    def check(self, model: Model) -> None:
        if not hasattr(model.hf.config, "planted"):
            raise HarnessError(f"task {self.name}: {model.name} is no planted model; take --model planted:seed=1.")

    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        model = engine.model
        rng, reply = np.random.default_rng(seed), answers(model.hf.config.planted)
        n = self.prompts if limit is None else min(limit, self.prompts)
        texts = [words(rng, (FIRST, SECOND)[i % 2], 2, 5) + CUES[int(rng.integers(len(CUES)))] for i in range(n)]
        target = {cue: model.encode([reply[cue]], add_bos=False)[0][0] for cue in CUES}
        prompts = tuple(
            Prompt(f"{i:05d}", text, tuple(tokens), text, {"target": target[text[-1]], "target_text": reply[text[-1]]})
            for i, (text, tokens) in enumerate(zip(texts, model.encode(texts), strict=True))
        )
        return Prepared(prompts, (Step("drawn", n, 0, "random words that end with a cue, by the seed"),))

    def observe(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
    ) -> Outcomes:
        """Values: ``log_p`` of the answer and ``entropy``, both of the next token, in nats; ``kept``: whether the
        answer is the prediction."""
        target = [prompt.fields["target"] for prompt in prompts]
        made = engine.generate(
            [prompt.tokens for prompt in prompts],
            conditions,
            1,
            choices=[[token] for token in target],
            progress=progress,
            spans=[prompt.spans for prompt in prompts],
        )
        return Outcomes(
            conditions=tuple(conditions),
            prompts=tuple(prompts),
            values=made.of_targets(target),
            answers=made.first_texts(conditions, engine.model.token_texts),
        )
