"""Pairs of prompts that differ in one place, for activation patching; those that are made of facts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.plugin import HarnessError, agree, counted

if TYPE_CHECKING:
    from harness.data import Fact
    from harness.plugin import Model

ROLES = ("first subject token", "middle subject tokens", "last subject token", "after the subject", "last token")
"""What tokens are, from the first one on in which the prompts of a pair differ."""

OTHERS = -1
"""In place of an answer's token: all others."""


@dataclass(frozen=True)
class Pair:
    """Two prompts of equally many tokens that differ in one place, and the answers that they ask for.

    Attributes:
        clean, corrupted: token ids.
        answers: first token of the clean prompt's answer, and of the corrupted one's; :data:`OTHERS` instead of the
            latter is every token but the former.
        group: the relation.
    """

    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    answers: tuple[int, int]
    group: str = ""

    def __post_init__(self) -> None:
        if len(self.clean) != len(self.corrupted) or self.clean == self.corrupted or len(set(self.answers)) < 2:
            raise ValueError("a pair is two different prompts of equally many tokens, with different answers")

    @property
    def subject(self) -> tuple[int, int]:
        """Start and stop of the tokens in which the prompts differ."""
        apart = [i for i, (a, b) in enumerate(zip(self.clean, self.corrupted, strict=True)) if a != b]
        return apart[0], apart[-1] + 1

    @property
    def roles(self) -> np.ndarray:
        """Number of each token's role in :data:`ROLES`, -1 before the subject, int [n_tokens]."""
        (start, stop), n = self.subject, len(self.clean)
        roles = np.full(n, 3)
        roles[:start] = -1
        roles[start:stop] = 1
        roles[start], roles[stop - 1], roles[n - 1] = 0, 2, 4
        return roles


def fact_pairs(models: Sequence[Model], facts: Sequence[Fact], n: int = 100, seed: int = 0) -> list[Pair]:
    """Pairs of facts of one relation that all the models know, whose questions have equally many tokens.

    A model knows a fact if the most likely token after its question is the first of its object. No fact is in two
    pairs. The models have one tokeniser.

    Args:
        n: the most pairs; they are drawn at random.

    Raises:
        HarnessError: there are no such pairs, or the models' tokenisers differ.
    """
    from harness.model import first_token

    texts = [fact.query for fact in facts]
    tokens = models[0].encode(texts)
    answers = [first_token(models[0], text, fact.object) for text, fact in zip(texts, facts, strict=True)]
    for model in models[1:]:
        if model.encode(texts) != tokens:
            raise HarnessError(f"{model.name} and {models[0].name} have different tokenisers: no pairs fit both.")
    known = np.all([_greedy(model, tokens) == answers for model in models], axis=0)
    alike: dict[tuple[str, int], list[int]] = defaultdict(list)
    for i in np.random.default_rng(seed).permutation(np.flatnonzero(known)).tolist():
        alike[facts[i].relation.name, len(tokens[i])].append(i)
    pairs = [
        Pair(tuple(tokens[a]), tuple(tokens[b]), (answers[a], answers[b]), group)
        for (group, _), rows in alike.items()
        for a, b in zip(rows[::2], rows[1::2], strict=False)
        if answers[a] != answers[b] and tokens[a] != tokens[b]
    ]
    if not pairs:
        names = " and ".join(model.name for model in models)
        raise HarnessError(
            f"patching: of {counted(len(facts), 'fact')} {names} {agree(len(models), 'knows', 'know')} "
            f"{int(known.sum())}, and no two of them have one relation, equally many tokens and different answers; "
            "take other facts."
        )
    kept = np.sort(np.random.default_rng(seed).permutation(len(pairs))[:n])
    return [pairs[i] for i in kept]


def _greedy(model: Model, tokens: Sequence[Sequence[int]]) -> np.ndarray:
    """The most likely next token of every prompt, int [n]."""
    from harness.engine import HookEngine
    from harness.plugin import BASELINE

    found: np.ndarray = HookEngine(model).generate(tokens, [BASELINE], 1).tokens[0, :, 0]
    return found
