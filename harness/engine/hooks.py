"""Score and generate the same prompts under many conditions.

The plain meaning of both verbs: run the model once per condition, with forward hooks that edit neurons and heads. That
is what :class:`HookEngine` does, for any layer of any supported model; it is the oracle for faster engines.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch

from harness.conditions.conditions import site_of
from harness.conditions.frozen import check_conditions, keep_component, unigram_direction
from harness.conditions.head_edits import HeadEdit, HeadEditor, check_heads, watch_starts
from harness.errors import HarnessError
from harness.model.key_values import cache_of

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition, Edit
    from harness.conditions.head_edits import Starts
    from harness.model.model import Batch, Model

Progress = Callable[[int], None]
"""Called with a number of newly finished (condition, prompt) pairs."""


@dataclass(frozen=True)
class Generations:
    """Greedy continuations.

    Attributes:
        tokens: int64 [n_conditions, n_prompts, max_new_tokens]; -1 after the first stop token.
        entropy: float64 [n_conditions, n_prompts], entropy in nats of the distribution of the first new token.
        choices: float64 [n_conditions, n_prompts, n_choices], log-probabilities of the asked tokens as first new token.
    """

    tokens: np.ndarray
    entropy: np.ndarray
    choices: np.ndarray

    @classmethod
    def empty(cls, n_conditions: int, n_prompts: int, max_new_tokens: int, n_choices: int) -> Generations:
        """Continuations to be filled in; no token yet."""
        shape = (n_conditions, n_prompts)
        tokens = np.full((*shape, max_new_tokens), -1, np.int64)
        return cls(tokens, np.zeros(shape), np.zeros((*shape, n_choices)))

    def put(self, members: Sequence[int], part: Generations) -> None:
        """Fill in the conditions ``members`` with what was made of these alone."""
        self.tokens[members], self.entropy[members], self.choices[members] = part.tokens, part.entropy, part.choices


@dataclass(frozen=True)
class Scores:
    """What the model says of the tokens that are there, one column per predicted token.

    Attributes:
        prompt, position: int64 [n_tokens], which prompt and which of its tokens (token 0 is not predicted).
        loss: float64 [n_conditions, n_tokens], -log p of the token, nats.
        entropy: float64 [n_conditions, n_tokens], nats, of the distribution that predicts the token.
        rank: int64 [n_conditions, n_tokens], 0 when the token is the most likely one (ties count against it).
        top: float64 [n_conditions, n_tokens], log-probability of the most likely token: the model's confidence.
    """

    prompt: np.ndarray
    position: np.ndarray
    loss: np.ndarray
    entropy: np.ndarray
    rank: np.ndarray
    top: np.ndarray

    @classmethod
    def empty(cls, prompts: Sequence[Sequence[int]], n_conditions: int, first: Sequence[int] | None = None) -> Scores:
        """Scores of the tokens of these prompts from ``first`` on (their second, where nothing is said), to be filled
        in."""
        first = [1] * len(prompts) if first is None else first
        if len(first) != len(prompts) or min(first, default=1) < 1:
            raise ValueError("first: expected a place from 1 on for every prompt")
        spans = [np.arange(start, len(row)) for start, row in zip(first, prompts, strict=True)]
        prompt = np.repeat(np.arange(len(spans)), [len(span) for span in spans])
        position = np.concatenate([np.zeros(0, np.int64), *spans])
        shape = (n_conditions, len(prompt))
        return cls(prompt, position, np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape))

    def put(self, members: Sequence[int], part: Scores) -> None:
        """Fill in the conditions ``members`` with the scores of these alone."""
        self.loss[members], self.entropy[members] = part.loss, part.entropy
        self.rank[members], self.top[members] = part.rank, part.top

    def fill(self, c: int, place: np.ndarray, log_probs: torch.Tensor, target: torch.Tensor) -> None:
        """Fill in the columns ``place`` [n] of condition c; log_probs [n, d_vocab], target [n]."""
        right = log_probs.gather(-1, target[:, None])
        self.loss[c, place] = -right[:, 0].double().cpu().numpy()
        self.entropy[c, place] = entropy(log_probs).double().cpu().numpy()
        self.rank[c, place] = ((log_probs >= right).sum(-1) - 1).cpu().numpy()
        self.top[c, place] = log_probs.amax(-1).double().cpu().numpy()

    def columns(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The columns of these prompts, one prompt after another."""
        start, stop = np.searchsorted(self.prompt, rows), np.searchsorted(self.prompt, rows, side="right")
        return np.concatenate([np.zeros(0, np.int64), *map(np.arange, start, stop)])


