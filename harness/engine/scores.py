"""Tokens that are there: where a model predicts them, and what it says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64

from harness.conditions.positions import Layout
from harness.engine.tempering import Tempered
from harness.errors import HarnessError

if TYPE_CHECKING:
    import pandas as pd

    from harness.conditions.conditions import Condition
    from harness.conditions.positions import Span
    from harness.model.model import Batch, Model


@dataclass(frozen=True)
class Scores:
    """What the model says of the tokens that are there, one column per predicted token.

    Attributes:
        conditions: their names.
        prompt, position: int64 [n_tokens], which prompt and which of its tokens (token 0 is not predicted).
        token: int64 [n_tokens], its id.
        loss: float64 [n_conditions, n_tokens], -log p of the token, nats.
        entropy: float64 [n_conditions, n_tokens], nats, of the distribution that predicts the token.
        rank: int64 [n_conditions, n_tokens], 0 when the token is the most likely one (ties count against it).
        top: float64 [n_conditions, n_tokens], log-probability of the most likely token: the model's confidence.
        tempered: the untouched model's distribution of each token at every temperature; None unless asked for.
    """

    conditions: tuple[str, ...]
    prompt: Int64[np.ndarray, " n_tokens"]
    position: Int64[np.ndarray, " n_tokens"]
    token: Int64[np.ndarray, " n_tokens"]
    loss: Float64[np.ndarray, "n_conditions n_tokens"]
    entropy: Float64[np.ndarray, "n_conditions n_tokens"]
    rank: Int64[np.ndarray, "n_conditions n_tokens"]
    top: Float64[np.ndarray, "n_conditions n_tokens"]
    tempered: Tempered | None = None

    @classmethod
    def empty(
        cls,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        first: Sequence[int] | None = None,
        tempered: bool = False,
    ) -> Scores:
        """Scores of the tokens of these prompts from ``first`` on (their second, where nothing is said), to be filled
        in."""
        first = [1] * len(prompts) if first is None else first
        if len(first) != len(prompts) or min(first, default=1) < 1:
            raise ValueError("first: expected a place from 1 on for every prompt")
        spans = [np.arange(start, len(row)) for start, row in zip(first, prompts, strict=True)]
        prompt = np.repeat(np.arange(len(spans)), [len(span) for span in spans])
        position = np.concatenate([np.zeros(0, np.int64), *spans])
        token = np.array([x for row, start in zip(prompts, first, strict=True) for x in row[start:]], np.int64)
        shape = (len(conditions), len(prompt))
        return cls(
            conditions=tuple(condition.name for condition in conditions),
            prompt=prompt,
            position=position,
            token=token,
            loss=np.zeros(shape),
            entropy=np.zeros(shape),
            rank=np.zeros(shape, np.int64),
            top=np.zeros(shape),
            tempered=Tempered.empty(len(prompt)) if tempered else None,
        )

    def put(self, conditions: Sequence[int], columns: np.ndarray, said: TokenScores) -> None:
        """Fill in what these conditions say of the tokens in these columns."""
        place = np.asarray(conditions, np.int64)[:, None], columns
        self.loss[place] = said.loss.double().cpu().numpy()
        self.entropy[place] = said.entropy.double().cpu().numpy()
        self.rank[place] = said.rank.cpu().numpy()
        self.top[place] = said.top.double().cpu().numpy()
        if self.tempered is not None and said.tempered is not None:
            self.tempered.put(columns, said.tempered)

    def str_tokens(self, model: Model) -> list[str]:
        """The text of every token [n_tokens], as it reads after other text."""
        return [model.token_texts[token] for token in self.token]

    def to_frame(self, model: Model | None = None) -> pd.DataFrame:
        """A row a condition and token: ``condition``, ``prompt``, ``position``, ``token``, ``loss``, ``entropy``,
        ``rank``, ``top``.

        Args:
            model: whose tokens they are, for their texts; ids without it.
        """
        import pandas as pd

        n, token = len(self.conditions), self.token.tolist() if model is None else self.str_tokens(model)
        names = [name for name in self.conditions for _ in token]
        columns = {
            "condition": pd.Series(names, dtype="string"),
            "prompt": np.tile(self.prompt, n),
            "position": np.tile(self.position, n),
            "token": pd.Series(token * n, dtype="int64" if model is None else "string"),
        }
        return pd.DataFrame(
            columns | {name: getattr(self, name).ravel() for name in ("loss", "entropy", "rank", "top")}
        )

    def columns(self, rows: Sequence[int] | np.ndarray) -> Int64[np.ndarray, " n_columns"]:
        """The columns of these prompts, one prompt after another."""
        start, stop = np.searchsorted(self.prompt, rows), np.searchsorted(self.prompt, rows, side="right")
        return np.concatenate([np.zeros(0, np.int64), *map(np.arange, start, stop)])


@dataclass(frozen=True)
class TokenScores:
    """What some conditions say of the tokens of one batch, [n_conditions, n_tokens] each; see :class:`Scores`."""

    loss: Float[torch.Tensor, "n_conditions n_tokens"]
    entropy: Float[torch.Tensor, "n_conditions n_tokens"]
    rank: Int64[torch.Tensor, "n_conditions n_tokens"]
    top: Float[torch.Tensor, "n_conditions n_tokens"]
    tempered: Tempered | None = None

    @classmethod
    def of(
        cls, log_probs: Float[torch.Tensor, "n_conditions n_tokens d_vocab"], target: Int64[torch.Tensor, " n_tokens"]
    ) -> TokenScores:
        """From log-probabilities [n_conditions, n_tokens, d_vocab] of everything; target [n_tokens]."""
        right = log_probs.gather(-1, target.expand(len(log_probs), -1)[..., None])
        rank = (log_probs >= right).sum(-1) - 1
        return cls(-right[..., 0], entropy(log_probs), rank, log_probs.amax(-1))


@dataclass(frozen=True)
class ScoreRequest:
    """A batch whose tokens are to be scored.

    Attributes:
        batch: what the model reads: every prompt but its last token, which predicts nothing.
        layout: where the tokens of the prompts are.
        predicting: bool [batch, keep], which of the last ``keep`` positions of each row predict a token that is scored.
        target: int64 [n], these tokens, row by row.
        tempered: whether the untouched model is wanted at every temperature.
    """

    batch: Batch
    layout: Layout
    predicting: Bool[torch.Tensor, "batch keep"]
    target: Int64[torch.Tensor, " n"]
    tempered: bool = False

    @classmethod
    def of(
        cls,
        model: Model,
        prompts: Sequence[Sequence[int]],
        rows: np.ndarray,
        first: Sequence[int] | None,
        tempered: bool = False,
        spans: Sequence[Mapping[str, Span]] | None = None,
    ) -> ScoreRequest:
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
        # What is scored from a token on stands where generated tokens would; a text that is scored whole is a prompt.
        layout = Layout.of([len(prompts[row]) if first is None else first[row] for row in rows], spans)
        right = torch.tensor(target, dtype=torch.long, device=device)
        return cls(batch, layout, predicting.to(device), right, tempered)

    @property
    def keep(self) -> int:
        """How many positions at the end of the batch hold all that predict."""
        return self.predicting.shape[1]

    def scores(self, logits: torch.Tensor, condition: Condition) -> TokenScores:
        """What one condition says; logits [batch, >= keep, d_vocab]."""
        predicting = self.at(logits)
        log_probs = log_softmax(predicting, [condition])
        found = TokenScores.of(log_probs[None], self.target.to(predicting.device))
        if not (self.tempered and condition.untouched):
            return found
        return replace(found, tempered=Tempered.of(log_probs))

    def at(self, values: torch.Tensor) -> torch.Tensor:
        """Of values [batch, >= keep, ...] those at predicting positions [n, ...]."""
        return values[:, values.shape[1] - self.keep :][self.predicting.to(values.device)]


def entropy(log_probs: Float[torch.Tensor, "*place d_vocab"]) -> Float[torch.Tensor, " *place"]:
    """Entropy in nats of distributions given as log-probabilities [..., d_vocab]; p log p is 0 where p is 0."""
    found: torch.Tensor = torch.special.entr(log_probs.exp()).sum(-1)
    return found


def log_softmax(
    logits: Float[torch.Tensor, "rows d_vocab"], conditions: Sequence[Condition]
) -> Float32[torch.Tensor, "rows d_vocab"]:
    """Log-probabilities in float32; the rows of the logits are cut into equal parts, one for each condition.

    Raises:
        HarnessError: a logit is NaN or +inf, or all are -inf: there is no distribution to speak of.
    """
    result = torch.log_softmax(logits.float(), dim=-1)
    if torch.isnan(result).any():
        bad = next(c for c, part in zip(conditions, result.chunk(len(conditions)), strict=True) if part.isnan().any())
        raise HarnessError(f'the model\'s logits are not finite under condition "{bad.name}" (NaN or infinity).')
    return result
