"""The task that validates attributions: its prompts and targets, what it observes, and that value neurons matter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from harness_plugins.knowledge_attribution.task import TargetProbability, TargetProbabilityMetric
from pydantic import ValidationError
from roles import conditions
from small_runs import finish, measures, record

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.model.model import Model
from harness.model.tokens import first_token
from harness.plugin import ModelLoader
from harness.plugin.catalogue import catalogue
from harness.plugin.records import Outcomes, Prompt
from harness.plugin.specs import ComponentSpec, parse_spec
from harness.results.folder import RunFolder


@pytest.fixture(scope="module")
def model() -> Model:
    loaded: Model = catalogue().build(ModelLoader, ComponentSpec("demo", {}), "--model").load()  # type: ignore[attr-defined]
    return loaded


def task(facts: Path, **params: object) -> TargetProbability:
    return TargetProbability.model_validate({"data": str(facts), "holdout": 0, **params})


@torch.no_grad()
def log_probs(model: Model, prompt: Prompt) -> torch.Tensor:
    """Of the next token, one prompt at a time."""
    return model.hf(input_ids=torch.tensor([prompt.tokens])).logits[0, -1].double().log_softmax(-1)


def changed(small_facts: Path, folder: Path, n: int) -> Path:
    """The facts, the first ``n`` of them with an object that the model does not know of."""
    rows = [json.loads(line) for line in small_facts.read_text(encoding="utf-8").splitlines()]
    rows = [row | {"object": "xyzzy"} if i < n else row for i, row in enumerate(rows)]
    path = folder / "changed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_targets_are_the_models_own_and_known_facts_are_those_it_begins_to_say(
    model: Model, small_facts: Path, tmp_path: Path
) -> None:
    engine, facts = HookEngine(model), changed(small_facts, tmp_path, 25)
    every = task(facts, known=False).prepare(engine, None, 0)
    known = task(facts).prepare(engine, None, 0)
    assert len(every.prompts) == 70 and 0 < len(known.prompts) <= 45
    for prompt in every.prompts:
        assert prompt.fields["target"] == int(log_probs(model, prompt).argmax())
        assert model.token_texts[prompt.fields["target"]] == prompt.fields["target_text"]
    begun = [x for x in every.prompts if first_token(model, x.text, x.fields["object"]) == x.fields["target"]]
    assert [x.id for x in known.prompts] == [x.id for x in begun]
    assert [(step.name, step.kept, step.dropped) for step in known.steps] == [
        ("facts", 70, 0),
        ("known", len(begun), 70 - len(begun)),
    ]
    few = task(facts, known=False).prepare(engine, 5, 0)
    assert len(few.prompts) == 5 and few.steps[1].name == "limit"


def test_facts_that_are_held_out_are_seen_by_the_selector_and_not_evaluated(
    model: Model, small_facts: Path, tmp_path: Path
) -> None:
    engine = HookEngine(model)
    every = task(small_facts).prepare(engine, None, 0)
    for share, n in ((0.5, round(len(every.prompts) / 2)), (0.2, round(len(every.prompts) / 5)), (0.99, None)):
        split = task(small_facts, holdout=share).prepare(engine, None, 0)
        assert len(split.held_out) == (len(every.prompts) - 1 if n is None else n)
        assert {x.id for x in split.prompts} | {x.id for x in split.held_out} == {x.id for x in every.prompts}
        assert not {x.id for x in split.prompts} & {x.id for x in split.held_out}
        assert (split.steps[-1].kept, split.steps[-1].dropped) == (len(split.prompts), len(split.held_out))
    half = task(small_facts, holdout=0.5).prepare(engine, None, 0)
    counts = [{x.fields["relation"]: 0 for x in every.prompts} for _ in range(2)]
    for found, prompts in zip(counts, (half.prompts, half.held_out), strict=True):
        for prompt in prompts:
            found[prompt.fields["relation"]] += 1
    assert all(abs(counts[0][name] - counts[1][name]) <= 1 for name in counts[0])  # spread evenly
    folder = RunFolder(tmp_path / "run")
    folder.open(fresh=True)
    folder.save_prepared(half)
    assert folder.load_prepared() == half  # a run that is continued selects on the same prompts


def test_copies_of_a_prompt_are_on_one_side_of_the_holdout(model: Model, small_facts: Path) -> None:
    engine = HookEngine(model)
    split = task(small_facts, template="{example}", known=False, holdout=0.5).prepare(engine, None, 0)
    assert split.held_out and not {x.text for x in split.prompts} & {x.text for x in split.held_out}
    one = task(small_facts, template="The answer is", known=False, holdout=0.5).prepare(engine, None, 0)
    assert len(one.prompts) == 70 and not one.held_out


def test_the_template_is_the_users(model: Model, small_facts: Path) -> None:
    prepared = task(small_facts, template="{query}", known=False).prepare(HookEngine(model), 3, 0)
    assert "\n" not in prepared.prompts[0].text and prepared.prompts[0].fields["subject"] in prepared.prompts[0].text
    with pytest.raises(ValidationError, match=r"(?s)template.*no \"wrong\".*There are: query, description, example"):
        task(small_facts, template="{wrong}")


def test_it_observes_the_target_under_every_condition(model: Model, small_facts: Path) -> None:
    engine, asked = HookEngine(model, batch_size=4), task(small_facts)
    prompts = asked.prepare(engine, None, 0).prompts[:6]
    treated = Condition("treated", (SetNeurons(2, tuple(range(500)), (0.0,) * 500),))
    outcomes = asked.observe(engine, prompts, [BASELINE, treated])

    def zero(activations: torch.Tensor) -> torch.Tensor:
        activations = activations.clone()
        activations[..., :500] = 0
        return activations

    for i, prompt in enumerate(prompts):
        before = log_probs(model, prompt)
        with model.edit_neurons(2, zero):
            after = log_probs(model, prompt)
        target = prompt.fields["target"]
        for row, found in enumerate((before, after)):
            np.testing.assert_allclose(outcomes["log_p"][row, i], float(found[target]), atol=1e-5)
            np.testing.assert_allclose(outcomes["entropy"][row, i], float(-(found.exp() * found).sum()), atol=1e-5)
            assert outcomes["kept"][row, i] == (int(found.argmax()) == target)
            assert outcomes.answers[row][i] == model.token_texts[int(found.argmax())]
            np.testing.assert_allclose(outcomes["confidence"][row, i], float(found.max().exp()), atol=1e-5)
            assert outcomes["tokens"][row, i] and outcomes["right"][row, i] == (
                found.argmax() == prompt.fields["begins"]
            )
    assert outcomes["kept"][0].all() and (outcomes["log_p"][1] != outcomes["log_p"][0]).all()


def test_measures_by_hand() -> None:
    p = np.array([[0.5, 0.25], [0.25, 0.25], [0.5, 0.125]])
    outcomes = Outcomes(
        conditions=conditions(1),
        prompts=(Prompt("a", "a", (1,), "a"), Prompt("b", "b", (1,), "b")),
        values={
            "log_p": np.log(p),
            "kept": np.array([[True, True], [False, True], [True, True]]),
            "entropy": np.array([[1.0, 2.0], [1.5, 2.0], [0.0, 2.0]]),
        },
    )
    found = {measure.name: measure for measure in TargetProbabilityMetric().measure(outcomes).measures}
    np.testing.assert_allclose(found["log_prob_change"].values, [0, -np.log(2) / 2, -np.log(2) / 2])  # type: ignore[union-attr]
    np.testing.assert_allclose(found["probability_lost"].values, [0, 100 / 3, 100 / 6])  # type: ignore[union-attr]
    np.testing.assert_allclose(found["prediction_lost"].values, [0, 50, 0])  # type: ignore[union-attr]
    np.testing.assert_allclose(found["entropy_change"].values, [0, 0.25, -0.5])  # type: ignore[union-attr]


def test_a_model_that_knows_none_of_the_facts_is_refused(model: Model, tmp_path: Path, small_facts: Path) -> None:
    with pytest.raises(HarnessError, match="knows none of the 70 facts; take other facts, or known=false"):
        task(changed(small_facts, tmp_path, 70)).prepare(HookEngine(model), None, 0)


@pytest.mark.parametrize("corpus", ["", ",corpus={name: world, size: 300}"])
def test_ablating_value_neurons_costs_more_than_ablating_random_ones(
    tmp_path: Path, small_facts: Path, corpus: str
) -> None:
    """Whether they were found on the task's own prompts or on other texts."""
    folder = finish(
        tmp_path,
        model=parse_spec("demo", "model"),
        task=parse_spec(f"target_probability:data={small_facts}", "task"),
        selector=parse_spec(f"value_neurons:top=10{corpus}", "selector"),
        intervention=parse_spec("zero", "intervention"),
        controls=20,
    )
    found = measures(folder)
    assert found["log_prob_change"]["value"] < found["log_prob_change"]["controls"]["min"]
    assert found["probability_lost"]["value"] > found["probability_lost"]["controls"]["max"]
    selection = record(folder)["selection"]
    assert len(selection["details"]["tokens"]) == 10 and ("corpus world" in selection["rule"]) == bool(corpus)
    assert ("prompts that are held out for selectors" in selection["rule"]) == (not corpus)


def test_ablating_query_neurons_of_value_neurons_costs_more_than_ablating_random_ones(
    tmp_path: Path, small_facts: Path
) -> None:
    folder = finish(
        tmp_path,
        model=parse_spec("demo", "model"),
        task=parse_spec(f"target_probability:data={small_facts}", "task"),
        selector=parse_spec("query_neurons:of=neurons,prompts=20", "selector"),
        intervention=parse_spec("zero", "intervention"),
        controls=20,
    )
    found = measures(folder)
    assert found["log_prob_change"]["value"] < found["log_prob_change"]["controls"]["min"]
    assert found["probability_lost"]["value"] > found["probability_lost"]["controls"]["max"]
