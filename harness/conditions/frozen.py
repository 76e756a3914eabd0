"""What stays as in the untouched model while neurons of the last layer are edited: direct effects (Stolfo et al. 2024).

    final_norm    the final norm divides the edited residual by the untouched residual's denominator     (DE_LN)
    unigram       l~ = l + ((l0 - l) . v) v / |v|^2      v = log p_freq - mean(log p_freq)                (DE_freq)

l and l0 are the edited and the untouched model's final logits, after scale and soft cap. "Untouched" means the
untouched model on the same tokens: in generation, on the tokens that the condition itself has chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.conditions.conditions import site_of
from harness.errors import HarnessError, suggest
from harness.files.wording import counted
from harness.model.readout import BLOCK_ROWS

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.model.model import Model
    from harness.model.readout import Readout

KINDS = {"final_norm": "the final norm", "unigram": "the unigram component"}
"""What can be frozen, and how messages call it."""


def check_conditions(model: Model, conditions: Sequence[Condition]) -> None:
    """Refuse frozen parts that mean nothing.

    Raises:
        HarnessError: an unknown kind of freezing, edits of anything but what the last layer writes (its neurons) where
            something is frozen, or no distribution to freeze the logits along.
    """
    last, d_vocab = model.anatomy.n_layers - 1, model.anatomy.d_vocab
    fine: set[int] = set()  # conditions mostly share one distribution
    for condition in conditions:
        if condition.frozen is None:
            continue
        what = condition.frozen.what
        if what not in KINDS:
            raise HarnessError(
                f'condition "{condition.name}" freezes "{what}", expected one of {", ".join(KINDS)}.'
                f"{suggest(str(what), KINDS)}"
            )
        for edit in condition.edits:
            if site_of(edit).enters is None or edit.layer != last:
                raise HarnessError(
                    f'condition "{condition.name}" freezes {KINDS[what]} and edits {site_of(edit).name} of layer '
                    f"{edit.layer}: only edits of what the last layer ({last}) writes, such as its neurons, can be "
                    "frozen."
                )
        if what == "unigram" and id(condition.frozen.counts) not in fine:
            unigram_direction(condition.frozen.counts, d_vocab, f'condition "{condition.name}"')
            fine.add(id(condition.frozen.counts))


def unigram_probabilities(counts: np.ndarray | None, d_vocab: int, source: str) -> np.ndarray:
    """p_freq, float64 [d_vocab], from counts or probabilities.

    Raises:
        HarnessError: names ``source``: not one positive finite number a token.
    """
    found = np.asarray(np.nan if counts is None else counts, dtype=np.float64)
    if found.shape != (d_vocab,) or not (np.isfinite(found) & (found > 0)).all():
        raise HarnessError(
            f"{source}: the unigram distribution needs {counted(d_vocab, 'positive count')}, one a token "
            "(add 1 where a token was not seen)."
        )
    made: np.ndarray = found / found.sum()
    return made


def unigram_direction(counts: np.ndarray | None, d_vocab: int, source: str) -> np.ndarray:
    """v = log p_freq - mean(log p_freq), float64 [d_vocab].

    Raises:
        HarnessError: as :func:`unigram_probabilities`; all tokens are as frequent, so there is no direction.
    """
    p = unigram_probabilities(counts, d_vocab, source)
    if p.min() == p.max():
        raise HarnessError(f"{source}: in the unigram distribution all tokens are as frequent, nothing can be frozen.")
    log_p = np.log(p)
    direction: np.ndarray = log_p - log_p.mean()
    return direction


def keep_component(logits: torch.Tensor, untouched: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The logits with the untouched ones' component along ``v``, float32 [batch, pos, d_vocab].

    Args:
        logits, untouched: [batch, pos, d_vocab]. v: float64 [d_vocab].
    """
    kept = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    for row, (mine, theirs) in enumerate(zip(logits, untouched, strict=True)):  # all rows in float64 would be much
        back = (theirs.double() - mine.double()) @ v / (v @ v)
        kept[row] = (mine.double() + back[:, None] * v).float()
    return kept


class Directions:
    """The directions along which conditions freeze the logits: n distinct ones, mostly none or one.

    Attributes (float64):
        v: [n, d_vocab]. back: [n, d_model], W^T v.
    """

    def __init__(self, readout: Readout, conditions: Sequence[Condition]) -> None:
        W_U, n_tokens = readout.W_U, len(readout.W_U)
        found: dict[int, np.ndarray] = {}
        for condition in conditions:
            frozen = condition.frozen
            if frozen is not None and frozen.what == "unigram" and id(frozen.counts) not in found:
                name = f'condition "{condition.name}"'
                found[id(frozen.counts)] = unigram_direction(frozen.counts, n_tokens, name)
        self._row = {key: row for row, key in enumerate(found)}
        self.v = torch.from_numpy(np.array([*found.values()]).reshape(-1, n_tokens)).to(W_U.device)
        self.back = torch.zeros(len(found), W_U.shape[1], dtype=torch.float64, device=W_U.device)
        if found:
            for start in range(0, n_tokens, BLOCK_ROWS):
                here = slice(start, start + BLOCK_ROWS)
                self.back += self.v[:, here] @ W_U[here].double()
            self.back *= readout.gain.double()

    def rows(self, conditions: Sequence[Condition]) -> torch.Tensor:
        """Row of each condition's direction, int64 [C]; -1 where it has none."""
        frozen = (condition.frozen for condition in conditions)
        rows = [self._row[id(f.counts)] if f is not None and f.what == "unigram" else -1 for f in frozen]
        return torch.tensor(rows, dtype=torch.long, device=self.v.device)
