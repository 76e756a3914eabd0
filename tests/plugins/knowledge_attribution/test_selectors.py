"""Value neurons and heads: increases by definition, planted ones found first, what they promote, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from families import tiny, tiny_hf, tokenizer
from harness_plugins.knowledge_attribution.analysis import top_k_by_bound
from harness_plugins.knowledge_attribution.analysis.head_outputs import head_increases, head_inner_products, head_writes
from harness_plugins.knowledge_attribution.analysis.last_position import mlp_writes, run_prompts
from harness_plugins.knowledge_attribution.analysis.log_probability_increase import (
    Lens,
    neuron_increases,
    neuron_inner_products,
    write_increases,
)
from harness_plugins.knowledge_attribution.analysis.top_k_by_bound import neuron_bounds, tangents
from harness_plugins.knowledge_attribution.selectors.value import ValueHeads, ValueNeurons
from texts import context, letters

from harness.conditions.units import Head, Neuron
from harness.data.token_sequences import sequences
from harness.errors import HarnessError
from harness.model.matrices import write_matrix
from harness.model.model import Model
from harness.model.readout import probe_norm
from harness.model.wrapping import wrap
from harness.plugin import ModelLoader
from harness.plugin.catalogue import catalogue
from harness.plugin.specs import ComponentSpec
from harness.report.figure_files import render

PROMPTS = [[72, 101, 108], [257, 110, 32, 44, 98, 60, 61], [5, 6, 7, 8, 9], [65, 66]]


def _rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    return (x.square().mean() + eps).sqrt()


def by_definition(model: Model, tokens: list[int], target: int, layer: int, index: int | Head) -> tuple[float, float]:
    """log F_w(r + c) - log F_w(r) and the change of the target's logit, by the whole logits, in float64, one prompt and
    component at a time; the residual streams are those that the layer's modules were seen to add up."""
    seen: dict[str, torch.Tensor] = {}
    anatomy, readout = model.anatomy, model.readout
    block = anatomy.layers[layer]
    undo = [
        block.register_forward_hook(lambda m, a, out: seen.update(out=out[0] if isinstance(out, tuple) else out)),
        block.register_forward_pre_hook(
            lambda m, a, k: seen.update(into=(a[0] if a else k["hidden_states"]).clone()), with_kwargs=True
        ),
    ]
    capture = (model.capture_residual(), model.capture_neurons(layer), model.capture_heads(layer))
    with torch.no_grad(), capture[0] as final, capture[1] as neurons, capture[2] as heads:
        model.forward(model.pad([tokens]))
    for hook in undo:
        hook.remove()
    out, into, x = (y[0, -1].double() for y in (seen["out"], seen["into"], final.residual))
    if isinstance(index, Head):
        projection = anatomy.attention_outputs[layer]
        W_O = write_matrix(projection).double().view(anatomy.n_heads, anatomy.d_head, -1)
        each = torch.stack([heads[layer][0, -1, h].double() @ W_O[h] for h in range(anatomy.n_heads)])
        c, r = each[index.index], into
        if model.name == "gemma2":
            norm = block.post_attention_layernorm  # type: ignore[union-attr]
            c = c / _rms(each.sum(0), norm.eps) * (1 + norm.weight.double())  # type: ignore[operator, arg-type]
        c = c * anatomy.residual_multiplier
    else:
        n, w = neurons[layer][0, -1].double(), model.w_out(layer).double()
        bias = model.down_bias(layer)
        wrote, c = n @ w + (0 if bias is None else bias.double()), n[index] * w[index]
        if (post := anatomy.post_mlp_norms[layer]) is not None:
            _, eps, gain, _ = probe_norm(post, anatomy.d_model)
            c, wrote = c / _rms(wrote, eps) * gain.double(), wrote / _rms(wrote, eps) * gain.double()
        c, r = c * anatomy.residual_multiplier, out - wrote * anatomy.residual_multiplier
    z = x - x.mean() if readout.norm == "layernorm" else x
    denominator = _rms(z, readout.eps)

    def logits(v: torch.Tensor) -> torch.Tensor:
        v = (v - v.mean() if readout.norm == "layernorm" else v) / denominator * readout.gain.double()
        v = v if readout.bias is None else v + readout.bias.double()
        raw = readout.W_U.double() @ v + (0 if readout.b_U is None else readout.b_U.double())
        return raw * readout.scale

    def capped(v: torch.Tensor) -> torch.Tensor:
        return logits(v) if readout.cap is None else torch.tanh(logits(v) / readout.cap) * readout.cap

    increase = capped(r + c).log_softmax(-1)[target] - capped(r).log_softmax(-1)[target]
    return float(increase), float(logits(r + c)[target] - logits(r)[target])


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "gemma2", "granite", "olmo2", "cohere", "falcon", "opt"])
def test_increases_are_those_of_the_definition(family: str) -> None:
    model = tiny(family)
    states = run_prompts(model, PROMPTS, batch_size=3, heads=True)
    for layer in range(model.anatomy.n_layers):
        increases, products = neuron_increases(model, states, layer), neuron_inner_products(model, states, layer)
        assert increases.shape == products.shape == (len(PROMPTS), model.anatomy.d_mlp)
        for p, i in ((0, 0), (1, 7), (2, 31), (3, 46)):
            expected = by_definition(model, PROMPTS[p], int(states.target[p]), layer, i)
            np.testing.assert_allclose((increases[p, i], products[p, i]), expected, rtol=2e-4, atol=3e-6)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama_gqa_tied", "gemma2", "granite", "falcon"])
