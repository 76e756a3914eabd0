"""How well a dictionary fits a model: sparsity, unexplained variance, and what its reconstruction costs the model.

    L0       mean number of latents that are not 0 at a token
    FVU      sum |y - y_hat|^2 / sum |y - mean(y)|^2 over tokens, y what is written and y_hat its reconstruction
    loss     mean cross-entropy of the next token: of the untouched model, with y_hat for y, with 0 for y
    recovered  (loss with 0 - loss with y_hat) / (loss with 0 - loss): 1 where nothing is lost

A sequence's first token is left as it is and is not counted: there, attention sinks give activations unlike all others,
which dictionaries are mostly not trained on. Explained variance is 1 - FVU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from harness.plugin import HarnessError

if TYPE_CHECKING:
    from harness.plugin import Batch, Model

    from .dictionary import Dictionary

LOGIT_BYTES = 2**28
"""Memory for the logits of one pass."""


@dataclass(frozen=True)
class Quality:
    """Of a dictionary on some sequences; nats.

    Attributes:
        tokens: that count. density: share of them at which each latent is active, float64 [d_sae]. dead: how many
            latents are active at none of them. l0, fvu, loss, loss_spliced, loss_zeroed, recovered: as above.
    """

    tokens: int
    l0: float
    fvu: float
    loss: float
    loss_spliced: float
    loss_zeroed: float
    dead: int
    density: np.ndarray

    @property
    def recovered(self) -> float:
        return (self.loss_zeroed - self.loss_spliced) / (self.loss_zeroed - self.loss)

    def about(self) -> dict[str, Any]:
        """What records say of it; JSON values only."""
        numbers = {key: value for key, value in asdict(self).items() if key != "density"}
        return numbers | {"recovered": self.recovered}


@torch.no_grad()
def quality(
    model: Model,
    dictionary: Dictionary,
    sequences: Sequence[Sequence[int]],
    batch_size: int,
    advance: Callable[[int], None] = lambda n: None,
) -> Quality:
    """Measure a dictionary on token ids; ``advance`` is told of len(sequences) steps in all.

    Raises:
        HarnessError: no sequence has three tokens, or activations are not finite.
    """
    usable = [tokens for tokens in sequences if len(tokens) > 2]
    if not usable:
        raise HarnessError("a dictionary's quality takes sequences of three tokens or more.")
    sums = _Sums(dictionary)
    losses = np.zeros(3)
    for rows in _batches(usable, batch_size, model.anatomy.d_vocab):
        batch = model.pad(rows)
        counts = _counting(batch)
        losses += _losses(model, dictionary, batch, counts, sums)
        advance(len(rows))
    return sums.quality(losses / sums.n_predictions)


class _Sums:
    """What is added up over the tokens of all batches, in float64."""

    def __init__(self, dictionary: Dictionary) -> None:
        cfg = dictionary.configuration
        self.dictionary = dictionary
        self.n, self.n_predictions, self.error = 0, 0, 0.0
        self.total, self.square = np.zeros(cfg.d_out), np.zeros(cfg.d_out)
        self.active = np.zeros(cfg.d_sae)

    def add(self, read: torch.Tensor, written: torch.Tensor) -> None:
        """Take in what is read [n, d_in] and written [n, d_out] at some tokens."""
        z = self.dictionary.encode(read)
        y = self.dictionary.seen(written, self.dictionary.configuration.writes).double()
        if not torch.isfinite(y).all():
            raise HarnessError("a dictionary's quality: activations are not finite (NaN or infinity in the model).")
        self.n += len(y)
        self.error += float((y - self.dictionary.decode(z, read)).square().sum())
        self.total += y.sum(0).cpu().numpy()
        self.square += y.square().sum(0).cpu().numpy()
        self.active += (z != 0).sum(0).cpu().numpy()

    def quality(self, losses: np.ndarray) -> Quality:
        variance = float((self.square - self.total**2 / self.n).sum())
        loss, spliced, zeroed = (float(x) for x in losses)
        return Quality(
            tokens=self.n,
            l0=float(self.active.sum() / self.n),
            fvu=self.error / variance,
            loss=loss,
            loss_spliced=spliced,
            loss_zeroed=zeroed,
            dead=int((self.active == 0).sum()),
            density=self.active / self.n,
        )


def _losses(model: Model, dictionary: Dictionary, batch: Batch, counts: torch.Tensor, sums: _Sums) -> np.ndarray:
    """Summed cross-entropies of a batch, untouched, with the reconstruction, and with 0; [3]."""
    cfg, found = dictionary.configuration, []
    here = counts[..., None]
    with model.capture_place(cfg.reads, cfg.layer) as read, model.capture_place(cfg.writes, cfg.layer) as written:
        found.append(_cross_entropy(model, batch, counts))
    sums.add(read[cfg.layer][counts], written[cfg.layer][counts])
    sums.n_predictions += int((counts[:, :-1]).sum())
    original = read[cfg.layer]
    new = dictionary.decode(dictionary.encode(original), original)
    for instead in (new, torch.zeros_like(new)):
        with model.edit_place(cfg.writes, cfg.layer, _put(instead, here)):
            found.append(_cross_entropy(model, batch, counts))
    return np.array(found)


def _put(new: torch.Tensor, here: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """An edit that puts ``new`` [batch, pos, d_out] in place of what is there, where ``here`` [batch, pos, 1]."""
    return lambda x: torch.where(here, new.to(x), x)


def _cross_entropy(model: Model, batch: Batch, counts: torch.Tensor) -> float:
    """Summed over the predictions that are made where ``counts`` [batch, pos]."""
    made = counts[:, :-1]
    logits = model.forward(batch, logits_to_keep=0).logits[:, :-1][made]
    return float(F.cross_entropy(logits.float(), batch.input_ids[:, 1:][made], reduction="none").double().sum())


def _counting(batch: Batch) -> torch.Tensor:
    """Whether tokens [batch, pos] count: real ones but for the first of each row."""
    return batch.attention_mask.bool() & (batch.position_ids > 0)


def _batches(sequences: Sequence[Sequence[int]], batch_size: int, d_vocab: int) -> list[list[Sequence[int]]]:
    """Sequences of like lengths together, so few that their logits fit into ``LOGIT_BYTES``."""
    ordered = sorted(sequences, key=len)
    rows = max(1, min(batch_size, LOGIT_BYTES // (4 * len(ordered[-1]) * d_vocab)))
    return [list(ordered[start : start + rows]) for start in range(0, len(ordered), rows)]
