"""What is observed of the answers: their sources, and the distribution of their first token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.model import decode
from harness.plugin import Condition, Outcomes, Prompt

from .answer_sources import CK, MATCHINGS, PK, SOURCES, cut, sources

if TYPE_CHECKING:
    from harness.engine import Generations
    from harness.plugin import Model

LOG_FLOOR = -16.6
"""log 2^-24: probabilities below the resolution of float32 are not told apart."""

NOTE = (
    "confidence is the probability of the answer's first token, which is right where it begins the true object; an "
    "answer from a context that contradicts it is wrong. Facts of which the model's memory is wrong do not count, nor "
    "do objects that begin with one token"
)
"""What calibration is about here."""

CODE_TOKENS = "code_tokens"
"""Field of prompts: the tokens that the authors' code takes for the objects' first ones, context's and memory's."""


def asked_tokens(prompt: Prompt) -> list[int]:
    """Tokens whose probability is observed: the objects' first ones, and those of the authors' code if it is asked."""
    return [*prompt.fields["first_tokens"], *prompt.fields.get(CODE_TOKENS, ())]


def code_token(model: Model, token: int) -> int:
    """What the authors' code takes for an object's first token: it decodes the true one and encodes the text again with
    another space in front. The first token of that is one of spaces with most tokenisers, or what they put first."""
    again: list[int] = model.tokenizer.encode(" " + model.tokenizer.decode([token]))
    return again[0]


def observed(
    model: Model, made: Generations, prompts: Sequence[Prompt], conditions: Sequence[Condition], until: Sequence[str]
) -> Outcomes:
    """What continuations say, whose ``choices`` are :func:`asked_tokens`.

    Values: ``source``, ``source_normalised`` and ``source_alias`` (codes of SOURCES), ``entropy`` (nats), ``log_p_ck``,
    ``log_p_pk`` (the counter and the parametric object's first token) and ``log_p_nd`` (everything else together), all
    of the first answer token; ``log_odds`` of CK and PK (NaN where they begin with one token), and what
    :class:`harness.builtin.temperature.Temperature` puts beside it; ``confidence`` in the first token that is said,
    whether that is ``right``, and ``tokens``: whether this counts (NOTE); ``activations`` of each condition's neurons
    in the untouched model, there [n_conditions, n_prompts, k].
    """
    told = sum(condition.shown for condition in conditions)
    answers, source = _answers(model, made.tokens, prompts, until, told)
    choices = made.choices[..., :2]
    same = np.array([len(set(prompt.fields["first_tokens"])) == 1 for prompt in prompts])
    rest = 1 - np.exp(choices[..., 0]) - np.where(same, 0.0, np.exp(choices[..., 1]))
    before, equal = made.equal_entropy(conditions)
    odds, tempered = (
        np.where(same, np.nan, np.subtract(*np.moveaxis(np.maximum(x, LOG_FLOOR), -1, 0)))
        for x in (choices, np.moveaxis(equal.log_p(choices[before].T), 0, -1))
    )
    judged = np.array([_judged(prompt) for prompt in prompts])
    confidence, at_equal = (
        np.where(judged, np.exp(np.minimum(x, 0.0)), 0.0).astype(np.float32)
        for x in (made.top, equal.log_p(made.top[before]))
    )
    memory = np.array([prompt.fields["first_tokens"][1] for prompt in prompts])
    if made.choices.shape[-1] > 2:
        choices = _as_in_the_code(made.choices[..., 2:], made.top, source["source"])
    log_p = np.maximum(choices, LOG_FLOOR)
    return Outcomes(
        conditions=tuple(conditions),
        prompts=tuple(prompts),
        values={
            **source,
            "entropy": made.entropy.astype(np.float32),
            "log_p_ck": log_p[..., CK].astype(np.float32),
            "log_p_pk": log_p[..., PK].astype(np.float32),
            "log_p_nd": np.log(np.maximum(rest, np.exp(LOG_FLOOR))).astype(np.float32),
            "log_odds": odds.astype(np.float32),
            "tempered_log_odds": tempered.astype(np.float32),
            "log_temperature": equal.log_temperature.astype(np.float32),
            "no_temperature": equal.outside,
            "tokens": np.broadcast_to(judged, confidence.shape),
            "confidence": confidence,
            "right": (made.tokens[..., 0] == memory) & judged,
            "tempered_confidence": at_equal,
            **({} if made.watched is None else {"activations": made.watched.by_condition(conditions)}),
        },
        details={
            "tempered": [{"outcome": "log_odds", "title": "log(P_CK/P_PK)", "unit": "nats"}],
            "calibrated": {"word": "answer", "note": NOTE},
        },
        answers=answers,
        categories=dict.fromkeys(source, SOURCES),
    )


def _as_in_the_code(log_p: np.ndarray, top: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Log-probabilities [C, N, 2] of context and memory as the authors' code takes them.

    Args:
        log_p: [C, N, 2], of :func:`code_token`. top: [C, N], of the most likely token, which is taken for the source
            that the answer comes from. source: [C, N], which that is.
    """
    return np.where(source[..., None] == np.array([CK, PK]), top[..., None], log_p)


def _judged(prompt: Prompt) -> bool:
    """Whether the answer's first token tells a right answer: memory is right, and the context's object begins otherwise
    (or is the same)."""
    fields = prompt.fields
    apart = len(set(fields["first_tokens"])) == 2 or fields["counter_object"] == fields["parametric_object"]
    return bool(fields["right"]) and apart


def _answers(
    model: Model, tokens: np.ndarray, prompts: Sequence[Prompt], until: Sequence[str], n_told: int
) -> tuple[tuple[tuple[str, ...], ...], dict[str, np.ndarray]]:
    """Answers of the first ``n_told`` conditions, and codes of the sources of all, by each way to match: [C, N] each.

    Most conditions say of a prompt what the first does: each other row of tokens [C, N, length] is decoded once.
    """
    source = {name: np.empty(tokens.shape[:2], np.int8) for name in MATCHINGS.values()}
    answers: list[list[str]] = [[] for _ in range(n_told)]
    others = (tokens != tokens[:1]).any(-1)
    for i, prompt in enumerate(prompts):
        distinct, which = tokens[:1, i], others[:, i].astype(np.int64)
        if which.any():  # sorting rows is slow
            rows, which[others[:, i]] = np.unique(tokens[others[:, i], i], axis=0, return_inverse=True)
            which[others[:, i]] += 1
            distinct = np.concatenate([distinct, rows])
        texts = [cut(text, until) for text in decode(model, distinct)]
        names = [
            prompt.fields[name]
            for name in ("counter_object", "parametric_object", "counter_aliases", "parametric_aliases")
        ]
        codes = np.array([sources(text, *names) for text in texts], np.int8)
        for array, column in zip(source.values(), codes.T, strict=True):
            array[:, i] = column[which]
        for row, answer in zip(answers, which[:n_told], strict=True):
            row.append(texts[answer])
    return tuple(map(tuple, answers)), source