def test_increases_of_heads_are_those_of_the_definition(family: str) -> None:
    model = tiny(family)
    states = run_prompts(model, PROMPTS, targets=[9, 8, 7, 6], heads=True)
    for layer in range(model.anatomy.n_layers):
        increases, products = head_increases(model, states, layer), head_inner_products(model, states, layer)
        for p, h in ((0, 0), (1, 1), (2, 2), (3, 3)):
            expected = by_definition(model, PROMPTS[p], 9 - p, layer, Head(layer, h))
            np.testing.assert_allclose((increases[p, h], products[p, h]), expected, rtol=2e-4, atol=3e-6)


def test_blocks_of_prompts_and_neurons_change_nothing() -> None:
    for family in ("gpt2", "gemma2"):
        model = tiny(family)
        states = run_prompts(model, PROMPTS, heads=True)
        whole, some = (
            neuron_increases(model, states, 1, block_bytes=size) for size in (2**28, 4 * model.anatomy.d_vocab * 3)
        )
        np.testing.assert_allclose(some, whole, atol=2e-6)
        writes = head_writes(model, states, 1)
        given = (model, states.before[1], writes, states.denominator, states.target)
        np.testing.assert_allclose(write_increases(*given, block_bytes=1), write_increases(*given), atol=2e-6)


