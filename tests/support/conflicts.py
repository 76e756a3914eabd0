"""Outcomes of knowledge conflicts, by hand and at random, and a model that answers as it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from harness_plugins.context_copying.task.knowledge_conflict import SOURCES
from roles import conditions

from harness.engine.generations import Generations
from harness.engine.hooks import HookEngine
from harness.model.model import Model
from harness.plugin.records import Outcomes, Prompt

CK, PK, ND = range(3)

# Ten prompts: untouched, treated, and two controls, of which one does nothing and one makes everything ND.
HAND = [
    [CK, CK, CK, PK, PK, PK, ND, ND, ND, ND],
    [CK, PK, ND, CK, PK, ND, CK, CK, ND, PK],
    [CK, CK, CK, PK, PK, PK, ND, ND, ND, ND],
    [ND, ND, ND, ND, ND, ND, ND, ND, ND, ND],
]

LOG_P = {
    "log_p_ck": [[-1.0, -2.0, -9.0], [-3.0, -2.0, -1.0], [-1.0, -2.0, -9.0]],
    "log_p_pk": [[-2.0, -2.0, -9.0], [-1.0, -4.0, -1.0], [-2.0, -2.0, -9.0]],
    "log_p_nd": [[-0.5, -1.0, -0.1], [-0.5, -3.0, -5.0], [-0.5, -1.0, -0.1]],
}


def outcomes(
    source: Sequence[Sequence[int]], first_tokens: Sequence[tuple[int, int]] | None = None, **values: object
) -> Outcomes:
    """Outcomes of these sources [n_conditions][n_prompts]; every prompt is a cluster of its own."""
    codes = np.array(source, dtype=np.int8)
    tokens = first_tokens or [(1, 2)] * codes.shape[1]
    return Outcomes(
        conditions=conditions(len(codes) - 2),
        prompts=tuple(Prompt(f"p{i}", "", (1,), f"p{i}", {"first_tokens": [*x]}) for i, x in enumerate(tokens)),
        values={"source": codes, **{name: np.array(value, dtype=float) for name, value in values.items()}},
        categories={"source": SOURCES},
    )


def observed(seed: int = 0, n: int = 90, controls: int = 19, groups: str = "abc") -> Outcomes:
    """Random sources and entropies; three prompts a fact, facts in groups."""
    rng = np.random.default_rng(seed)
    before = rng.integers(3, size=n)
    source = [before, *(np.where(rng.random(n) < 0.1, rng.integers(3, size=n), before) for _ in range(controls + 1))]
    found = outcomes(np.array(source).tolist(), entropy=rng.normal(size=(controls + 2, n)))
    prompts = tuple(
        Prompt(f"p{i}", "", (1,), f"fact{i // 3}", {"first_tokens": [1, 2], "group": groups[i % n // 3 % len(groups)],
                                                    "relation": f"r{i // 3 % 5}"})
        for i in range(n)
    )  # fmt: skip
    looser = np.where((found["source"] == ND) & (rng.random((controls + 2, n)) < 0.3), CK, found["source"])
    values = {**found.values, "source_normalised": looser.astype(np.int8), "source_alias": looser.astype(np.int8)}
    return replace(found, prompts=prompts, values=values)


class Scripted(HookEngine):
    """Answers elicitation prompts from a list, in its order; everything else is the model's."""

    def __init__(self, model: Model, answers: Sequence[str]) -> None:
        super().__init__(model)
        self.answers, self.asked = answers, []

    def generate(self, prompts: Any, conditions: Any, max_new_tokens: int, *rest: Any, **options: Any) -> Generations:
        if max_new_tokens == 1:
            return super().generate(prompts, conditions, max_new_tokens, *rest, **options)
        self.asked = [self.model.tokenizer.decode(tokens) for tokens in prompts]
        rows = [self.model.encode([answer])[0] for answer in self.answers]
        tokens = np.full((1, len(rows), max(map(len, rows))), -1, np.int64)
        for i, row in enumerate(rows):
            tokens[0, i, : len(row)] = row
        none = np.zeros(tokens.shape[:2])
        return Generations(tokens, none, none[..., None][..., :0], none)
