"""Greedy continuations: what is to be continued, how, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float64, Int64

from harness.engine.scores import entropy, log_softmax
from harness.engine.tempering import EqualEntropy, Tempered
from harness.engine.watched import Watched
from harness.model.key_values import cache_of

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.conditions.positions import Layout
    from harness.conditions.units import Unit
    from harness.model.model import Batch


@dataclass(frozen=True)
class Generations:
    """Greedy continuations.

    Attributes:
        tokens: int64 [n_conditions, n_prompts, max_new_tokens]; -1 after the first stop token.
        entropy: float64 [n_conditions, n_prompts], entropy in nats of the distribution of the first new token.
        choices: float64 [n_conditions, n_prompts, n_choices], log-probabilities of the asked tokens as first new token.
        top: float64 [n_conditions, n_prompts], log-probability of the first new token itself: the model's confidence.
        tempered: the untouched model's distribution of the first new token at every temperature; None unless asked for.
        watched: what the conditions' units do in the untouched model where it predicts the first new token; None
            unless asked for, and where they are of several kinds, or of more than one number.
    """

    tokens: Int64[np.ndarray, "n_conditions n_prompts max_new_tokens"]
    entropy: Float64[np.ndarray, "n_conditions n_prompts"]
    choices: Float64[np.ndarray, "n_conditions n_prompts n_choices"]
    top: Float64[np.ndarray, "n_conditions n_prompts"]
    tempered: Tempered | None = None
    watched: Watched | None = None

    @classmethod
    def empty(
        cls,
        n_conditions: int,
        n_prompts: int,
        max_new_tokens: int,
        n_choices: int,
        tempered: bool = False,
        watched: tuple[Unit, ...] = (),
    ) -> Generations:
        """Continuations to be filled in; no token yet."""
        shape = (n_conditions, n_prompts)
        return cls(
            tokens=np.full((*shape, max_new_tokens), -1, np.int64),
            entropy=np.zeros(shape),
            choices=np.zeros((*shape, n_choices)),
            top=np.zeros(shape),
            tempered=Tempered.empty(n_prompts) if tempered else None,
            watched=Watched(watched, np.zeros((n_prompts, len(watched)), np.float32)) if watched else None,
        )

    def equal_entropy(self, conditions: Sequence[Condition]) -> tuple[int, EqualEntropy]:
        """The row of the untouched model, and that model at the temperatures at which it is as uncertain as each of the
        conditions, which are those of ``generate``, about the first new token.

        Raises:
            ValueError: ``generate`` was not asked for temperatures.
        """
        if self.tempered is None:
            raise ValueError("equal_entropy() needs what generate(..., tempered=True) gives")
        before = next(row for row, condition in enumerate(conditions) if condition.untouched)
        return before, self.tempered.at_entropy(self.entropy, self.entropy[before])

    def first_texts(self, conditions: Sequence[Condition], texts: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """The first new token's text after each prompt, of the conditions that are shown, which come first.

        Args:
            texts: of every token (:attr:`harness.model.model.Model.token_texts`).
        """
        told = sum(condition.shown for condition in conditions)
        return tuple(tuple(texts[token] for token in row) for row in self.tokens[:told, :, 0].tolist())

    def of_targets(self, targets: Sequence[int]) -> dict[str, np.ndarray]:
        """What tasks give that ask for one token after each prompt, the first of its ``choices``: its log-probability
        (``log_p``) and the ``entropy`` there, both in nats; whether it is the first new token (``kept``). Each
        [n_conditions, n_prompts].
        """
        return {
            "log_p": self.choices[..., 0],
            "entropy": self.entropy.astype(np.float32),
            "kept": self.tokens[..., 0] == np.array(targets),
        }

    def put(self, conditions: Sequence[int], prompts: np.ndarray, part: Generations) -> None:
        """Fill in what these conditions make of these prompts."""
        place = np.asarray(conditions, np.int64)[:, None], prompts
        self.tokens[..., : part.tokens.shape[-1]][place] = part.tokens
        self.entropy[place], self.choices[place], self.top[place] = part.entropy, part.choices, part.top
        if self.tempered is not None and part.tempered is not None:
            self.tempered.put(prompts, part.tempered)
        if self.watched is not None and part.watched is not None:
            self.watched.values[prompts] = part.watched.values


@dataclass(frozen=True)
class GenerationRequest:
    """A batch of prompts that is to be continued.

    Attributes:
        batch: the prompts. layout: where their tokens are.
        choices: int64 [n_prompts, n_choices], tokens whose log-probability as first new token is wanted.
        max_new_tokens: how many tokens at most.
        stop: generation of a prompt ends with the first of these (it is kept).
        tempered: whether the untouched model is wanted at every temperature.
        watched: units whose activations in the untouched model are wanted, at the prompts' last tokens.
    """

    batch: Batch
    layout: Layout
    choices: Int64[np.ndarray, "n_prompts n_choices"]
    max_new_tokens: int
    stop: frozenset[int]
    tempered: bool = False
    watched: tuple[Unit, ...] = ()

    def ends(self) -> Int64[torch.Tensor, " n"]:
        """``stop`` as int64 [n], ascending, on the batch's device."""
        return torch.tensor(sorted(self.stop), dtype=torch.long, device=self.batch.input_ids.device)


Forward = Callable[..., Any]
"""``forward(batch, past, logits_to_keep, use_cache)`` as of :class:`harness.model.model.Model`; returns an object with
``logits`` and a cache (:func:`harness.model.key_values.cache_of`)."""


def decode_greedily(
    forward: Forward, request: GenerationRequest, batch: Batch, conditions: Sequence[Condition], out: Any = None
) -> Generations:
    """Continuations of up to ``max_new_tokens`` tokens, ties to the smaller token id.

    Args:
        forward: makes the passes.
        batch: the request's, once for each of the conditions (:meth:`harness.model.model.Batch.tile`).
        out: what the pass over the batch gave, if it was made.
    """
    n, ends = len(conditions), request.ends()
    done = torch.zeros(len(batch.input_ids), dtype=torch.bool, device=batch.input_ids.device)
    if out is None:
        out = forward(batch, logits_to_keep=1, use_cache=True)
    first = log_softmax(out.logits[:, -1], conditions)
    log_probs, new = first, []
    for step in range(request.max_new_tokens):
        token = log_probs.argmax(-1)
        new.append(torch.where(done, -1, token))
        done = done | torch.isin(token, ends)
        if done.all() or step + 1 == request.max_new_tokens:
            break
        batch = batch.extend(token[:, None])
        out = forward(batch, past=cache_of(out), logits_to_keep=1, use_cache=True)
        log_probs = log_softmax(out.logits[:, -1], conditions)
    asked = torch.as_tensor(request.choices, device=first.device).repeat(n, 1)
    untouched = next((part for part, x in zip(first.chunk(n), conditions, strict=True) if x.untouched), None)
    return Generations(
        tokens=torch.stack(new, dim=1).view(n, len(first) // n, -1).cpu().numpy(),
        entropy=entropy(first).view(n, -1).double().cpu().numpy(),
        choices=first.gather(-1, asked).view(n, len(first) // n, -1).double().cpu().numpy(),
        top=first.amax(-1).view(n, -1).double().cpu().numpy(),
        tempered=Tempered.of(untouched) if request.tempered and untouched is not None else None,
    )
