"""Mixtures of experts: what is found in every family, and that reading and editing are what a loop over tokens says."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from families import MIXTURES, tiny, tiny_hf, tokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from slow_experts import OwnExperts, replaced

from harness.errors import HarnessError
from harness.model.expert_hooks import redistributed, removed
from harness.model.experts import FusedExperts, SeparateExperts
from harness.model.model import Model
from harness.model.wrapping import wrap

IDS = [[5, 80, 21, 7, 99, 3], [44, 9, 12]]
DENSE_FIRST = {"qwen2_moe": (48, 24, 24), "deepseek_v2": (48, 32, 32), "deepseek_v3": (48, 32, 32)}
SHARED = {"granitemoeshared": (24, 24, 24), **DENSE_FIRST}
OWN_FORMULA = ("gpt_oss",)


@pytest.fixture(scope="module", params=MIXTURES)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny(request.param)


def fused(model: Model, layer: int) -> Any:
    """The module of a layer's experts, by the name that ``transformers`` gives it."""
    parts = model.anatomy.layers[layer].named_modules()
    return next(module for path, module in parts if path.endswith(".experts"))


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 2e-5) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= tolerance * wanted.abs().max())


def logits(model: Model) -> torch.Tensor:
    return model.forward(model.pad(IDS), logits_to_keep=0).logits


def separate(family: str = "qwen3_moe") -> Model:
    """A model whose experts are modules of their own; the same as the fused one."""
    hf = tiny_hf(family)
    for layer in hf.model.layers:
        if hasattr(layer.mlp, "experts"):
            layer.mlp = OwnExperts(layer.mlp)
    return wrap(hf, tokenizer(), f"separate {family}")


# --- what is found --------------------------------------------------------------------------------------------------


def test_layers_experts_and_dense_neurons(model: Model) -> None:
    spec, anatomy = MIXTURES[model.name], model.anatomy
    assert anatomy.d_mlps == SHARED.get(model.name, (0, 0, 0))
    assert model.expert_layers == ((1, 2) if model.name in DENSE_FIRST else (0, 1, 2))
    assert (anatomy.direct_write, model.readout.norm) == (spec.direct_write, spec.norm)
    assert anatomy.residual_multiplier == spec.options.get("residual_multiplier", 1.0)
    assert anatomy.experts_enter
    assert anatomy.neurons_enter == (model.name in SHARED and model.name != "qwen2_moe")  # whose shared expert is gated
    for layer in model.expert_layers:
        experts = model.experts(layer)
        width = spec.options.get("moe_intermediate_size", 48)
        assert (experts.n_experts, experts.d_expert, experts.top_k) == (8, width, 2)
        assert experts.router is not None and experts.site is fused(model, layer)


def test_half_precision_is_taken_apart_alike() -> None:
    for family in MIXTURES:
        model, full = tiny(family, torch.bfloat16), tiny(family)
        assert model.expert_layers == full.expert_layers and model.anatomy.d_mlps == full.anatomy.d_mlps
        layer = model.expert_layers[-1]
        assert model.experts(layer).router is not None
        with (
            model.capture_experts(layer) as seen,
            model.capture_routing(layer) as routing,
            model.capture_expert_write(layer) as written,
        ):
            logits(model)
        expected = model.experts(layer).output(seen[layer].flatten(0, 1), routing[layer].flatten(0, 1))
        assert close(expected, written[-1].float(), 3e-2)
        assert seen[layer].dtype == torch.bfloat16


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_every_implementation_of_experts(implementation: str) -> None:
    hf = tiny_hf("gpt_oss")
    hf.set_experts_implementation(implementation)
    model = wrap(hf, tokenizer(), "gpt_oss")
    with model.capture_experts(2) as seen, replaced(fused(model, 2)) as slow:
        logits(model)
    assert close(seen[2].flatten(0, 1), slow["activations"].flatten(1))
    assert hf.config._experts_implementation == implementation


def test_what_is_no_mixture_of_understood_experts_is_refused() -> None:
    hf = tiny_hf("mixtral")
    for layer in hf.model.layers:
        layer.mlp.experts.register_forward_hook(lambda module, args, out: out.tanh())
    with pytest.raises(
        HarnessError, match=r"^MixtralForCausalLM is a mixture of experts that was not understood \(layer"
    ):
        wrap(hf, tokenizer(), "tiny")


