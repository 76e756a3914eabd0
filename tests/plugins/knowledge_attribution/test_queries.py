"""Query neurons and attention neurons: by definition, planted ones found first, what is recorded, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import SHAPES, tiny, tiny_hf, tokenizer
from harness_plugins.knowledge_attribution.analysis import top_k_by_bound
from harness_plugins.knowledge_attribution.analysis.all_positions import value_vectors
from harness_plugins.knowledge_attribution.analysis.attention_neurons import (
    source_increases,
    sources,
    top_attention_neurons,
)
from harness_plugins.knowledge_attribution.analysis.head_outputs import Output, module_increases
from harness_plugins.knowledge_attribution.analysis.last_position import mlp_writes, run_prompts
from harness_plugins.knowledge_attribution.analysis.query_scores import attention_queries, neuron_queries
from harness_plugins.knowledge_attribution.selectors.query import QueryNeurons
from harness_plugins.knowledge_attribution.selectors.value import ValueHeads
from slow_attribution import Slow, read
from texts import context

from harness.conditions.units import Head, Neuron
from harness.errors import HarnessError
from harness.model.model import Model
from harness.model.wrapping import wrap
from harness.report.figure_files import render
from harness.testing import check_selector

PROMPTS = [[72, 101, 108], [257, 110, 32, 44, 98, 60, 61], [5, 6, 7], [65, 66]]
SLOWLY = ["gpt2", "gpt_neox", "gptj", "llama_gqa_tied", "gemma2", "granite", "olmo2"]
FUSED_ONLY = {"falcon", "falcon_alibi", "falcon_new"}
"""Families that return attention patterns with attn_implementation=eager only."""


@pytest.fixture
def every_bound_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the order of the bounds alone would not find the largest."""
    monkeypatch.setattr(top_k_by_bound, "ROUND", 1)


def agree_with_slow(model: Model, slow: Slow, prompts: list[list[int]], top: int) -> None:
    """Attention neurons, query scores of both kinds and source increases, of every prompt."""
    outputs = [Output.of(model, layer) for layer in range(model.anatomy.n_layers)]
    layers = list(range(model.anatomy.n_layers))
    for group in sources(model, outputs, prompts, 8):
        tops = top_attention_neurons(model, outputs, group, layers, top)
        for p, (row, found) in enumerate(zip(group.rows, tops, strict=True)):
            seen = slow.run(prompts[row])
            every = slow.attention_neurons(seen)
            best = np.sort(np.concatenate([x.ravel() for x in every]))[::-1][:top]
            np.testing.assert_allclose([x.increase for x in found], best, rtol=2e-3, atol=3e-6)
            for x in found:
                own = every[x.layer][x.position, x.head, x.coordinate]
                np.testing.assert_allclose(x.increase, own, rtol=2e-3, atol=3e-6)
            by_source = source_increases(model, outputs, group, layers, p)
            np.testing.assert_allclose(by_source, slow.by_source(seen), rtol=2e-3, atol=5e-6)
    for find, expected in ((attention_queries, slow.attention_queries), (neuron_queries, slow.neuron_queries)):
        for made in find(model, prompts, top, 8):
            wanted = expected(slow.run(prompts[made.row]), top)
            np.testing.assert_allclose(made.scores, wanted, rtol=5e-3, atol=2e-3 * np.abs(wanted).max() + 1e-8)
            assert not made.scores[-1].any()


@pytest.mark.parametrize("family", SLOWLY)
def test_attention_neurons_and_query_scores_are_those_of_the_definition(family: str, every_bound_counts: None) -> None:
    model = tiny(family)
    agree_with_slow(model, Slow(model, read(family)), PROMPTS, 4)


def test_a_trained_llama(stories: Model) -> None:
    agree_with_slow(stories, Slow(stories, read("llama")), [stories.encode(["Tom had a red"])[0]], 6)


