"""Selectors that read write directions, on mixtures of experts, and a whole run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from families import tiny, tiny_hf, tokenizer
from harness_plugins.confidence_regulation.selectors.entropy import Entropy
from harness_plugins.confidence_regulation.selectors.token_frequency import TokenFrequency
from harness_plugins.experts.units import ExpertNeuron
from harness_plugins.knowledge_attribution.analysis.last_position import mlp_writes, run_prompts
from harness_plugins.knowledge_attribution.selectors.value import ValueNeurons

from harness import evaluate
from harness.model.model import Model
from harness.model.wrapping import wrap
from harness.plugin import HarnessError
from harness.testing import check_selector

PLANTED = {f"E2.{expert}.{neuron}" for expert in range(8) for neuron in range(2)}


def planted() -> Model:
    """An OLMoE of which neurons 0 and 1 of each expert of the last layer write where no token is read from."""
    hf = tiny_hf("olmoe")
    with torch.no_grad():
        hf.lm_head.weight[:, 0] = 0
        for matrix in hf.model.layers[-1].mlp.experts.down_proj:
            matrix[:, :2] = 0
            matrix[0, :2] = 3.0
    hf.config.max_position_embeddings = 256
    return wrap(hf, tokenizer(), "planted")


@pytest.mark.parametrize("rule", ["stolfo2024", "tighidet2025", "confirmed"])
def test_entropy_neurons_of_experts_are_found(rule: str) -> None:
    chosen = check_selector(Entropy, on=planted(), top=4, rule=rule)
    assert {str(unit) for unit in chosen.units} <= PLANTED
    assert len(chosen.candidates) == 8 * 48 and chosen.units[0].site == "expert_neurons"


def test_layers_of_different_neurons_are_not_chosen_among_together() -> None:
    with pytest.raises(HarnessError, match=r"^selector entropy: layers 0 to 2 of deepseek_v3 have different neurons"):
        Entropy(rule="stolfo2024", layers="all").check(tiny("deepseek_v3"))
    with pytest.raises(HarnessError, match=r"^selector value_neurons: some of the layers of deepseek_v3 have routed"):
        ValueNeurons(top=3).check(tiny("deepseek_v3"))


def test_token_frequency_neurons_of_experts() -> None:
    hf = tiny_hf("olmoe")
    hf.config.max_position_embeddings = 256
    model = wrap(hf, tokenizer(), "olmoe")
    chosen = check_selector(TokenFrequency, on=model, top=3, corpus="prose", sequences=2, length=16)
    assert all(isinstance(unit, ExpertNeuron) and unit.layer == 2 for unit in chosen.units)


@pytest.mark.parametrize("family", ["olmoe", "gpt_oss", "qwen2_moe", "flex_olmo", "granitemoe"])
def test_an_mlp_of_experts_adds_up(family: str) -> None:
    """The residual stream without what the MLP wrote is what its layer's attention left."""
    model, prompts = tiny(family), [[5, 80, 21, 7], [44, 9]]
    states, layer = run_prompts(model, prompts), 2
    with model.capture_place("attention_out", layer) as mixed, model.capture_place("residual_before", layer) as before:
        model.forward(model.pad(prompts))
    wanted = before[layer][:, -1] + mixed[layer][:, -1] * model.anatomy.residual_multiplier
    writes = mlp_writes(model, states, layer)
    torch.testing.assert_close(writes.residual, wanted, atol=1e-5, rtol=1e-4)
    if family in ("olmoe", "flex_olmo", "granitemoe"):  # no bias, and nothing beside the experts
        total = writes.activations @ writes.directions
        torch.testing.assert_close(writes.residual + total, states.after[layer], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("evaluate", ["all", "top"])
def test_value_neurons_of_experts(evaluate: str) -> None:
    chosen = check_selector(ValueNeurons, on=tiny("olmoe"), top=3, evaluate=evaluate)
    assert len(chosen.candidates) == 3 * 8 * 48 and all(isinstance(unit, ExpertNeuron) for unit in chosen.units)
    assert np.isfinite(chosen.scores["inner_product"]).all()


@pytest.mark.parametrize(
    ("selector", "intervention"),
    [("entropy:top=3", "mean"), ("units:units=[E2.7, E1.6]", "expert_ablation:weight=redistribute")],
)
def test_a_run(selector: str, intervention: str, tmp_path: Path, blank_figures: None) -> None:
    model = planted()
    model.hf.save_pretrained(tmp_path / "olmoe")
    tokenizer().save_pretrained(tmp_path / "olmoe")
    options = {"task": "knowledge_conflict:known=any", "limit": 60, "controls": 19, "output_path": tmp_path / "out"}
    run = evaluate(model=str(tmp_path / "olmoe"), selector=selector, intervention=intervention, **options)  # type: ignore[arg-type]
    record = run.record
    assert record.controls.details.among == "of experts that tokens of the prompts are routed to"
    assert record.identity.model.experts is not None and record.identity.model.experts.layers == [0, 1, 2]
    assert record.engine == ("closed_form" if intervention == "mean" else "batched")
    assert "8 experts of 48 neurons, 2 for each token" in (run.path / "report.html").read_text(encoding="utf-8")