def test_targets_are_the_models_own_predictions_unless_given() -> None:
    model = tiny("llama")
    states = run_prompts(model, PROMPTS, batch_size=2)
    own = [int(model.hf(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()) for tokens in PROMPTS]
    assert states.target.tolist() == own and states.heads == ()
    assert run_prompts(model, PROMPTS, targets=[1, 2, 3, 4]).target.tolist() == [1, 2, 3, 4]


def test_all_neurons_and_the_bias_lead_from_the_residual_stream_to_the_layers_output() -> None:
    """And with the last layer's output, its distribution is the model's own."""
    for family in ("gpt2", "gptj", "gemma2", "granite"):
        model = tiny(family)
        states, last = run_prompts(model, PROMPTS), model.anatomy.n_layers - 1
        writes = mlp_writes(model, states, last)
        whole = states.after[last] - writes.residual
        found = write_increases(model, writes.residual, whole[:, None], states.denominator, states.target)[:, 0]
        lens, scale = Lens(model), Lens(model).scale(states.denominator)
        rows = range(len(PROMPTS))
        before = lens.logits(lens.project(writes.residual), scale).log_softmax(-1)[rows, states.target]
        after = [model.hf(input_ids=torch.tensor([t])).logits[0, -1].log_softmax(-1).max() for t in PROMPTS]
        np.testing.assert_allclose(found, np.array(after) - before.numpy(), atol=1e-5)


def test_half_precision_agrees_roughly() -> None:
    model, half = tiny("llama"), tiny("llama", torch.bfloat16)
    for layer in range(2):
        found, expected = (
            neuron_increases(m, run_prompts(m, PROMPTS, targets=[1, 2, 3, 4]), layer) for m in (half, model)
        )
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


TARGET, PLANTED, PLANTED_HEAD = 77, Neuron(1, 13), Head(1, 2)


def planted() -> Model:
    """Whatever the prompt, one neuron and one head of layer 1 write the target's row of the unembedding."""
    hf = tiny_hf("gpt2_untied")
    block, d_head, rest = hf.transformer.h[PLANTED.layer], 8, slice(2 * 32 + 8 * PLANTED_HEAD.index, None)
    values = slice(rest.start, rest.start + d_head)
    with torch.no_grad():
        row = hf.lm_head.weight[TARGET] / hf.transformer.ln_f.weight
        row = (row - row.mean()) / row.norm()
        block.mlp.c_fc.weight[:, PLANTED.index] = 0
        block.mlp.c_fc.bias[PLANTED.index] = 5  # always on
        block.mlp.c_proj.weight[PLANTED.index] = 4 * row
        block.attn.c_attn.weight[:, values] = 0
        block.attn.c_attn.bias[values] = torch.eye(d_head)[0]  # the value of every token
        block.attn.c_proj.weight[8 * PLANTED_HEAD.index] = 8 * row
        hf.transformer.h[2].mlp.c_proj.weight.mul_(0.1)
    return wrap(hf, tokenizer(), "planted")


@pytest.mark.parametrize("method", ["increase", "inner_product"])
def test_planted_ones_are_found_first_and_promote_their_token(method: str) -> None:
    model = planted()
    about = context(model, prompts=PROMPTS)
    for selector, unit in ((ValueNeurons, PLANTED), (ValueHeads, PLANTED_HEAD)):
        selection = selector(top=3, method=method).select(about)  # type: ignore[call-arg, arg-type]
        assert selection.units[0] == unit
        assert selection.details["tokens"][str(unit)]["promoted"][0] == model.token_texts[TARGET]
        ranked = np.sort(selection.scores[method])[::-1]
        assert ranked[0] > 2 * ranked[1] > 0
        assert [selection.candidates[i] for i in np.argsort(-selection.scores[method])[:3]] == list(selection.units)


def test_a_neuron_that_is_negative_promotes_what_its_weights_oppose() -> None:
    model = planted()
    with torch.no_grad():
        block = model.hf.transformer.h[PLANTED.layer]
        block.mlp.c_fc.bias[PLANTED.index] = -0.75  # where gelu is lowest, -0.17
        block.mlp.c_proj.weight[PLANTED.index] *= -60
    selection = ValueNeurons(top=1).select(context(model, prompts=PROMPTS))
    assert selection.units == (PLANTED,) and selection.details["mean_activations"][str(PLANTED)] < 0
    assert selection.details["tokens"][str(PLANTED)]["promoted"][0] == model.token_texts[TARGET]


def test_scores_are_means_over_the_prompts_of_all_layers_or_one() -> None:
    model = tiny("llama")
    states = run_prompts(model, PROMPTS)
    selection = ValueNeurons(top=5).select(context(model, prompts=PROMPTS))
    each = np.concatenate([neuron_increases(model, states, layer) for layer in range(3)], 1)
    np.testing.assert_allclose(selection.scores["increase"], each.mean(0), atol=1e-6)
    np.testing.assert_allclose(selection.scores["share_raised"], (each > 0).mean(0))
    assert len(selection.candidates) == 3 * 48 and "layers 0 to 2: the 5 neurons" in selection.rule
    assert "4 of the task's own 4 prompts, on which the run is evaluated, too" in selection.rule
    held_out = ValueNeurons(top=5).select(replace(context(model, prompts=PROMPTS), held_out=True))
    assert "4 of 4 prompts that are held out for selectors; the run is evaluated on others" in held_out.rule
    one = ValueNeurons(top=5, layer=-2, method="inner_product").select(context(model, prompts=PROMPTS))
    assert {unit.layer for unit in one.units} == {1} and set(one.scores) == {"inner_product"}
    assert one.rule.startswith("layer 1: the 5 neurons with the largest mean inner product")
    heads = ValueHeads(top=2).select(context(model, prompts=PROMPTS))
    assert len(heads.pool or ()) == 10 and not set(heads.pool or ()) & set(heads.units)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "granite", "olmo2", "cohere", "gemma2"])
