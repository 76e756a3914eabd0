"""The task and the metric of direct feature attribution: pairs of sequences, outcomes, which components are tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harness_plugins.confidence_regulation.tasks.direct_feature_attribution import (
    Attributions,
    DirectFeatureAttribution,
    _bars,
    component_names,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from roles import conditions
from slow_dfa import NEOX, slowly

from harness.conditions.conditions import BASELINE, Condition, Selection
from harness.conditions.units import Head, Neuron
from harness.engine.closed_form import ClosedFormEngine
from harness.errors import HarnessError
from harness.model.model import Model
from harness.plugin.catalogue import catalogue
from harness.plugin.records import Outcomes, Prompt


@pytest.fixture(scope="module")
def demo() -> Model:
    return catalogue().components["model"]["demo"]().load()  # type: ignore[attr-defined,no-any-return]


# -- the task ----------------------------------------------------------------------------------------------------------


def test_pairs_share_the_second_half_only(demo: Model) -> None:
    prepared = DirectFeatureAttribution(corpus="world", length=12).prepare(ClosedFormEngine(demo), 5, seed=3)  # type: ignore[arg-type,call-arg]
    assert len(prepared.prompts) == 5 and prepared.details["input_weights"] == "of the MLP"
    for prompt in prepared.prompts:
        first, second = prompt.tokens[:12], prompt.tokens[12:]
        assert first == second and prompt.fields["split"] == 12
        assert tuple(prompt.fields["corrupted"][12:]) == second
        assert tuple(prompt.fields["corrupted"][:12]) != first
    again = DirectFeatureAttribution(corpus="world", length=12).prepare(ClosedFormEngine(demo), 5, seed=3)  # type: ignore[arg-type,call-arg]
    assert again == prepared
    spans = [(*x.tokens[:12], *x.fields["corrupted"][:12]) for x in prepared.prompts]
    assert len(set(spans)) == 5


def test_spans_are_cut_to_the_positions_of_the_model(demo: Model) -> None:
    prepared = DirectFeatureAttribution(corpus="world", length=200).prepare(ClosedFormEngine(demo), 2, seed=0)  # type: ignore[arg-type,call-arg]
    assert len(prepared.prompts[0].tokens) == 256
    assert any("128 tokens" in step.why and "200 were asked for" in step.why for step in prepared.steps)


def test_outcomes_are_means_over_neurons_and_the_second_half(demo: Model) -> None:
    engine = ClosedFormEngine(demo, batch_size=2)
    task = DirectFeatureAttribution(corpus="world", length=5)  # type: ignore[arg-type,call-arg]
    prompts = task.prepare(engine, 3, seed=0).prompts
    neurons = (Neuron(3, 8), Neuron(1, 2))
    conditions = [BASELINE, Condition("treated", units=neurons), *(Condition("alone", units=(x,)) for x in neurons)]
    found = task.observe(engine, prompts, conditions)
    assert set(component_names(found.values)) == {
        "embedding", "attention biases", *(f"L{i}H{h}" for i in range(4) for h in range(4)), "MLP 0", "MLP 1", "MLP 2"
    }  # fmt: skip
    for name, values in found.values.items():
        assert not values[0].any()
        np.testing.assert_allclose(values[1], values[2:].mean(0), rtol=1e-4, atol=1e-6, err_msg=name)
    assert not found["induction L2H0"][3].any(), "what comes after a neuron does not contribute to it"
    for row, neuron in ((2, neurons[0]), (3, neurons[1])):
        for kind, ids in (("induction", prompts[1].tokens), ("corrupted", prompts[1].fields["corrupted"])):
            slow = slowly(demo, NEOX, neuron.layer, neuron.index, list(ids))[5:]
            for name in slow[0]:
                wanted = np.mean([position[name] for position in slow])
                assert found[f"{kind} {name}"][row, 1] == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_heads_are_refused(demo: Model) -> None:
    with pytest.raises(HarnessError, match="the task dfa attributes the input of neurons, but heads were selected"):
        DirectFeatureAttribution(corpus="world").alone(Selection((Head(1, 1),), rule=""), demo)  # type: ignore[arg-type,call-arg]


# -- the metric --------------------------------------------------------------------------------------------------------


def made(n_components: int, n_controls: int = 4, seed: int = 0) -> Outcomes:
    rng = np.random.default_rng(seed)
    shape = (2 + n_controls, 6)
    names = [f"{kind} L0H{i}" for i in range(n_components) for kind in ("induction", "corrupted")]
    names += [f"{kind} {x}" for x in ("pre-activation", "activation") for kind in ("induction", "corrupted")]
    values = {name: rng.standard_normal(shape).astype(np.float32) for name in names}
    for array in values.values():
        array[0] = 0
    prompts = tuple(Prompt(str(i), "", (1, 2), str(i)) for i in range(6))
    return Outcomes(conditions(n_controls), prompts, values, selection=Selection((Neuron(0, 1),), rule=""))


def primary(outcomes: Outcomes, family: int = 3) -> set[str]:
    return {x.name for x in Attributions(family=family).measure(outcomes).measures if x.primary}


def test_measures_are_the_paired_differences() -> None:
    outcomes = made(2)
    [first, *_] = Attributions().measure(outcomes).measures
    assert first.name == "dfa_L0H0" and first.primary
    wanted = (outcomes["induction L0H0"].astype(float) - outcomes["corrupted L0H0"]).mean(1)
    np.testing.assert_allclose(first.values, wanted, rtol=1e-6)


@settings(max_examples=30)
@given(st.integers(0, 2**16), st.integers(0, 3))
def test_the_tested_components_do_not_know_which_set_is_selected(seed: int, control: int) -> None:
    outcomes = made(8, seed=seed)
    order = np.arange(6)
    order[[1, 2 + control]] = order[[2 + control, 1]]
    exchanged = replace(outcomes, values={name: array[order] for name, array in outcomes.values.items()})
    assert primary(outcomes) == primary(exchanged)
    assert len(primary(outcomes)) == 3
    assert len(primary(outcomes, family=8)) == 8


def test_the_largest_components_are_tested() -> None:
    outcomes = made(6)
    outcomes.values["induction L0H4"][3] += 100  # type: ignore[index]
    assert "dfa_L0H4" in primary(outcomes, family=1)
    assert "1 of 6 components are tested" in Attributions(family=1).measure(outcomes).remarks[0]


def test_components_are_in_the_order_of_the_model() -> None:
    names = ["MLP 10", "L10H0", "L2H11", "attention biases", "MLP 2", "embedding", "L2H2"]
    values = {f"induction {x}": np.zeros(1) for x in (*names, "activation", "pre-activation")}
    ordered = ["embedding", "attention biases", "L2H2", "L2H11", "L10H0", "MLP 2", "MLP 10"]
    assert component_names(values) == ordered


@pytest.mark.filterwarnings("error")
def test_error_bars_of_few_sequences_are_students() -> None:
    values = np.array([1.0, 2.0, 4.0, 5.0])
    names = [f"{kind} {x}" for kind in ("induction", "corrupted") for x in ("L0H0", "activation")]
    outcomes = dict.fromkeys(names, values)
    data = _bars(["L0H0"], outcomes, "1.2").data
    half = 3.182446305 * np.std([1, 2, 4, 5], ddof=1) / 2  # the normal's 1.96 covers 85% of the time with 4 sequences
    assert (data["induction_ci_low"][0], data["induction_ci_high"][0]) == pytest.approx((3 - half, 3 + half))
    alone = _bars(["L0H0"], {name: x[:1] for name, x in outcomes.items()}, "1.2").data
    assert (
        alone["induction"][0] == 1.0 and np.isnan([alone["induction_ci_low"][0], alone["induction_ci_high"][0]]).all()
    )


def test_a_run(harness: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    flags = ["--task", "dfa:length=10,sequences=12", "--selector", "neurons:neurons=[3.1,3.9]", "--controls", "5"]
    records = []
    for name in ("a", "b"):
        code, out, err = harness("eval", *flags, "--output_path", tmp_path / name, "--json", "--quiet")
        assert code == 0, err
        records.append(json.loads(out))
    folders = [next(path for path in (tmp_path / x).iterdir() if path.is_dir()) for x in ("a", "b")]
    for name in ("outcomes.safetensors", "result.json", "tables/dfa.csv", "figures/dfa-selection.svg"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    measures = {row["name"]: row for row in records[0]["measures"]}
    parts = [row["value"] for name, row in measures.items() if row["primary"]]
    assert len(parts) == 21
    # The biases of the norm and of the input weights cancel between induction and corrupted sequences.
    assert sum(parts) == pytest.approx(measures["dfa_pre_activation"]["value"], abs=1e-4)
    header = (folders[0] / "tables" / "dfa.csv").read_text().splitlines()[0]
    assert header.endswith("controls_mean,controls_sd,3.1,3.9")
