"""What is left of a change beyond temperature: nothing of a pure norm neuron, the right amount of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import planted as garden
import pytest
import torch
from families import tiny, tokenizer
from planted import ENTROPY, FREQUENCY, planted
from roles import conditions
from small_runs import finish, measures, record, table

from harness.builtin.temperature import Temperature
from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import under
from harness.model.model import Model
from harness.plugin.records import Outcomes, Prompt

LAYER, CHOICES = 1, (7, 40)


def conditions_of(size: float, *sets: tuple[int, ...]) -> list[Condition]:
    edits = [SetNeurons(LAYER, neurons, (size,) * len(neurons)) for neurons in sets]
    return [BASELINE, *(Condition(f"c{i}", (edit,)) for i, edit in enumerate(edits))]


def last_logits(model: Model, tokens: list[int], condition: Condition) -> torch.Tensor:
    """Logits after the last token, float64 [V], from one hooked pass."""
    with torch.no_grad(), under(model, condition):
        return model.forward(model.pad([tokens]), logits_to_keep=1).logits[0, -1].double()


def entropy(logits: torch.Tensor) -> float:
    log_p = logits.log_softmax(-1)
    return float(-(log_p.exp() * log_p).sum())


def beyond(model: Model, tokens: list[int], condition: Condition) -> float:
    """What is left of the shift of the log-odds of two tokens, by bisection over all logits."""
    before, after = (last_logits(model, tokens, x) for x in (BASELINE, condition))
    wanted, low, high = entropy(after), 1 / 64, 64.0
    for _ in range(80):
        beta = np.sqrt(low * high)
        low, high = (beta, high) if entropy(beta * before) > wanted else (low, beta)
    first, second = CHOICES
    return float((after[first] - after[second]) - beta * (before[first] - before[second]))


def left(model: Model, prompts: list[list[int]], sets: list[Condition]) -> np.ndarray:
    """The same for all conditions and prompts, as tasks have it."""
    made = ClosedFormEngine(model).generate(prompts, sets, 1, choices=[CHOICES] * len(prompts), tempered=True)
    assert made.tempered is not None
    equal = made.tempered.at_entropy(made.entropy, made.entropy[0])
    odds = made.choices[..., 0] - made.choices[..., 1]
    tempered = np.subtract(*equal.log_p(made.choices[0].T))
    return odds - tempered


def test_nothing_is_left_of_a_neuron_that_only_moves_the_norm() -> None:
    """Behind an RMSNorm without biases it scales all logits."""
    model = planted("llama").model()
    prompts = [tokenizer()(text)["input_ids"][:20] for text in garden.texts()[:6]]
    found = left(model, prompts, conditions_of(2.0, ENTROPY, ENTROPY[:1]))
    made = ClosedFormEngine(model).generate(prompts, conditions_of(2.0, ENTROPY), 1, choices=[CHOICES] * 6)
    shift = np.abs((made.choices[1] - made.choices[0]) @ [1, -1])
    assert shift.max() > 0.5
    np.testing.assert_allclose(found, 0, atol=2e-5)


def test_what_is_left_of_others_is_what_bisection_leaves() -> None:
    for model in (planted("llama").model(), planted("gpt2").model(), tiny("llama_gqa_tied"), tiny("gemma2")):
        layer = model.anatomy.n_layers - 1
        sets = [BASELINE, *(Condition(str(i), (SetNeurons(layer, (i, i + 3), (2.0, -1.0)),)) for i in (3, 11))]
        prompts = [[5, 9, 30, 12], [40, 7], [100, 3, 3, 90, 21]]
        found = left(model, prompts, sets)
        expected = [[beyond(model, tokens, x) for tokens in prompts] for x in sets[1:]]
        np.testing.assert_allclose(found[0], 0, atol=1e-9)
        np.testing.assert_allclose(found[1:], expected, atol=2e-4)
        assert np.abs(expected).max() > 1e-3


def by_hand() -> Outcomes:
    """Three prompts, of which the last does not count, under the untouched and treated model and one control."""
    prompts = tuple(Prompt(f"p{i}", "", (1,), f"p{i}") for i in range(3))
    nan = np.nan
    values = {
        "odds": [[1.0, -2.0, nan], [1.5, -4.0, nan], [1.0, -2.0, nan]],
        "tempered_odds": [[1.0, -2.0, nan], [1.25, -3.0, nan], [1.0, -2.0, nan]],
        "log_temperature": [[0.0, 0.0, 0.0], [-0.2, -0.4, 0.0], [0.0, 0.0, 0.0]],
    }
    arrays = {name: np.array(value) for name, value in values.items()}
    return Outcomes(
        conditions=conditions(1),
        prompts=prompts,
        values={**arrays, "no_temperature": np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], bool)},
        details={"tempered": [{"outcome": "odds", "title": "the odds", "unit": "nats"}]},
    )


def test_the_parts_of_a_change_by_hand() -> None:
    found = Temperature().measure(by_hand())
    values = {x.name: x.values for x in found.measures}
    np.testing.assert_allclose(values["odds_tempered"], [0, (0.25 - 1.0) / 2, 0])
    np.testing.assert_allclose(values["odds_beyond"], [0, (0.25 - 1.0) / 2, 0])
    np.testing.assert_allclose(values["odds_explained"], [np.nan, 1 - (0.0625 + 1) / (0.25 + 4), np.nan])
    np.testing.assert_allclose(values["log_temperature"], [0, -0.2, 0])
    assert [x.name for x in found.measures if x.primary] == ["odds_beyond"]
    assert {name: list(column) for name, column in found.frames[0].columns.items()} == {
        "quantity": ["the odds"],
        "change": [-0.75],
        "at_equal_entropy": [-0.375],
        "beyond": [-0.375],
        "control_change": [0.0],
        "control_beyond": [0.0],
        "unit": ["nats"],
    }
    assert any("in 1 of 3 prompts no temperature" in remark for remark in found.remarks)


def test_a_run_tells_confidence_from_more(tmp_path: Path) -> None:
    """Neurons that only move the norm, and neurons that write along the token frequencies."""
    grown = planted("llama")
    model, corpus = grown.save(tmp_path / "model"), garden.write_corpus(tmp_path)
    task = f"mediation:sequences=12,length=40,others=0,corpus={corpus}"
    told = {}
    for name, neurons in (("entropy", ENTROPY), ("frequency", FREQUENCY)):
        chosen = ",".join(f"1.{i}" for i in neurons)
        run = finish(tmp_path, model=model, task=task, selector=f"neurons:neurons=[{chosen}]", intervention="zero",
                     controls=39)  # fmt: skip
        found = measures(run)
        told[name] = found["loss_beyond"]["verdict_sentence"]
        [row] = next(frame["rows"] for frame in record(run)["frames"] if frame["name"] == "temperature")
        assert row["change"] == pytest.approx(row["at_equal_entropy"] + row["beyond"], rel=1e-6)
        assert row["change"] == pytest.approx(found["loss_change"]["value"], rel=1e-5)
        assert any("every temperature" in remark for remark in record(run)["remarks"])
        alone = dict(zip(*(table(run, "neurons")[x] for x in ("neuron", "loss_beyond")), strict=True))
        largest = max(abs(alone[f"1.{i}"]) for i in neurons)
        assert largest < 1e-5 if name == "entropy" else largest > 1e-3
        if name == "entropy":
            assert abs(found["loss_tempered"]["value"]) > 1e-3
            assert abs(found["loss_beyond"]["value"]) < 1e-5
            assert found["loss_explained"]["value"] == pytest.approx(1, abs=1e-5)
            assert abs(found["ece_beyond"]["value"]) < 1e-4 and abs(found["brier_beyond"]["value"]) < 1e-5
    assert "Beyond confidence" not in told["entropy"]
    assert "Beyond confidence" in told["frequency"]
