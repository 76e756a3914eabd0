"""Induction heads: patterns of every family, scores by definition, baseline heads, the card of the bundled model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families import SHAPES, tiny, tiny_hf, tokenizer
from harness_plugins.confidence_regulation.analysis import attention_heads
from harness_plugins.confidence_regulation.analysis.attention_heads import head_scores, random_repeats
from harness_plugins.confidence_regulation.selectors.induction_heads import InductionHeads
from texts import context

from harness.builtin.components import Heads
from harness.conditions.units import Head
from harness.controls.random import draw_controls
from harness.errors import HarnessError
from harness.model.attention_patterns import patterns
from harness.model.model import Model
from harness.model.wrapping import wrap
from harness.plugin import ModelLoader, Selector
from harness.plugin.catalogue import catalogue
from harness.plugin.specs import ComponentSpec


@pytest.fixture(scope="module")
def demo() -> Model:
    return catalogue().build(ModelLoader, ComponentSpec("demo", {}), "--model").load()  # type: ignore[attr-defined]


def from_softmax(family: str, sequences: list[list[int]]) -> list[torch.Tensor]:
    """The patterns as they leave the softmax of an eagerly computed attention."""
    model = wrap(tiny_hf(family, attention="eager"), tokenizer(), family)
    plain, seen, inside = torch.nn.functional.softmax, [], [False]

    def softmax(*args: Any, **kwargs: Any) -> torch.Tensor:
        pattern = plain(*args, **kwargs)
        if inside[0]:
            seen.append(pattern.detach().float().view(len(sequences), model.anatomy.n_heads, *pattern.shape[-2:]))
        return pattern

    hooks = []
    for module in model.anatomy.attentions:
        hooks.append(module.register_forward_pre_hook(lambda *_: inside.__setitem__(0, True)))
        hooks.append(module.register_forward_hook(lambda *_: inside.__setitem__(0, False)))
    torch.nn.functional.softmax = softmax  # type: ignore[assignment]
    try:
        with torch.no_grad():
            model.forward(model.pad(sequences))
    finally:
        torch.nn.functional.softmax = plain
        for hook in hooks:
            hook.remove()
    return seen


@pytest.mark.parametrize("family", SHAPES)
def test_patterns_are_those_of_the_softmax(family: str) -> None:
    model, sequences = tiny(family), [[5, 6, 7, 8, 9, 10], [11, 12, 13, 12, 9, 8]]
    before = model.forward(model.pad(sequences), logits_to_keep=0).logits
    if family.startswith("falcon"):  # transformers' fused Falcon returns other patterns than it uses
        with pytest.raises(HarnessError, match="are not those of its usual forward pass; load it with attn_imp"):
            patterns(model, sequences)
        model = wrap(tiny_hf(family, attention="eager"), tokenizer(), family)
        before = model.forward(model.pad(sequences), logits_to_keep=0).logits
    found, expected = patterns(model, sequences), from_softmax(family, sequences)
    assert len(found) == len(expected) == model.anatomy.n_layers
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    after = model.forward(model.pad(sequences), logits_to_keep=0).logits
    assert torch.equal(after, before)  # the implementation is put back


def test_scores_are_those_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    model, n = wrap(tiny_hf("llama"), tokenizer(bos=True), "llama"), 9
    sequences = random_repeats(model, 5, n, seed=1)
    matching, first = np.zeros((3, 4)), np.zeros((3, 4))
    for tokens in sequences:
        assert tokens[0] == 257 and tokens[1 : n + 1] == tokens[n + 1 :] and len(set(tokens[1:])) == n
        for layer, pattern in enumerate(patterns(model, [tokens])):
            for head in range(4):
                for query in range(n + 1, 2 * n + 1):
                    follows = tokens[1:].index(tokens[query]) + 2  # of the first occurrence; tokens[0] is BOS
                    matching[layer, head] += float(pattern[0, head, query, follows]) / n
                first[layer, head] += float(pattern[0, head, 1:, 0].mean())
    for bytes_ in (2**28, 1):  # all at once, one by one
        monkeypatch.setattr(attention_heads, "PATTERN_BYTES", bytes_)
        found = head_scores(model, sequences, n)
        np.testing.assert_allclose(found.prefix_matching, matching / 5, rtol=1e-5)
        np.testing.assert_allclose(found.first_token, first / 5, rtol=1e-5)


def test_random_tokens_are_of_the_vocabulary_and_seeded() -> None:
    model = tiny("gpt2")
    rows = random_repeats(model, 30, 20, seed=0)
    assert rows == random_repeats(model, 30, 20, seed=0) != random_repeats(model, 30, 20, seed=1)
    drawn = {token for row in rows for token in row}
    assert len(drawn) > 150 and max(drawn) < 260  # rows of the unembedding beyond the tokeniser are not drawn
    assert not drawn & {257, 258}
    assert len(random_repeats(model, 1, 300, seed=0)[0]) == 600  # more than there are tokens: some come twice


def test_the_bundled_model_has_the_heads_of_its_card(demo: Model) -> None:
    """On the card's own sequences, which may hold a token twice: L2H2 0.93, L2H3 0.90, L2H0 0.89, L2H1 0.68."""
    generator = torch.Generator().manual_seed(0)
    half = torch.randint(1, 1280, (32, 40), generator=generator)
    scores = head_scores(demo, torch.cat([half, half], 1).tolist(), 40).prefix_matching
    for head, card in ((2, 0.93), (3, 0.90), (0, 0.89), (1, 0.68)):
        assert scores[2, head] == pytest.approx(card, abs=0.02)
    selection = InductionHeads(top=4, sequences=16).select(context(demo))
    assert set(selection.units) == {Head(2, i) for i in range(4)}
    assert selection.units[:1] == (Head(2, 2),) and selection.units[3] == Head(2, 1)