def test_a_router_that_does_not_decide_by_its_logits_is_not_offered() -> None:
    hf = tiny_hf("mixtral")
    gate = hf.model.layers[1].mlp.gate
    # It routes by what it read before, whatever becomes of its logits afterwards.
    gate.register_forward_hook(lambda module, args, out: (torch.zeros_like(out[0]), *out[1:]))
    model = wrap(hf, tokenizer(), "tiny")
    assert [model.experts(layer).router is None for layer in range(3)] == [False, True, False]
    why = r"^the router of layer 1 of tiny was not found to decide by its logits alone"
    with pytest.raises(HarnessError, match=why), model.capture_router_logits(1):
        pass


def test_what_a_layer_lacks_is_said_in_one_sentence() -> None:
    olmoe, deepseek, dense = tiny("olmoe"), tiny("deepseek_v3"), tiny("llama")
    with pytest.raises(HarnessError) as caught:
        olmoe.w_out(1)
    assert str(caught.value) == (
        "layer 1 of olmoe has no dense neurons: its MLP is 8 experts of 48 neurons, which are named E1.expert.neuron."
    )
    with pytest.raises(HarnessError, match=r"^layer 0 of deepseek_v3 has no routed experts; layers 1, 2 have\.$"):
        deepseek.experts(0)
    with pytest.raises(HarnessError, match=r"^layer 0 of llama has no routed experts; it is a dense model\.$"):
        dense.experts(0)
    with pytest.raises(HarnessError, match=r"^olmoe has layers 0 to 2, there is no layer 3\.$"):
        olmoe.experts(3)


# --- activations ----------------------------------------------------------------------------------------------------


def test_activations_and_weights_are_those_of_a_loop_over_tokens(model: Model) -> None:
    for layer in model.expert_layers:
        with (
            replaced(fused(model, layer)) as slow,
            model.capture_experts(layer) as seen,
            model.capture_routing(layer) as routing,
            model.capture_expert_write(layer) as written,
        ):
            again = logits(model)
        found, weights = seen[layer].flatten(0, 1), routing[layer].flatten(0, 1)
        assert close(found, slow["activations"].flatten(1)) and close(weights, slow["weights"])
        assert bool((found.view(*weights.shape, -1)[weights == 0] == 0).all())
        assert close(model.experts(layer).output(found, weights), written[-1])
        assert close(again, logits(model))


def change_by(columns: list[int], values: torch.Tensor) -> Any:
    def change(activations: torch.Tensor) -> torch.Tensor:
        new = activations.clone()
        new[..., columns] = values
        return new

    return change


def test_an_edit_is_what_the_loop_over_tokens_makes_of_it(model: Model) -> None:
    layer, width = model.expert_layers[0], model.experts(model.expert_layers[0]).d_expert
    columns, values = [3, width + 1, 5 * width + 7], torch.tensor([2.0, -1.0, 0.0])

    def by_hand(token: int, expert: int, neurons: torch.Tensor) -> torch.Tensor:
        new = neurons.clone()
        for column, value in zip(columns, values.tolist(), strict=True):
            if column // width == expert:
                new[column % width] = value  # of tokens that are not routed to it, too
        return new

    with model.edit_experts(layer, change_by(columns, values)):
        found = logits(model)
    with replaced(fused(model, layer), by_hand):
        wanted = logits(model)
    assert close(found, wanted) and not close(found, logits(model))


def test_an_edit_of_nothing_is_exact(model: Model) -> None:
    plain = logits(model)
    for layer in model.expert_layers:
        with (
            model.edit_experts(layer, lambda x: x.clone()),
            model.edit_routing(layer, lambda x: x * 1),
            model.edit_router_logits(layer, lambda x: x + 0),
        ):
            assert torch.equal(logits(model), plain)


def test_write_directions_are_by_column(model: Model) -> None:
    layer = model.expert_layers[-1]
    every, width = model.expert_out(layer), model.experts(layer).d_expert
    assert every.shape == (8 * width, model.anatomy.d_model) and every.dtype == torch.float32
    some = [8 * width - 1, 0, width]
    assert torch.equal(model.expert_out(layer, some), every[some])
    assert (model.expert_bias(layer) is None) == (model.name not in OWN_FORMULA)