@dataclass(frozen=True)
class Reading:
    """A batch whose tokens are to be scored.

    Attributes:
        batch: what the model reads: every prompt but its last token, which predicts nothing.
        predicting: bool [batch, keep], which of the last ``keep`` positions of each row predict a token that is scored.
        target: int64 [n], these tokens, row by row.
    """

    batch: Batch
    predicting: torch.Tensor
    target: torch.Tensor

    @classmethod
    def of(
        cls, model: Model, prompts: Sequence[Sequence[int]], rows: np.ndarray, first: Sequence[int] | None
    ) -> Reading:
        """The prompts ``rows``, each scored from its token ``first`` on (:meth:`Scores.empty`)."""
        start = [1 if first is None else first[row] for row in rows]
        batch = model.pad([list(prompts[row][:-1]) or list(prompts[row]) for row in rows])
        counts = [len(prompts[row]) - begin for row, begin in zip(rows, start, strict=True)]
        keep = max(1, *counts)
        predicting = torch.zeros(len(rows), keep, dtype=torch.bool)
        for i, n in enumerate(counts):
            predicting[i, keep - max(n, 0) :] = True
        target = [token for row, begin in zip(rows, start, strict=True) for token in prompts[row][begin:]]
        device = batch.input_ids.device
        return cls(batch, predicting.to(device), torch.tensor(target, dtype=torch.long, device=device))

    @property
    def keep(self) -> int:
        """How many positions at the end of the batch hold all that predict."""
        return self.predicting.shape[1]

    def predict(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of values [batch, >= keep, ...] those at predicting positions [n, ...], and the targets, on their device."""
        return self.at(values), self.target.to(values.device)

    def at(self, values: torch.Tensor) -> torch.Tensor:
        """Of values [batch, >= keep, ...] those at predicting positions [n, ...]."""
        return values[:, values.shape[1] - self.keep :][self.predicting.to(values.device)]


class Engine(Protocol):
    """Runs the same prompts under many conditions; every implementation equals :class:`HookEngine`."""

    name: str
    model: Model
    batch_size: int

    def path(self, conditions: Sequence[Condition]) -> str:
        """Which implementation runs these conditions; a report says so."""
        ...

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
        first: Sequence[int] | None = None,
    ) -> Scores: ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        max_new_tokens: int,
        stop: frozenset[int] = frozenset(),
        choices: Sequence[Sequence[int]] | None = None,
        progress: Progress | None = None,
    ) -> Generations: ...


InPlace = Callable[[torch.Tensor], None]
"""Writes an edit into activations [batch, pos, d_mlp], heads' outputs [batch, pos, n_heads, d_head], or the residual
stream [batch, pos, d_model]."""


def writer(model: Model, edit: Edit, starts: Starts, part: tuple[int, int] = (0, 1), start: int = 0) -> InPlace:
    """A function that makes the edit in place and leaves everything else of its layer alone.

    Args:
        starts: where the rows of the running pass begin.
        part: (i, n), the function is called with the i-th of n equal parts of the running pass's rows.
        start: the edit acts from this token of each row on, counted from its first real token.
    """
    if site_of(edit) == "heads":
        check_heads(cast(HeadEdit, edit), model.anatomy.n_heads)
        return _from_token(start, HeadEditor(cast(HeadEdit, edit), starts, part), starts, part)
    where = slice(None) if site_of(edit) == "directions" else list(edit.indices)

    def write(activations: torch.Tensor) -> None:
        activations[..., where] = edit.apply(activations[..., where]).to(activations)

    return _from_token(start, write, starts, part)


def _from_token(start: int, write: InPlace, starts: Starts, part: tuple[int, int]) -> InPlace:
    """``write``, but what is before token ``start`` of each row stays as it was."""
    if start == 0:
        return write

    def late(activations: torch.Tensor) -> None:
        column = starts.column.view(part[1], -1)[part[0]].to(activations.device)
        token = torch.arange(activations.shape[1], device=activations.device) - column[:, None]
        before = activations.clone()
        write(activations)  # all of it: an edit may remember what it sees at the first token
        early = (token < start).view(*token.shape, *[1] * (activations.dim() - 2))
        activations.copy_(torch.where(early, before, activations))

    return late


def edit_site(
    model: Model, site: str, layer: int, change: Callable[[torch.Tensor], torch.Tensor]
) -> AbstractContextManager[None]:
    """Within the block, the layer's neurons, heads or residual stream are those that ``change`` makes of them."""
    sites = {"neurons": model.edit_neurons, "heads": model.edit_heads, "directions": model.edit_residual}
    return sites[site](layer, change)


@contextlib.contextmanager
def under(model: Model, condition: Condition) -> Iterator[None]:
    """Within the block, the model runs with the edits of ``condition``, which act from its start on.

    Heads may be edited in passes that continue a cache if the cache was begun within the block. What the condition
    freezes is left out: that takes a pass of the untouched model, too (:func:`passes`).
    """

    def copied(write: InPlace) -> Callable[[torch.Tensor], torch.Tensor]:
        def change(activations: torch.Tensor) -> torch.Tensor:
            edited = activations.clone()
            write(edited)
            return edited

        return change

    with contextlib.ExitStack() as stack:
        starts = stack.enter_context(watch_starts(model))
        for edit in condition.edits:
            change = copied(writer(model, edit, starts, start=condition.start))
            stack.enter_context(edit_site(model, site_of(edit), edit.layer, change))
        yield


Forward = Callable[..., Any]
"""``forward(batch, past, logits_to_keep, use_cache)`` as of :class:`harness.model.model.Model`; returns an object with
``logits`` and a cache (:func:`harness.model.key_values.cache_of`)."""


@contextlib.contextmanager
def passes(model: Model, condition: Condition) -> Iterator[Forward]:
    """Within the block, a function that makes forward passes under ``condition``, with what it freezes frozen."""
    if condition.frozen is not None:
        yield FrozenPasses(model, condition).forward
        return
    with under(model, condition):
        yield model.forward


@dataclass(frozen=True)
class _Passed:
    """What a frozen pass gives: logits [batch, pos, d_vocab] and the caches of both its passes."""

    logits: torch.Tensor
    cache: tuple[Any, Any]


class FrozenPasses:
    """Passes of the untouched and of the edited model over the same tokens, and the logits that follow from both."""

    def __init__(self, model: Model, condition: Condition) -> None:
        assert condition.frozen is not None
        self.model, self.condition, self.frozen = model, condition, condition.frozen
        self.direction: torch.Tensor | None = None
        if self.frozen.what == "unigram":
            v = unigram_direction(self.frozen.counts, model.anatomy.d_vocab, f'condition "{condition.name}"')
            self.direction = torch.from_numpy(v)

    def forward(self, batch: Batch, past: Any = None, logits_to_keep: int = 1, use_cache: bool = False) -> _Passed:
        """One pass of each model; the logits are the model's own but for what is frozen
        (:mod:`harness.conditions.frozen`)."""
        model, pasts = self.model, past or (None, None)
        with model.capture_residual() as before:
            untouched = model.forward(batch, pasts[0], logits_to_keep, use_cache)
        with under(model, self.condition), model.capture_residual() as after:
            edited = model.forward(batch, pasts[1], logits_to_keep, use_cache)
        if self.direction is not None:
            v = self.direction.to(edited.logits.device)
            logits = keep_component(edited.logits, untouched.logits, v)
        else:
            x0, x = (seen.residual[:, -logits_to_keep:] for seen in (before, after))  # 0: all of them
            logits = model.readout.logits(x, model.readout.denominator(x0))
        return _Passed(logits, (cache_of(untouched), cache_of(edited)))


def entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of distributions given as log-probabilities [..., d_vocab]; p log p is 0 where p is 0."""
    return torch.special.entr(log_probs.exp()).sum(-1)


def say(
    scores: Scores, c: int, place: np.ndarray, logits: torch.Tensor, reading: Reading, condition: Condition
) -> None:
    """Fill in the columns ``place`` of condition c; logits [batch, >= keep, d_vocab]."""
    predicting, target = reading.predict(logits)
    scores.fill(c, place, log_softmax(predicting, [condition]), target)


def log_softmax(logits: torch.Tensor, conditions: Sequence[Condition]) -> torch.Tensor:
    """Log-probabilities in float32; the rows of the logits are cut into equal parts, one for each condition.

    Raises:
        HarnessError: a logit is NaN or +inf, or all are -inf: there is no distribution to speak of.
    """
    result = torch.log_softmax(logits.float(), dim=-1)
    if torch.isnan(result).any():
        bad = next(c for c, part in zip(conditions, result.chunk(len(conditions)), strict=True) if part.isnan().any())
        raise HarnessError(f'the model\'s logits are not finite under condition "{bad.name}" (NaN or infinity).')
    return result


def asked_tokens(choices: Sequence[Sequence[int]] | None, n_prompts: int) -> np.ndarray:
    """``choices`` of generate, int64 [n_prompts, n_choices]; without them n_choices is 0."""
    return np.array(choices, dtype=np.int64) if choices else np.zeros((n_prompts, 0), np.int64)


def batches(prompts: Sequence[Sequence[int]], size: int) -> Iterator[np.ndarray]:
    """Indices of the prompts in batches of similar length (less padding), in a fixed order."""
    order = np.argsort([len(tokens) for tokens in prompts], kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]


class HookEngine:
    """One hooked forward pass for every condition."""

    name = "hooks"

    def __init__(self, model: Model, batch_size: int = 64) -> None:
        self.model = model
        self.batch_size = batch_size

    def path(self, conditions: Sequence[Condition]) -> str:
        return "hooks"

    @torch.no_grad()
    def score(
        self,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
        first: Sequence[int] | None = None,
    ) -> Scores:
        """Loss, entropy, rank and confidence of tokens under every condition.

        Args:
            first: for every prompt, the first token that is scored; by default its second, which is the first that is
                predicted. Of a long context with a short continuation, little but the latter is worth the work.
        """
        check_conditions(self.model, conditions)
        scores = Scores.empty(prompts, len(conditions), first)
        for c, condition in enumerate(conditions):
            for rows in batches(prompts, self.batch_size):
                reading = Reading.of(self.model, prompts, rows, first)
                with passes(self.model, condition) as forward:
                    logits = forward(reading.batch, logits_to_keep=reading.keep).logits
                say(scores, c, scores.columns(rows), logits, reading, condition)
                if progress:
                    progress(len(rows))
        return scores

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        max_new_tokens: int,
        stop: frozenset[int] = frozenset(),
        choices: Sequence[Sequence[int]] | None = None,
        progress: Progress | None = None,
    ) -> Generations:
        """Greedy continuations of up to ``max_new_tokens`` tokens, ties to the smaller token id.

        Args:
            stop: generation of a prompt ends with the first of these tokens (it is kept).
            choices: for every prompt, equally many token ids whose log-probability as first new token is wanted.
        """
        check_conditions(self.model, conditions)
        if max_new_tokens > 1:
            self.model.check_cache()
        asked = asked_tokens(choices, len(prompts))
        made = Generations.empty(len(conditions), len(prompts), max_new_tokens, asked.shape[1])
        for c, condition in enumerate(conditions):
            for rows in batches(prompts, self.batch_size):
                batch = self.model.pad([list(prompts[row]) for row in rows])
                with passes(self.model, condition) as forward:
                    new, log_probs = self.decode_greedily(forward, batch, [condition], max_new_tokens, stop)
                wanted = torch.as_tensor(asked[rows], device=log_probs.device)
                made.tokens[c, rows, : new.shape[1]] = new.cpu().numpy()
                made.entropy[c, rows] = entropy(log_probs).double().cpu().numpy()
                made.choices[c, rows] = log_probs.gather(-1, wanted).double().cpu().numpy()
                if progress:
                    progress(len(rows))
        return made

    def decode_greedily(
        self,
        forward: Forward,
        batch: Batch,
        conditions: Sequence[Condition],
        max_new_tokens: int,
        stop: frozenset[int],
        out: Any = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New tokens [batch, <= max_new_tokens] with -1 after a stop, and the first token's log-probabilities.

        Args:
            forward: makes the passes; the rows of the batch are equal parts, one for each condition.
            out: what the pass over the batch gave, if it was made.
        """
        ends = torch.tensor(sorted(stop), dtype=torch.long, device=batch.input_ids.device)
        done = torch.zeros(len(batch.input_ids), dtype=torch.bool, device=batch.input_ids.device)
        if out is None:
            out = forward(batch, logits_to_keep=1, use_cache=True)
        first = log_softmax(out.logits[:, -1], conditions)
        log_probs, new = first, []
        for step in range(max_new_tokens):
            token = log_probs.argmax(-1)
            new.append(torch.where(done, -1, token))
            done = done | torch.isin(token, ends)
            if done.all() or step + 1 == max_new_tokens:
                break
            batch = batch.extend(token[:, None])
            out = forward(batch, past=cache_of(out), logits_to_keep=1, use_cache=True)
            log_probs = log_softmax(out.logits[:, -1], conditions)
        return torch.stack(new, dim=1), first