@pytest.mark.parametrize("family", sorted(set(SHAPES) - {"opt_350m"}))
def test_value_vectors_are_the_heads_outputs_at_the_first_position(family: str) -> None:
    """Whatever the layout of the weights; patterns times values, elsewhere, are checked by the code itself."""
    model = tiny(family)
    seen: dict[int, torch.Tensor] = {}
    with torch.no_grad(), model.capture_heads(range(model.anatomy.n_layers)) as heads:
        from harness.model.modules import layer_input

        hooks = [
            attention.register_forward_pre_hook(
                lambda m, a, k, layer=layer: seen.update({layer: layer_input(a, k)[0].clone()}), with_kwargs=True
            )
            for layer, attention in enumerate(model.anatomy.attentions)
        ]
        model.forward(model.pad([[72, 101, 108]]))
        for hook in hooks:
            hook.remove()
    values = value_vectors(model, seen, rows=2)
    for layer, outputs in heads.items():
        np.testing.assert_allclose(values[layer][0], outputs[0, 0], rtol=1e-4, atol=1e-5)
        if layer == 0 and family not in FUSED_ONLY:
            assert float((values[layer][1] - outputs[0, 1]).abs().max()) > 1e-4  # later positions mix
    if family in FUSED_ONLY:
        with pytest.raises(HarnessError, match="load it with attn_implementation=eager"):
            next(iter(attention_queries(model, PROMPTS, 2, 8)))
    else:
        assert len(list(attention_queries(model, PROMPTS, 2, 8))) == len(PROMPTS)


TARGET, QUERY, VALUE, HEAD = 77, Neuron(0, 9), Neuron(2, 13), Head(1, 2)


def planted() -> Model:
    """Neuron 0.9, always on, writes what one coordinate of head L1H2 and neuron 2.13 read; both raise one token."""
    hf = tiny_hf("gpt2_untied")
    first, second, last = hf.transformer.h
    generator = torch.Generator().manual_seed(5)
    signal = torch.randn(32, generator=generator)
    signal = (signal - signal.mean()) / signal.norm()
    column = 2 * 32 + 8 * HEAD.index
    with torch.no_grad():
        row = hf.lm_head.weight[TARGET] / hf.transformer.ln_f.weight
        row = (row - row.mean()) / row.norm()
        first.mlp.c_fc.weight[:, QUERY.index] = 0
        first.mlp.c_fc.bias[QUERY.index] = 3
        first.mlp.c_proj.weight[QUERY.index] = 4 * signal
        second.attn.c_attn.weight[:, column] = 4 * signal / second.ln_1.weight
        second.attn.c_attn.bias[column] = 0
        second.attn.c_proj.weight[8 * HEAD.index] = row
        last.mlp.c_fc.weight[:, VALUE.index] = signal / last.ln_2.weight
        last.mlp.c_fc.bias[VALUE.index] = 0
        last.mlp.c_proj.weight[VALUE.index] = row
    return wrap(hf, tokenizer(), "planted")


@pytest.mark.parametrize(("of", "name"), [("attention", "L1H2.0"), ("neurons", "2.13")])
def test_a_planted_query_neuron_is_found_first(of: str, name: str) -> None:
    model = planted()
    selection = QueryNeurons(top=3, of=of, values=10).select(context(model, prompts=PROMPTS))  # type: ignore[arg-type]
    assert selection.units[0] == QUERY
    assert next(iter(selection.details["value_neurons"])) == name
    ranked = np.sort(selection.scores["query"])[::-1]
    assert ranked[0] > 3 * ranked[1] > 0
    assert selection.scores["share_positive"][selection.candidates.index(QUERY)] == 1


def test_a_planted_attention_neuron_is_found_and_promotes_its_token() -> None:
    model = planted()
    selector = ValueHeads(top=1, level="neuron", neurons=20)
    selection = selector.select(context(model, prompts=PROMPTS))
    assert selection.units == (HEAD,)
    best, example = selection.details["attention_neurons"][0], selection.details["example"]
    assert best["neuron"] == "L1H2.0" and best["promoted"][0] == model.token_texts[TARGET]
    assert best["share_of_prompts"] == 1 and example["neurons"][0]["neuron"] == "L1H2.0"
    assert np.shape(example["increases"]) == (3, 3) and example["tokens"] == [model.token_texts[t] for t in PROMPTS[0]]