def test_edits_nest_and_captures_see_them() -> None:
    for model in (tiny("olmoe"), separate()):
        layer = 2
        with (
            model.capture_experts(layer) as before,
            model.edit_experts(layer, lambda x: x * 2),
            model.edit_experts(layer, lambda x: x + 1),
            model.capture_experts(layer) as after,
        ):
            nested = logits(model)
        with model.edit_experts(layer, lambda x: 2 * x + 1):
            assert close(nested, logits(model))
        assert torch.equal(after[layer], 2 * before[layer] + 1)
        with model.edit_routing(layer, lambda x: x / 2), model.capture_experts(layer) as halved:
            logits(model)
        assert close(halved[layer], before[layer] / 2)


def test_edits_without_effect_or_of_another_shape_are_refused() -> None:
    model = tiny("olmoe")
    with (
        pytest.raises(HarnessError, match=r"^an edit of the experts of layer 1 of olmoe had no effect"),
        model.edit_experts(1, lambda x: x),
    ):
        pass
    with (
        pytest.raises(HarnessError, match=r"^an edit of the routing of layer 1 returned shape \(2, 6, 7\)"),
        model.edit_routing(1, lambda x: x[..., 1:]),
    ):
        logits(model)
    with (
        pytest.raises(HarnessError, match=r"^nothing was captured: no forward pass ran through the router of layer 0"),
        model.capture_router_logits(0),
    ):
        pass


# --- routing --------------------------------------------------------------------------------------------------------


def without_expert(hf: Any, layer: int, expert: int) -> Any:
    """A copy in which an expert writes nothing."""
    copied = copy.deepcopy(hf)
    experts = copied.model.layers[layer].mlp.experts
    experts.down_proj[expert] = 0
    if hasattr(experts, "down_proj_bias"):
        experts.down_proj_bias[expert] = 0
    return copied


@pytest.mark.parametrize("family", ["olmoe", "gpt_oss", "deepseek_v3"])
def test_an_expert_that_is_removed_writes_nothing(family: str) -> None:
    model = tiny(family)
    with model.edit_routing(1, lambda weights: removed(weights, [3, 4])):
        found = logits(model)
    other = wrap(without_expert(without_expert(model.hf, 1, 3), 1, 4), tokenizer(), family)
    assert close(found, logits(other)) and not close(found, logits(model))


@pytest.mark.parametrize("make", [lambda: tiny("mixtral"), separate], ids=["fused", "separate"])
def test_weight_that_is_given_to_an_expert_runs_it(make: Any) -> None:
    model, layer = make(), 1
    with model.capture_expert_write(layer) as plain, model.capture_routing(layer) as weights:
        logits(model)
    one = torch.zeros(8)
    one[2] = 1.0
    # All weight to one expert, wherever tokens were routed: it writes as if it were alone.
    with (
        model.edit_routing(layer, lambda x: one.expand_as(x)),
        model.capture_experts(layer) as seen,
        model.capture_expert_write(layer) as alone,
    ):
        logits(model)
    assert bool((seen[layer].unflatten(-1, (8, -1))[..., [0, 1, *range(3, 8)], :] == 0).all())
    width = model.experts(layer).d_expert
    wanted = seen[layer][..., 2 * width : 3 * width].flatten(0, 1) @ model.expert_out(layer)[2 * width : 3 * width]
    assert close(alone[-1].view(wanted.shape), wanted)
    assert not close(alone[-1], plain[-1]) and bool((weights[layer] != 0).sum(-1).eq(2).all())


def test_the_router_decides_by_edited_logits(model: Model) -> None:
    layer = model.expert_layers[-1]
    with model.capture_router_logits(layer) as own, model.capture_routing(layer) as weights:
        logits(model)
    chosen = weights[layer].argmax(-1, keepdim=True)
    with model.edit_router_logits(layer, lambda x: x.scatter(-1, chosen, -1e4)), model.capture_routing(layer) as other:
        logits(model)
    assert own[layer].shape == (2, 6, 8)
    if model.name != "deepseek_v3":  # its biases choose groups of experts
        assert bool((other[layer].gather(-1, chosen) == 0).all())
    assert not close(other[layer], weights[layer])


