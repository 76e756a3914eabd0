"""Targets and units of a sentence by the names that people give them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.plugin import HarnessError, Head, Model, Neuron, counted

from .reading import Sentence

_ATTENTION_NEURON = re.compile(r"L(\d+)H(\d+)\.(\d+)(?:@(\d+))?")


@dataclass(frozen=True)
class AttentionPlace:
    """A coordinate of a head, at a source position or (None) at that of its largest increase."""

    layer: int
    head: int
    coordinate: int
    position: int | None


def target_token(model: Model, sentence: str, target: str | int) -> int:
    """The token that a target names: an id, or a text that is exactly one token after the sentence.

    Raises:
        HarnessError: there is no such id, or the text is no token or several; says which the first is.
    """
    texts = model.token_texts
    if isinstance(target, int):
        if not 0 <= target < len(texts):
            raise HarnessError(f"target: expected a token from 0 to {len(texts) - 1} of {model.name}, got {target}.")
        return target
    if not target:
        raise HarnessError('target: the text is empty; give a token, for example " Paris".')
    before, after = model.encode([sentence, sentence + target])
    following = after[len(before) :] if after[: len(before)] == before else []
    if len(following) == 1:
        return following[0]
    alike = [token for token, text in enumerate(texts) if text == target]
    if alike:
        return alike[0]
    following = following or model.encode([target], add_bos=False)[0]
    parts = ", ".join(f'"{texts[token]}"' for token in following)
    raise HarnessError(
        f'target: "{target}" is {counted(len(following), "token")} to {model.name} ({parts}); give one token, for '
        f'example the first: "{texts[following[0]]}".'
    )


def neuron_named(model: Model, text: str) -> Neuron:
    """The FFN neuron of a name.

    Raises:
        HarnessError: it is no name of one, or the model has none there.
    """
    unit = Neuron.parse(text)
    _check_layer(model, text, unit.layer)
    _check(model, text, unit.index, model.anatomy.d_mlp, "neuron")
    return unit


def head_named(model: Model, text: str) -> Head:
    """The head of a name.

    Raises:
        HarnessError: as of :func:`neuron_named`.
    """
    unit = Head.parse(text)
    _check_layer(model, text, unit.layer)
    _check(model, text, unit.index, model.anatomy.n_heads, "head")
    return unit


def value_named(sentence: Sentence, text: str) -> Neuron | AttentionPlace:
    """The FFN neuron ("11.2378") or attention neuron ("L5H1.32", "L5H1.32@4" at source position 4) of a name.

    Raises:
        HarnessError: it is no name of one, or the model or the sentence has none there.
    """
    model = sentence.model
    match = _ATTENTION_NEURON.fullmatch(text.strip())
    if match is None:
        if re.fullmatch(r"\d+\.\d+", text.strip()):
            return neuron_named(model, text)
        raise HarnessError(
            f'"{text}" is no value neuron: expected "attention" or "neurons" (the first of these kinds), an FFN neuron '
            "(11.2378) or an attention neuron (L5H1.32, or L5H1.32@4 at source position 4)."
        )
    layer, head, coordinate = (int(match[i]) for i in (1, 2, 3))
    head_named(model, f"L{layer}H{head}")
    _check(model, text, coordinate, model.anatomy.d_head, "coordinate", "s of a head")
    position = None if match[4] is None else int(match[4])
    if position is not None:
        _check(model, text, position, len(sentence.tokens), "position", "s in this sentence")
    return AttentionPlace(layer, head, coordinate, position)


def _check_layer(model: Model, text: str, layer: int) -> None:
    n = model.anatomy.n_layers
    if layer >= n:
        raise HarnessError(f"{text} is not in {model.name}: it has {counted(n, 'layer')}, 0 to {n - 1}.")


def _check(model: Model, text: str, index: int, n: int, noun: str, where: str = "s in a layer") -> None:
    if index >= n:
        raise HarnessError(f"{text} is not in {model.name}: {noun}{where} are 0 to {n - 1}.")