def test_scores_are_means_over_predictions_and_the_rule_says_of_what() -> None:
    model = tiny("llama")
    found = list(attention_queries(model, PROMPTS, 6, 2))
    assert sorted(x.row for x in found) == list(range(len(PROMPTS)))
    selection = QueryNeurons(top=4, values=6).select(context(model, prompts=PROMPTS))
    mean = np.mean([x.scores[:2] for x in found], axis=0)
    np.testing.assert_allclose(selection.scores["query"], mean.ravel(), rtol=1e-4, atol=1e-6)
    assert [selection.candidates[i] for i in np.argsort(-mean.ravel())[:4]] == list(selection.units)
    assert {unit.layer for unit in selection.candidates} == {0, 1}
    assert "layers 0 to 1: the 4 neurons with the largest mean share in the pre-activations of the 6 attention" in (
        selection.rule
    )
    one = QueryNeurons(top=4, values=6, layer=1).select(context(model, prompts=PROMPTS))
    np.testing.assert_allclose(one.scores["query"], selection.scores["query"][48:], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("params", [{}, {"of": "neurons"}])
def test_it_keeps_what_a_selector_promises(params: dict[str, str]) -> None:
    check_selector(QueryNeurons, top=3, values=4, **params)


def test_value_heads_by_neuron_keep_what_a_selector_promises() -> None:
    selection = check_selector(ValueHeads, top=2, level="neuron", neurons=5)
    assert set(selection.scores) == {"increase", "neurons"} and len(selection.pool or ()) == 10
    assert "by their attention neurons, summed over those among the 5 largest of each prediction" in selection.rule
    assert float(selection.scores["neurons"].sum()) == pytest.approx(5)


def test_modules_lead_from_the_embedding_to_the_models_own_prediction() -> None:
    """Each is the change of log p between two residual streams, so that all of them sum to that from first to last."""
    for family in ("gpt2", "gptj", "gemma2", "granite"):
        model = tiny(family)
        states = run_prompts(model, PROMPTS)
        slow = Slow(model, read("gpt2"))
        total = sum(module_increases(model, states, layer).sum(1) for layer in range(model.anatomy.n_layers))
        for p, tokens in enumerate(PROMPTS):
            own = model.hf(input_ids=torch.tensor([tokens])).logits[0, -1].double().log_softmax(-1).max()
            target, denominator = int(states.target[p]), states.denominator[p].double()
            before = slow.log_p(states.before[0][p].double(), denominator, target)
            np.testing.assert_allclose(total[p], float(own - before), atol=2e-5)
        one = module_increases(model, states, 1)
        start = slow.log_p(states.before[1][0].double(), states.denominator[0].double(), int(states.target[0]))
        middle = mlp_writes(model, states, 1).residual[0].double()
        after = slow.log_p(middle, states.denominator[0].double(), int(states.target[0]))
        np.testing.assert_allclose(one[0, 0], after - start, atol=2e-5)


def test_figures_and_tables() -> None:
    about = context(tiny("gpt2"), prompts=PROMPTS)
    for selector, figures, tables in (
        (QueryNeurons(top=4), ["query_neurons_by_layer"], ["query_neurons"]),
        (
            ValueHeads(top=2, level="neuron", neurons=6),
            ["value_heads_by_layer", "value_heads_map", "increase_by_module", "sources_map"],
            ["value_heads", "attention_neurons", "attention_neurons_example"],
        ),
    ):
        shown = selector.figures(selector.select(about))  # type: ignore[attr-defined]
        assert [item.name for item in shown if hasattr(item, "draw")] == figures
        assert [item.name for item in shown if not hasattr(item, "draw")] == tables
        for item in shown:
            if hasattr(item, "draw"):
                render(item)
    values = selector.select(about).details["example"]["increases"]
    np.testing.assert_allclose(next(x for x in shown if x.name == "sources_map").data["increase"], np.ravel(values))


def test_what_cannot_be_asked_is_refused() -> None:
    about = context(tiny("gpt2"), prompts=PROMPTS)
    with pytest.raises(HarnessError, match="no value neuron comes after layer 2, the last of gpt2; choose an earlier"):
        QueryNeurons(layer=-1).select(about)
    with pytest.raises(HarnessError, match="top=257 neurons were asked for, but there are only 256"):
        QueryNeurons(top=257).select(about)
    with pytest.raises(ValueError, match="level=neuron goes with method=increase"):
        ValueHeads(level="neuron", method="inner_product")
    with pytest.raises(HarnessError, match="no sum of what its layers write"):
        QueryNeurons().select(context(tiny("opt_350m"), prompts=PROMPTS))