def test_baseline_heads_are_the_pool_of_controls(demo: Model) -> None:
    """The bundled model has no BOS token and no head that rests on the first one."""
    few = {"sequences": 8, "top": 2}
    selection = InductionHeads(**few).select(context(demo))
    assert selection.pool == () and "; 0 baseline heads (mean attention to the first token > 0.6" in selection.rule
    assert draw_controls(demo, selection, None, 100, "none", [], 8, 0).sets == ()
    with pytest.raises(HarnessError, match=r"left nothing to draw them from \(its pool is empty\): loosen its thresh"):
        draw_controls(demo, selection, 5, None, "none", [], 8, 0)
    loose = InductionHeads(**few, min_bos=0).select(context(demo))
    scores = dict(zip(loose.candidates, loose.scores["prefix_matching"], strict=True))
    assert loose.pool is not None and set(loose.pool) == {head for head in scores if scores[head] < 0.1}
    assert loose.details["baseline_heads"] == [str(head) for head in loose.pool]
    controls = draw_controls(demo, loose, None, 100, "none", [], 8, 0)
    assert len(controls.sets) == 90  # two of twelve and the selected two, wherever they lie, but not these two together
    assert {head for heads in controls.sets for head in heads} == {*loose.pool, *loose.units}


def test_refusals() -> None:
    model = tiny("gpt2")
    with pytest.raises(HarnessError, match="top=13 heads were asked for; the model has 12"):
        InductionHeads(top=13).select(context(model))
    with pytest.raises(HarnessError, match="length=33 tokens, duplicated, do not fit the 64 positions of gpt2"):
        InductionHeads(length=33).select(context(model))


def test_heads_may_be_named() -> None:
    for written in (["L2H2", "L0H1"], "L2H2+L0H1"):
        assert Heads(heads=written).select(context(tiny("gpt2"))).units == (Head(2, 2), Head(0, 1))
    with pytest.raises(HarnessError, match=r'parameter "heads" of heads: "2\.2" is not a head'):
        catalogue().build(Selector, ComponentSpec("heads", {"heads": ["2.2"]}), "--selector")
