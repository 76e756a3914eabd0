"""Circuits: each step edits its own selection at its own tokens, as hooks nested by hand do; controls are made step by
step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines import some_prompts
from families import tiny
from small_runs import Silent

from harness.builtin.circuits import CircuitIntervention, CircuitSelector
from harness.conditions.conditions import BASELINE, Condition, Selection
from harness.conditions.placed import where_all
from harness.conditions.units import Head, Neuron
from harness.controls.random import draw_controls
from harness.engine.batched import BatchedEngine
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.plugin.catalogue import catalogue
from harness.plugin.components import Intervention, Selector
from harness.plugin.specs import parse_spec
from harness.running import execute as run
from harness.running.spec import RunSpec

PARTS = (
    Selection((Neuron(2, 1), Neuron(2, 5)), "two neurons", pool=tuple(Neuron(2, i) for i in range(2, 40))),
    Selection((Head(1, 0),), "a head", pool=(Head(1, 1), Head(1, 2), Head(1, 3))),
)
BOTH = Selection(tuple(unit for part in PARTS for unit in part.units), "both", parts=PARTS)


def circuit(*steps: str) -> CircuitIntervention:
    made = catalogue().build(Intervention, parse_spec({"name": "circuit", "steps": list(steps)}, "it"), "it")
    assert isinstance(made, CircuitIntervention)
    return made


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "llama_gqa_tied"])
def test_steps_act_at_their_own_tokens_in_every_engine(family: str) -> None:
    model, prompts = tiny(family), some_prompts(0, n=4)
    made = circuit("zero:positions=last", "bos_attention:positions=0:2").prepare(BOTH)
    edits = made.edits(BOTH.units, None)
    condition = Condition("both", edits, units=BOTH.units)
    assert where_all(condition) is None

    def by_hand(tokens: list[int]) -> torch.Tensor:
        def neurons(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            x[:, -1, [1, 5]] = 0.0
            return x

        def heads(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            x[:, :2, 0] = x[:, :1, 0]
            return x

        with torch.no_grad(), model.edit_neurons(2, neurons), model.edit_heads(1, heads):
            logits = model.forward(model.pad([tokens]), logits_to_keep=0).logits
        return logits[0].double().log_softmax(-1)

    for engine in (HookEngine(model), BatchedEngine(model), ClosedFormEngine(model)):
        scores = engine.score(prompts, [BASELINE, condition])
        for i, tokens in enumerate(prompts):
            said = by_hand(list(tokens))
            loss = -said[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
            np.testing.assert_allclose(scores.loss[1, scores.prompt == i], loss.numpy(), atol=2e-5)


def test_controls_are_distinct_and_made_of_each_steps_own() -> None:
    drawn = draw_controls(tiny("gpt2"), BOTH, 99, None, "none", [], 8, seed=3)
    assert len(set(drawn.sets)) == 99
    for units in drawn.sets:
        assert {type(x) for x in units[:2]} == {Neuron} and isinstance(units[2], Head)
        assert units[2] in PARTS[1].pool  # type: ignore[operator]
    neurons = {units[:2] for units in drawn.sets}
    assert len(neurons) == 99, "of a step that has as many, every control has a set of its own"
    assert drawn == draw_controls(tiny("gpt2"), BOTH, 99, None, "none", [], 8, seed=3)
    narrow = replace(PARTS[0], pool=(Neuron(2, 2), Neuron(2, 3)))
    with pytest.raises(HarnessError, match=r"the steps have 5, 3 of their own: ask for at most 15"):
        draw_controls(tiny("gpt2"), replace(BOTH, parts=(narrow, PARTS[1])), 16, None, "none", [], 8, seed=3)


TWO = "circuit:steps=[random:top=2,heads:heads=L0H1]"
SAME = "circuit:steps=[neurons:neurons=1.3,neurons:neurons=1.3]"


@pytest.mark.parametrize(
    ("selector", "intervention", "says"),
    [
        ("circuit:steps=[random:top=2,random:top=3]", "mean", "chooses for 2 steps: take the intervention circuit"),
        ("random:top=2", "circuit:steps=[mean,zero]", "it has 2 steps, and the selector none"),
        (TWO, "circuit:steps=[mean,zero]", "step 2, zero, edits neurons, but its selector chose heads"),
        (SAME, "circuit:steps=[mean,zero]", "which step 1 chooses, too"),
        (TWO, "circuit:steps=[mean,bos_attention],positions=last", "positions is theirs"),
        ("circuit:steps=[random:top=2]", "circuit:steps=[mean,zero]", "at least 2 items"),
    ],
)
def test_what_does_not_go_together_is_said_before_a_prompt_is_made(
    selector: str, intervention: str, says: str, tmp_path: Path
) -> None:
    spec: dict[str, Any] = {"model": "demo", "task": "knowledge_conflict", "limit": 8, "controls": 3}
    with pytest.raises(HarnessError) as caught:
        planned = run.plan(RunSpec(name="x", selector=selector, intervention=intervention, **spec), catalogue())
        run.execute(planned, tmp_path, Silent(), "a test")
    assert says in str(caught.value)
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.slow
def test_a_run_of_a_circuit_says_what_each_step_does(tmp_path: Path) -> None:
    spec: dict[str, Any] = {"model": "demo", "task": "knowledge_conflict", "limit": 8, "controls": 3, "resamples": 100}
    selector = {"name": "circuit", "steps": ["random:top=2", "heads:heads=L1H0"]}
    steps = {"name": "circuit", "steps": ["mean", "bos_attention:positions=last"]}
    planned = run.plan(RunSpec(name="x", selector=selector, intervention=steps, **spec), catalogue())
    record = run.execute(planned, tmp_path, Silent(), "a test").record
    assert record.selection.unit == "unit" and record.selection.rule.startswith("step 1: 2 of the 512 neurons")
    assert record.selection.positions == "all positions; the last token of the prompt"
    assert record.engine == "batched" and len(record.controls.sets) == 3
    first, _, head = record.selection.neurons
    assert head.neuron == "L1H0" and first.to_dict()["set_to"] == first.to_dict()["activation_mean"]
    assert isinstance(planned.selector, Selector) and isinstance(planned.selector, CircuitSelector)
