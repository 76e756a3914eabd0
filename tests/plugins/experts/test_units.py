"""Neurons of experts and whole experts: names, what controls are drawn among, closed form, and taking experts away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from engines import same_generations, same_scores, some_prompts
from families import tiny
from harness_plugins.experts.ablation import ExpertAblation, TakeExperts
from harness_plugins.experts.units import EXPERTS, NEURONS_OF_EXPERTS, Expert, ExpertNeuron, routing_mass
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.conditions.neuron_edits import ScaleNeurons
from harness.controls.random import draw_controls
from harness.engine.batched import BatchedEngine
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.final_layer import fits
from harness.engine.hooks import HookEngine
from harness.model.model import Model
from harness.plugin import BASELINE, Condition, HarnessError, Selection, SetNeurons, by_layer, mlp_site
from harness.testing import check_intervention, check_unit

FAMILIES = ("olmoe", "deepseek_v3", "gpt_oss", "flex_olmo", "granitemoe", "phimoe")


@pytest.mark.parametrize("family", FAMILIES)
def test_both_kinds_keep_the_promises_of_units(family: str) -> None:
    model = tiny(family)
    assert check_unit(ExpertNeuron, on=model) == NEURONS_OF_EXPERTS
    assert check_unit(Expert, on=model) == EXPERTS


@given(layer=st.integers(0, 99), expert=st.integers(0, 255), neuron=st.integers(0, 9999), width=st.integers(1, 10000))
def test_names_say_layer_expert_and_neuron(layer: int, expert: int, neuron: int, width: int) -> None:
    neuron %= width
    unit = ExpertNeuron(layer, expert * width + neuron, width)
    assert str(unit) == f"E{layer}.{expert}.{neuron}" and unit.place == {
        "layer": layer, "expert": expert, "index": neuron,
    }  # fmt: skip
    again = ExpertNeuron.parse(str(unit))
    assert again == unit and hash(again) == hash(unit) and str(again) == str(unit)
    assert Expert.written.fullmatch(str(unit)) is None and ExpertNeuron.written.fullmatch("E3.7") is None


def test_a_name_becomes_a_unit_of_the_model() -> None:
    model = tiny("olmoe")
    assert ExpertNeuron.parse("E2.3.5").of(model).index == 3 * 48 + 5
    for name in ("E2.8.0", "E2.0.48"):
        with pytest.raises(
            HarnessError, match=r"^there is no expert neuron E2\.\d\.\d+ in olmoe: layer 2 has 8 experts"
        ):
            ExpertNeuron.parse(name).of(model)
    with pytest.raises(HarnessError, match=r"^layer 0 of deepseek_v3 has no routed experts"):
        ExpertNeuron.parse("E0.1.1").of(tiny("deepseek_v3"))


def some_conditions(model: Model, seed: int, n: int = 4) -> list[Condition]:
    rng, layer = np.random.default_rng(seed), model.anatomy.n_layers - 1
    found = [BASELINE]
    for i in range(n):
        some = tuple(map(int, rng.choice(NEURONS_OF_EXPERTS.count(model, layer), 5, replace=False)))
        held = SetNeurons(layer, some, tuple(rng.normal(scale=2, size=5).tolist()), NEURONS_OF_EXPERTS)
        found.append(Condition(f"c{i}", (held if i % 2 else ScaleNeurons(layer, some, -3.0, NEURONS_OF_EXPERTS),)))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_has_a_closed_form(family: str) -> None:
    model, prompts = tiny(family), some_prompts(1, n=4)
    conditions = some_conditions(model, 2)
    assert fits(model, conditions)
    same_scores(ClosedFormEngine(model).score(prompts, conditions), HookEngine(model).score(prompts, conditions))
    same_generations(
        ClosedFormEngine(model).generate(prompts, conditions, 3), HookEngine(model).generate(prompts, conditions, 3)
    )


def test_half_precision_agrees_with_hooks() -> None:
    model, prompts = tiny("olmoe", torch.bfloat16), some_prompts(3, n=3)
    conditions = some_conditions(model, 4, n=2)
    found, wanted = (engine(model).score(prompts, conditions) for engine in (ClosedFormEngine, HookEngine))
    np.testing.assert_allclose(found.loss, wanted.loss, atol=0.15)


def test_a_gated_shared_expert_has_no_closed_form_and_its_experts_have() -> None:
    model = tiny("qwen2_moe")
    dense = [Condition("dense", (SetNeurons(2, (3,), (1.0,)),))]
    assert not fits(model, dense) and fits(model, some_conditions(model, 0))
    prompts = some_prompts(5, n=3)
    same_scores(ClosedFormEngine(model).score(prompts, dense), HookEngine(model).score(prompts, dense))


# --- experts taken away ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", ["remove", "redistribute"])
def test_expert_ablation_keeps_the_promises_of_interventions(weight: str) -> None:
    check_intervention(ExpertAblation, on=tiny("olmoe"), weight=weight)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), taken=st.sets(st.integers(0, 7), min_size=1, max_size=7))
def test_what_is_removed_is_missing_and_what_is_redistributed_is_not(seed: int, taken: set[int]) -> None:
    logits = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(seed))
    top = logits.topk(3)
    weights = torch.zeros_like(logits).scatter(-1, top.indices, top.values.softmax(-1))
    some = tuple(sorted(taken))
    without, moved = (TakeExperts(1, some, how).apply(weights) for how in ("remove", "redistribute"))  # type: ignore[arg-type]
    mine = weights[..., list(some)].sum(-1)
    assert torch.allclose(without.sum(-1) + mine, torch.ones(3, 4), atol=1e-6)
    left = without.sum(-1) > 0
    assert torch.allclose(moved.sum(-1)[left], torch.ones(int(left.sum())), atol=1e-6)
    assert torch.equal(moved[mine == 0], weights[mine == 0])


@pytest.mark.parametrize("weight", ["remove", "redistribute"])
def test_engines_agree_on_experts_taken_away(weight: str) -> None:
    model, prompts = tiny("olmoe"), some_prompts(6, n=4)
    edits = [TakeExperts(layer, (layer, 5), weight) for layer in (0, 2)]  # type: ignore[arg-type]
    conditions = [BASELINE, Condition("both", tuple(edits)), Condition("one", (edits[1],))]
    wanted = HookEngine(model).score(prompts, conditions)
    same_scores(BatchedEngine(model).score(prompts, conditions), wanted)
    assert not np.allclose(wanted.loss[1], wanted.loss[0])


# --- controls -------------------------------------------------------------------------------------------------------


def test_controls_are_drawn_among_experts_that_tokens_are_routed_to() -> None:
    model, prompts = tiny("olmoe"), some_prompts(7, n=3, longest=2)
    mass = routing_mass(model, [2], prompts, 8)[2]
    dead = np.flatnonzero(mass == 0)
    assert 0 < len(dead) < 6  # few tokens, so that some expert has none
    chosen = Selection(tuple(ExpertNeuron(2, i, 48) for i in np.flatnonzero(mass > 0)[:1] * 48 + [3, 5]), "two of them")
    controls = draw_controls(model, chosen, 50, None, "none", prompts, 8, seed=0)
    drawn = {unit.name[1] for units in controls.sets for unit in units}
    assert not drawn & set(dead.tolist())
    assert controls.details["among"] == "of experts that tokens of the prompts are routed to"
    assert controls.details["candidates"] == (8 - len(dead)) * 48 - len(chosen.units)
    experts = replace(chosen, units=(Expert(2, int(np.argmax(mass))),))
    alone = draw_controls(model, experts, 7 - len(dead), None, "none", prompts, 8, seed=0)
    assert {units[0].index for units in alone.sets} == set(np.flatnonzero(mass > 0).tolist()) - {int(np.argmax(mass))}


@pytest.mark.parametrize("match", ["norm", "routing", "reach"])
def test_controls_are_like_the_selected_neurons(match: str) -> None:
    model, prompts = tiny("olmoe"), some_prompts(8, n=8)
    values = NEURONS_OF_EXPERTS.matching(model, [2], match, prompts, 8)[2]
    top = np.argsort(-values)[:3].tolist()
    chosen = Selection(tuple(ExpertNeuron(2, i, 48) for i in top), "the largest")
    controls = draw_controls(model, chosen, 20, None, match, prompts, 8, seed=0)
    theirs = np.mean([values[by_layer(units)[2]].mean() for units in controls.sets])
    assert abs(theirs - values[top].mean()) < abs(values.mean() - values[top].mean())
    with pytest.raises(HarnessError, match=r"^controls of experts need prompts"):
        draw_controls(model, chosen, 20, None, match, [], 8, seed=0)


def test_selectors_are_told_where_the_neurons_of_an_mlp_are() -> None:
    from harness.plugin import NEURONS

    model = tiny("deepseek_v3")
    assert mlp_site(model, 0) == NEURONS and mlp_site(model, 2) == NEURONS_OF_EXPERTS
    assert mlp_site(tiny("llama"), 0) == NEURONS
