"""An intervention where activations lie in a range: elementwise, as hooks written by hand do, in every engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engines import some_prompts
from families import tiny
from hypothesis import given
from hypothesis import strategies as st

from harness.builtin.within import Within
from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.conditions.neuron_edits import RangedNeurons
from harness.conditions.units import Neuron
from harness.engine.activation_summaries import activation_statistics
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.plugin.catalogue import catalogue
from harness.plugin.components import Intervention
from harness.plugin.specs import parse_spec
from harness.testing import check_intervention


def within(**params: Any) -> Within:
    made = catalogue().build(Intervention, parse_spec({"name": "within", **params}, "it"), "it")
    assert isinstance(made, Within)
    return made


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=20), st.floats(-2, 2), st.floats(-2, 2))
def test_only_activations_inside_are_edited(values: list[float], low: float, high: float) -> None:
    x = torch.tensor(values)[:, None]
    found = RangedNeurons(SetNeurons(0, (0,), (9.0,)), (low,), (high,)).apply(x)
    inside = (x > torch.tensor(low)) & (x < torch.tensor(high))
    assert torch.equal(found, torch.where(inside, 9.0, x))


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_engines_agree_with_a_hook_written_by_hand(family: str, layer: int) -> None:
    model, prompts = tiny(family), some_prompts(0, n=6)
    units = (Neuron(layer, 3), Neuron(layer, 7))
    statistics = activation_statistics(model, prompts, [layer], 8, 0)
    edits = within(of="mean", where="q20 < activation < q80").edits(units, statistics)
    condition = Condition("some", edits, units=units)
    sample = statistics.sample[layer][:, [3, 7]].astype(float)
    low, high = (torch.tensor(np.quantile(sample, q, axis=0), dtype=torch.float32) for q in (0.2, 0.8))
    mean = torch.tensor([statistics.mean[layer][i] for i in (3, 7)], dtype=torch.float32)
    changed = []

    def hand(x: torch.Tensor) -> torch.Tensor:
        x, own = x.clone(), x[..., [3, 7]]
        inside = (own > low) & (own < high)
        changed.append(float(inside.float().mean()))
        x[..., [3, 7]] = torch.where(inside, mean, own)
        return x

    found = [engine(model).score(prompts, [BASELINE, condition]) for engine in (HookEngine, ClosedFormEngine)]
    for i, tokens in enumerate(prompts):
        with torch.no_grad(), model.edit_neurons(layer, hand):
            said = model.forward(model.pad([list(tokens)]), logits_to_keep=0).logits[0].double().log_softmax(-1)
        loss = -said[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].numpy()
        for scores in found:
            np.testing.assert_allclose(scores.loss[1, scores.prompt == i], loss, atol=2e-5)
    assert 0.3 < np.mean(changed) < 0.9


def test_bounds_are_numbers_quantiles_and_distances_from_the_mean() -> None:
    model, prompts = tiny("gpt2"), some_prompts(0, n=6)
    statistics, unit = activation_statistics(model, prompts, [2], 8, 0), Neuron(2, 3)
    mean, sd = (statistics.value(name, [unit])[0] for name in ("mean", "std"))
    for where, ends in (
        ("activation>0", (0.0, np.inf)),
        ("activation<-0.5", (-np.inf, -0.5)),
        ("activation>mean+2sd", (mean + 2 * sd, np.inf)),
        ("mean-1.5sd<activation", (mean - 1.5 * sd, np.inf)),
        ("mean<activation<1", (mean, 1.0)),
    ):
        [edit] = within(of="zero", where=where).edits((unit,), statistics)
        assert isinstance(edit, RangedNeurons)
        np.testing.assert_allclose((edit.low[0], edit.high[0]), ends)


@pytest.mark.parametrize("where", ["activation", "activation>q100.5.1", "x>0", "q5<activation>q9", "activation>=0", ""])
def test_what_is_no_range_is_refused(where: str) -> None:
    with pytest.raises(HarnessError, match="expected a range such as activation>q99"):
        within(of="zero", where=where)


def test_what_it_cannot_wrap_is_refused_with_the_model() -> None:
    for of, says in (
        ("bos_attention", "bos_attention edits heads"),
        ("zero:positions=last", "positions are for within"),
    ):
        with pytest.raises(HarnessError, match=says):
            within(of=of, where="activation>0").check(tiny("gpt2"))


def test_it_keeps_the_promises_of_an_intervention() -> None:
    check_intervention(Within, of="mean", where="activation>mean")
    check_intervention(Within, of="scale:factor=2", where="activation>q50")


@pytest.mark.parametrize("where", ["q95<activation<q5", "2<activation<1", "mean+2sd<activation<mean"])
def test_a_range_that_holds_nothing_is_refused(where: str) -> None:
    with pytest.raises(HarnessError, match="expected a lower bound below the upper one"):
        within(of="zero", where=where)
    assert "q99" not in Within.summary()  # no example in the place of what was done
