"""One continuation under one condition: greedy or sampled, with its log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from harness.conditions.positions import Layout
from harness.engine.hooks import passes
from harness.model.key_values import cache_of

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.model.model import Model


@dataclass(frozen=True)
class Drawing:
    """How the next token is taken.

    Attributes:
        temperature: of the distribution that tokens are drawn from; None or 0: the most likely token, ties to the
            smaller id.
        top_k, top_p: draw among so many of the likeliest tokens, or among those that make up this probability.
        seed: of the draws.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def take(self, log_p: torch.Tensor, generator: torch.Generator) -> int:
        """A token, from log-probabilities [d_vocab] on the CPU."""
        if not self.temperature:
            return int(log_p.argmax())
        p, ids = (log_p.double() / self.temperature).softmax(-1).sort(descending=True, stable=True)
        if self.top_k is not None:
            p[self.top_k :] = 0
        if self.top_p is not None:
            p[p.cumsum(0) - p >= self.top_p * p.sum()] = 0  # the likeliest stays
        return int(ids[torch.multinomial(p, 1, generator=generator)])


@dataclass
class Continued:
    """A continuation.

    Attributes:
        tokens: ids, without the one that ended it. text: what they say, cut before a stop sequence.
        log_p: of each token, its own log-probability and the likeliest tokens' (ids and log-probabilities), nats, of
            the model's own distribution whatever the temperature.
        prompt_log_p: of each token of the prompt but the first, where it was asked for.
        reason: why it ended: a token or text that ends it, the number of tokens, the model's longest sequence.
    """

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    log_p: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)
    prompt_log_p: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)
    reason: Literal["stop", "max_tokens", "model_length"] = "max_tokens"


@torch.no_grad()
def continued(
    model: Model,
    condition: Condition,
    prompt: Sequence[int],
    drawing: Drawing,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    top: int = 0,
    of_prompt: bool = False,
) -> Continued:
    """What the model goes on with after a prompt, under a condition.

    Args:
        prompt: token ids. stop: the text ends before the first of these.
        top: how many of the likeliest tokens are told at each place.
        of_prompt: whether the prompt's own tokens are told, too.
    """
    found, generator = Continued(), torch.Generator().manual_seed(drawing.seed)
    most = max_new_tokens if model.n_positions is None else min(max_new_tokens, model.n_positions - len(prompt))
    for token, log_p, before in _steps(model, condition, prompt, drawing, generator, most, of_prompt):
        if before is not None:
            found.prompt_log_p = [_told(row, x, top) for row, x in zip(before, prompt[1:], strict=True)]
        if token in model.end_tokens:
            found.reason = "stop"
            break
        found.tokens.append(token)
        found.log_p.append(_told(log_p, token, top))
        found.text = model.tokenizer.decode(found.tokens, skip_special_tokens=True)
        if ends := [place for x in stop if (place := found.text.find(x)) >= 0]:
            found.text, found.reason = found.text[: min(ends)], "stop"
            break
    else:
        found.reason = "max_tokens" if most == max_new_tokens else "model_length"
    return found


def _steps(
    model: Model,
    condition: Condition,
    prompt: Sequence[int],
    drawing: Drawing,
    generator: torch.Generator,
    most: int,
    of_prompt: bool,
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor | None]]:
    """Each new token, the distribution it is from as log-probabilities [d_vocab], and first those of the prompt."""
    batch, out = model.pad([prompt]), None
    with passes(model, condition, Layout.of([len(prompt)])) as forward:
        for _ in range(most):
            past = None if out is None else cache_of(out)
            keep = 0 if of_prompt and out is None else 1
            out = forward(batch, past=past, logits_to_keep=keep, use_cache=True)
            every = out.logits[0].float().log_softmax(-1).cpu()
            token = drawing.take(every[-1], generator)
            yield token, every[-1], every[:-1] if keep == 0 else None
            batch = batch.extend(torch.tensor([[token]], device=batch.input_ids.device))


def _told(log_p: torch.Tensor, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    best = log_p.topk(top)
    return float(log_p[token]), list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
