"""The logit lens: which tokens the residual stream says, and what each layer adds to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from ..analysis.last_position import mlp_writes
from ..analysis.log_probability_increase import Lens
from ..analysis.promoted_tokens import top_tokens
from .reading import Sentence

TOKENS = 5


@torch.no_grad()
def prediction(sentence: Sentence, top: int) -> pd.DataFrame:
    """The model's own most likely next tokens: ``token``, ``log_p`` (nats) and ``probability``."""
    log_p = _held(sentence, sentence.states.after[-1])[0]
    values, tokens = log_p.topk(min(top, len(log_p)))
    texts = sentence.model.token_texts
    return pd.DataFrame(
        {
            "token": [texts[i] for i in tokens.tolist()],
            "log_p": values.cpu().numpy(),
            "probability": values.exp().cpu().numpy(),
        }
    )


@torch.no_grad()
def standing(sentence: Sentence) -> tuple[float, int]:
    """The target's log-probability (nats) and its rank among all tokens, 1 for the most likely."""
    log_p = _held(sentence, sentence.states.after[-1])[0]
    own = log_p[sentence.target]
    return float(own), int((log_p > own).sum()) + 1


@torch.no_grad()
def by_layer(sentence: Sentence) -> pd.DataFrame:
    """By ``layer``, at the last position: ``log_p`` of the target in the residual stream that enters it, read with the
    final norm's denominator held; and the tokens that the stream ``says``, and that its ``attention`` and ``mlp``
    promote.

    With the increases of the layers, the first ``log_p`` leads to the model's own.
    """
    model, states, texts = sentence.model, sentence.states, sentence.model.token_texts
    rows: list[dict[str, Any]] = []
    for layer in sentence.layers:
        before, between = states.before[layer], mlp_writes(model, states, layer).residual
        attention, mlp = top_tokens(model, torch.cat([between - before, states.after[layer] - between]), TOKENS)
        said = _read(sentence, before)[0].topk(TOKENS).indices.tolist()
        log_p = float(_held(sentence, before)[0, sentence.target])
        promoted = {"attention": attention["promoted"], "mlp": mlp["promoted"]}
        rows.append({"layer": layer, "log_p": log_p, "says": [texts[i] for i in said], **promoted})
    return pd.DataFrame(rows)


@torch.no_grad()
def by_position(sentence: Sentence) -> pd.DataFrame:
    """What the residual stream that enters each layer says at every position, each read with its own norm: ``layer``,
    ``position``, the most likely ``token``, its ``probability``, and the target's (``target``)."""
    texts, parts = sentence.model.token_texts, []
    for layer in sentence.layers:
        p = _read(sentence, sentence.into(layer)).exp()
        best, tokens = p.max(-1)
        parts.append(
            pd.DataFrame(
                {
                    "layer": layer,
                    "position": np.arange(len(p)),
                    "token": [texts[i] for i in tokens.tolist()],
                    "probability": best.cpu().numpy(),
                    "target": p[:, sentence.target].cpu().numpy(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _read(sentence: Sentence, x: torch.Tensor) -> torch.Tensor:
    """log F of residual streams [n, d_model], each with its own denominator: [n, d_vocab]."""
    lens = Lens(sentence.model)
    scale = lens.scale(sentence.model.readout.denominator(x)[:, 0])
    return lens.logits(lens.project(x), scale).log_softmax(-1)


def _held(sentence: Sentence, x: torch.Tensor) -> torch.Tensor:
    """The same with the final norm's denominator at the last position."""
    lens = Lens(sentence.model)
    return lens.logits(lens.project(x), lens.scale(sentence.states.denominator).expand(len(x))).log_softmax(-1)