def test_the_gradient_bounds_every_increase_and_finds_the_same_neurons(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_k_by_bound, "ROUND", 1)  # so that the order of the bounds alone would not do
    model = tiny(family)
    states = run_prompts(model, PROMPTS)
    for layer in range(model.anatomy.n_layers):
        bound, increase = neuron_bounds(model, states, layer), neuron_increases(model, states, layer)
        assert (bound >= increase - 1e-5).all()
        writes, lens = mlp_writes(model, states, layer), Lens(model)
        r = writes.residual.clone().requires_grad_()
        log_p = lens.logits(lens.project(r), lens.scale(states.denominator)).log_softmax(-1)
        log_p[range(len(PROMPTS)), states.target].sum().backward()
        assert r.grad is not None
        line = tangents(lens, writes.residual, states.denominator, states.target, writes.directions)
        np.testing.assert_allclose(line.slope, r.grad @ writes.directions.T, rtol=1e-3, atol=2e-6)
        assert (line.curvature > 0).all() if family == "gemma2" else not line.curvature.any()
    about = context(model, prompts=PROMPTS)
    for top in (1, 2, 3, 7):
        found, every = (ValueNeurons(top=top, evaluate=mode).select(about) for mode in ("top", "all"))  # type: ignore[arg-type]
        assert found.units == every.units and set(found.scores) == {"increase", "bound", "inner_product"}
        best = np.sort(every.scores["increase"])[::-1][:top]
        rows = [found.candidates.index(unit) for unit in found.units]
        np.testing.assert_allclose(found.scores["increase"][rows], best, atol=1e-6)
        known = np.isfinite(found.scores["increase"])
        assert known.sum() == found.details["evaluated"]
        assert (found.scores["increase"] <= found.scores["bound"] + 1e-5)[known].all()
        assert found.details["tokens"] == every.details["tokens"]
    shown = ValueNeurons(evaluate="top").figures(found)
    assert [item.name for item in shown] == ["value_neurons_by_layer", "increase_by_module", "value_neurons"]
    # What is listed is what orders the list, not its bound, which may rise from one neuron to the next.
    listed = shown[-1].columns["increase"]  # type: ignore[union-attr]
    assert listed == sorted(listed, reverse=True)


def test_few_neurons_are_evaluated_where_few_matter() -> None:
    found = ValueNeurons(top=1, evaluate="top").select(context(planted(), prompts=PROMPTS))
    assert found.units == (PLANTED,) and found.details["evaluated"] == 64


def test_a_soft_cap_is_bounded_by_its_largest_curvature() -> None:
    """Of any amount of any direction; at the cap of real models the bound is nearly the tangent."""
    generator = torch.Generator().manual_seed(0)
    for cap, most in ((0.5, 50.0), (30.0, 1.05)):
        hf = tiny_hf("gemma2")
        hf.config.final_logit_softcapping = cap
        model = wrap(hf, tokenizer(), "gemma2")
        assert model.readout.cap == cap
        states = run_prompts(model, PROMPTS)
        directions = torch.randn(40, 32, generator=generator)
        line = tangents(Lens(model), states.after[1], states.denominator, states.target, directions)
        for amount in (-8.0, -1.0, 0.1, 1.0, 8.0):
            writes = (amount * directions).expand(len(PROMPTS), -1, -1)
            increase = write_increases(model, states.after[1], writes, states.denominator, states.target)
            bound = line.bound(torch.full((len(PROMPTS), 40), amount)).numpy()
            assert (bound >= increase - 1e-5).all()
        tight = line.bound(torch.full((len(PROMPTS), 40), 0.1)) - 0.1 * line.slope
        assert float(tight.mean()) < (most - 1) * float((0.1 * line.slope).abs().mean())