WEIGHTS = st.lists(st.floats(0, 4, width=32), min_size=6, max_size=6)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(WEIGHTS, min_size=1, max_size=4), taken=st.sets(st.integers(0, 5), max_size=6))
@example(rows=[[1.0, 0.0, 0.0, 0.0, 0.0, 1.9618e-44]], taken={0})  # what is left is no normal number
def test_removing_and_redistributing(rows: list[list[float]], taken: set[int]) -> None:
    weights, experts = torch.tensor(rows), sorted(taken)
    without, moved = removed(weights, experts), redistributed(weights, experts)
    rest = [i for i in range(6) if i not in taken]
    assert torch.equal(without[:, rest], weights[:, rest])
    assert bool((without[:, experts] == 0).all()) and bool((moved[:, experts] == 0).all())
    assert bool((moved[:, rest][weights[:, rest] == 0] == 0).all())  # no token is routed anew
    some = without.sum(1) > 1e-30
    assert torch.allclose(moved.sum(1)[some], weights.sum(1)[some], rtol=1e-5)
    share = without[some] / without[some].sum(1, keepdim=True)
    assert torch.allclose(moved[some] / moved[some].sum(1, keepdim=True), share, atol=1e-5)
    assert bool((moved[without.sum(1) == 0] == 0).all())
    assert torch.equal(redistributed(weights, []), weights)


# --- experts that are modules of their own ---------------------------------------------------------------------------


def test_separate_experts_are_the_fused_ones() -> None:
    model, wanted, layer, seen = separate("qwen3_moe"), tiny("qwen3_moe"), 2, []
    assert isinstance(model.experts(layer), SeparateExperts) and isinstance(wanted.experts(layer), FusedExperts)
    for each in (model, wanted):
        with (
            each.edit_experts(1, change_by([3, 20], torch.tensor([1.0, -2.0]))),
            each.edit_routing(0, lambda weights: redistributed(weights, [0, 5])),
            each.edit_router_logits(2, lambda x: x.flip(-1)),
            each.capture_experts(layer) as neurons,
            each.capture_routing(layer) as routing,
            each.capture_router_logits(layer) as scores,
        ):
            seen.append((logits(each), neurons, routing, scores))
    for found, expected in zip(*seen, strict=True):
        both = (found, expected) if isinstance(found, torch.Tensor) else (found[layer], expected[layer])
        assert close(*both)
    assert torch.equal(model.expert_out(layer, [1, 40]), wanted.expert_out(layer, [1, 40]))
    assert not close(seen[0][0], logits(wanted))


def test_shared_experts_beside_separate_ones_are_dense_neurons() -> None:
    model = separate("deepseek_v2")
    assert model.anatomy.d_mlps == (48, 32, 32) and model.expert_layers == (1, 2)
    with (
        model.capture_experts(2) as seen,
        model.capture_routing(2) as routing,
        model.capture_neurons(2) as dense,
        model.capture_write(2) as shared,
        model.capture_expert_write(2) as whole,
    ):
        logits(model)
    experts = model.experts(2).output(seen[2].flatten(0, 1), routing[2].flatten(0, 1))
    both = experts + shared[-1].view(experts.shape)
    assert close(whole[-1].view(both.shape), both) and dense[2].shape == (2, 6, 32)


def test_inspection_and_provenance_name_the_experts() -> None:
    model = tiny("deepseek_v3")
    found = model.provenance()["experts"]
    assert found["layers"] == [1, 2] and (found["n_experts"], found["d_expert"], found["top_k"]) == (8, 16, 2)
    assert "experts" not in tiny("llama").provenance()
    assert re.fullmatch(r"\w+", str(found["implementation"]))


# --- places in a layer ------------------------------------------------------------------------------------------------


def test_the_input_and_output_of_an_mlp_of_experts(model: Model) -> None:
    """What the layer adds after its attention is what is said to leave its MLP, times a residual multiplier."""
    layer = model.expert_layers[-1]
    if model.name == "granitemoeshared":  # whose layer adds the two up itself
        with pytest.raises(HarnessError, match=r"^the output of layer 2's MLP of \w+ is nowhere to be read"):
            model.capture_place("mlp_out", layer).__enter__()
        return
    with (
        model.capture_place("mlp_in", layer) as read,
        model.capture_place("mlp_out", layer) as written,
        model.capture_place("attention_out", layer) as mixed,
        model.capture_place("residual_before", layer) as before,
        model.capture_place("residual_after", layer) as after,
    ):
        logits(model)
    parts = (mixed[layer] + written[layer]) * model.anatomy.residual_multiplier
    assert close(before[layer] + parts, after[layer]) and read[layer].shape == written[layer].shape
