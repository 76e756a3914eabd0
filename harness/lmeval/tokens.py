"""lm-eval's Hugging Face model with the one setting of ours that says what every text begins with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from harness.model.tokens import put_first


class PrefixedLM(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """``hf`` that puts first what a :class:`harness.model.model.Model` puts first (``add_bos``), never twice.

    lm-eval's own ``add_bos_token`` only asks the tokeniser for its special tokens, of which many have none to put.

    Attributes:
        prefix: token ids that a text begins with; None: as the tokeniser does.
    """

    prefix: tuple[int, ...] | None = None

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **options: Any,
    ) -> list[int]:
        """Token ids of a text, its last ``left_truncate_len`` ones; ``add_special_tokens=False``: of the text alone."""
        if self.prefix is None:
            found: list[int] = super().tok_encode(string, add_special_tokens, left_truncate_len, **options)
            return found
        ids = list(self.tokenizer.encode(string, add_special_tokens=False))
        ids = ids if add_special_tokens is False else put_first(self.prefix, ids)
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def tok_batch_encode(
        self,
        strings: Sequence[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Padded token ids [batch, pos] and their mask."""
        if self.prefix is None:
            found: tuple[torch.Tensor, torch.Tensor] = super().tok_batch_encode(
                strings, padding_side, left_truncate_len, truncation
            )
            return found
        rows = [self.tok_encode(text) for text in strings]
        if truncation:  # as the tokeniser truncates: the beginning stays
            rows = [row[: self.tokenizer.model_max_length] for row in rows]
        padded = self.tokenizer.pad({"input_ids": rows}, padding_side=padding_side, return_tensors="pt")
        ids, mask = padded["input_ids"], padded["attention_mask"]
        if left_truncate_len:
            ids, mask = ids[:, -left_truncate_len:], mask[:, -left_truncate_len:]
        return ids, mask