def test_prompts_are_drawn_by_the_seed_or_taken_from_a_corpus() -> None:
    model = tiny("llama")
    rows = [[i, i + 1, i + 2] for i in range(1, 200, 3)]
    chosen = [ValueNeurons(prompts=8).select(context(model, seed, rows)).scores["increase"] for seed in (0, 0, 1)]
    assert (chosen[0] == chosen[1]).all() and (chosen[0] != chosen[2]).any()
    asked = ValueNeurons(prompts=6, length=10, corpus=letters())
    found = asked.select(context(model, prompts=rows))
    read = [x.tokens for x in sequences(model, letters(), 6, 10, 0, "select", across_documents=True)]
    expected = np.concatenate([neuron_increases(model, run_prompts(model, read), layer).mean(0) for layer in range(3)])
    np.testing.assert_allclose(found.scores["increase"], expected, atol=1e-6)
    assert "after 6 sequences of 10 tokens of the corpus texts" in found.rule


def test_figures() -> None:
    model = tiny("gpt2")
    for selector, names in (
        (ValueNeurons(top=4), ["value_neurons_by_layer", "increase_by_module"]),
        (ValueHeads(top=4), ["value_heads_by_layer", "value_heads_map", "increase_by_module"]),
        (ValueHeads(top=2, layer=1), []),
    ):
        selection = selector.select(context(model, prompts=PROMPTS))
        *figures, table = selector.figures(selection)
        assert [figure.name for figure in figures] == names
        assert list(table.columns)[1:] == ["increase", "promoted", "suppressed"]
        assert next(iter(table.columns.values())) == [str(unit) for unit in selection.units]
        for figure in figures:
            render(figure)
        if figures:
            counts = [sum(unit.layer == layer for unit in selection.units) for layer in range(3)]
            assert list(figures[0].data["selected"]) == counts
            sums = [selection.scores["increase"].reshape(3, -1)[layer].clip(0).sum() for layer in range(3)]
            np.testing.assert_allclose(figures[0].data["positive_sum"], sums)


def test_what_cannot_be_asked_is_refused() -> None:
    model = tiny("gpt2")
    about = context(model, prompts=PROMPTS)
    with pytest.raises(HarnessError, match="value_neurons: top=385 neurons were asked for, but there are only 384"):
        ValueNeurons(top=385).select(about)
    with pytest.raises(HarnessError, match="value_heads: layer 3 does not exist; the model has 3 layers"):
        ValueHeads(layer=3).select(about)
    with pytest.raises(HarnessError, match=r"value_neurons: the task has no prompts; name a corpus"):
        ValueNeurons().select(context(model))
    with pytest.raises(HarnessError, match="residual stream of opt_350m is no sum of what its layers write"):
        ValueNeurons().select(context(tiny("opt_350m"), prompts=PROMPTS))
    with pytest.raises(HarnessError, match=r"expected one target token \(0 to 299\) for each of 4 prompts"):
        run_prompts(model, PROMPTS, targets=[1, 2, 3, 300])
    with torch.no_grad():
        model.hf.transformer.h[1].mlp.c_proj.weight[3] = float("nan")
    with pytest.raises(HarnessError, match="not finite"):
        ValueNeurons().select(about)


def test_heads_that_do_not_sum_to_the_residual_stream_are_refused() -> None:
    model = tiny("gpt2")
    states = run_prompts(model, PROMPTS, heads=True)
    wrong = replace(states, heads=tuple(x * 1.5 for x in states.heads))
    with pytest.raises(HarnessError, match="write is not what its residual stream receives"):
        head_writes(model, wrong, 1)


def test_the_bundled_model() -> None:
    """Against the definition, at its real size."""
    model = catalogue().build(ModelLoader, ComponentSpec("demo", {}), "--model").load()  # type: ignore[attr-defined]
    tokens = model.encode(["The capital of France is", "The author of the book is"])
    states = run_prompts(model, tokens)
    for layer in (0, 3):
        increases = neuron_increases(model, states, layer)
        for p, i in ((0, 11), (1, int(increases[1].argmax()))):
            expected = by_definition(model, tokens[p], int(states.target[p]), layer, i)[0]
            np.testing.assert_allclose(increases[p, i], expected, rtol=2e-4, atol=3e-6)
