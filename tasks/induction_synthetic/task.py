"""Induction as an lm-eval task: how well is a text predicted when it comes a second time?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import HarnessError
from harness.lmeval.tasks import ModelTask
from harness.plugin.components import Task as Component

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.engine.engine import Engine
    from harness.model.model import Model
    from harness.plugin.records import Prompt

SPARE = 16
"""So many times as many sequences are drawn as are wanted: not every span of tokens survives being text."""


class Task(ModelTask):
    """Prompts of the component ``induction_synthetic``, of those that the tokenizer reads as they were written.

    lm-eval's requests are texts, and a span of tokens that begins or ends within a word is tokenized otherwise.
    """

    component = "induction_synthetic"

    @staticmethod
    def items(task: Component) -> int:
        return int(task.sequences)  # type: ignore[attr-defined]

    @classmethod
    def prompts(cls, engine: Engine, task: Component, limit: int | None, seed: int) -> Sequence[Prompt]:
        wanted = task.sequences if limit is None else min(limit, task.sequences)  # type: ignore[attr-defined]
        more = task.model_copy(update={"sequences": SPARE * wanted})
        drawn = super().prompts(engine, more, None, seed)
        found = list(islice((x for x in drawn if _survives(engine.model, x)), wanted))
        if not found:
            raise HarnessError(
                f"task {cls.component}: none of {SPARE * wanted} spans of tokens, written as text, is tokenized as it "
                "was; take another corpus."
            )
        return found

    @staticmethod
    def row(model: Model, prompt: Prompt) -> dict[str, Any]:
        context, continuation = _texts(model, prompt)
        n = len(prompt.tokens) - prompt.fields["split"] - 1
        return {"id": prompt.id, "context": context, "continuation": continuation, "tokens": n}

    @staticmethod
    def beyond(engine: Engine, condition: Condition, prompts: Sequence[Prompt]) -> dict[str, list[float]]:
        """Share of the second copy's tokens that are the model's first choice: a log-likelihood request says no more
        than whether all are."""
        scores = engine.score([prompt.tokens for prompt in prompts], [condition])
        splits = np.array([prompt.fields["split"] for prompt in prompts])
        counted = scores.position > splits[scores.prompt]
        right = np.bincount(scores.prompt[counted], scores.rank[0, counted] == 0)
        return {"accuracy": (right / np.bincount(scores.prompt[counted])).tolist()}


def _texts(model: Model, prompt: Prompt) -> tuple[str, str]:
    """First copy with the first token of the second, which nothing announces, and the rest of the second copy."""
    begin, split = prompt.fields["begin"], prompt.fields["split"]
    context, whole = (
        model.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
        for tokens in (prompt.tokens[begin : split + 1], prompt.tokens[begin:])
    )
    return context, whole[len(context) :]


def _survives(model: Model, prompt: Prompt) -> bool:
    """Whether lm-eval's way to tokenize context and continuation gives the prompt's tokens."""
    context, continuation = _texts(model, prompt)
    if not continuation or context != context.rstrip():  # lm-eval moves spaces from the one to the other
        return False
    before, whole = (tuple(ids) for ids in model.encode([context, context + continuation]))
    return whole == prompt.tokens and before == prompt.tokens[: prompt.fields["split"] + 1]
