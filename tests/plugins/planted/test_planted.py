"""Planted models: what is planted has the effect that is claimed, by hooked passes, and what misleads has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from harness_plugins.planted import Planted, PlantedAnswer, PlantedTexts
from harness_plugins.planted.build import LEVELS, places

from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.plugin import BASELINE, AttendFirst, Condition, Head, Neuron, SetHeads, SetNeurons, border
from harness.testing import check_corpus, check_model_loader, check_task, demo_model


@pytest.fixture(scope="module")
def model():
    return check_model_loader(Planted, seed=1)


def test_the_texts_and_the_task_keep_their_promises(model):
    assert all(not set("ABCDEFGH") & set(text) for text in check_corpus(PlantedTexts))
    check_task(PlantedAnswer, on=model, prompts=12)


def test_the_task_is_for_planted_models_alone():
    with pytest.raises(HarnessError, match=r"planted_answer: demo is no planted model; take --model planted:seed=1"):
        PlantedAnswer().check(demo_model())


def _losses(model, units, edit):
    """What the answers' log-probability loses by each edit, in nats, by hooked passes."""
    engine, task = HookEngine(model), PlantedAnswer(prompts=64)
    conditions = [Condition(f"{at}", (edit(*at),)) for at in units]
    log_p = task.observe(engine, task.prepare(engine, None, 0).prompts, [BASELINE, *conditions])["log_p"]
    return dict(zip(units, (log_p[0] - log_p[1:]).mean(1), strict=True))


@pytest.mark.parametrize(
    ("units", "edit"),
    [
        ("neurons", lambda layer, i: SetNeurons(layer, (i,), (0.0,))),
        ("heads", lambda layer, i: SetHeads(layer, (i,), ((0.0,) * 4,))),
        ("heads", lambda layer, i: AttendFirst(layer, (i,))),
    ],
)
def test_units_have_the_effect_that_is_planted(model, units, edit):
    """One unit at a time is taken away, by hooked passes: the answers lose what was planted, and no more."""
    where = places(1, 3, units)
    misleading = [*where.loud, *where.silent]
    loss = _losses(
        model if units == "neurons" else Planted(seed=1, units=units).load(), [*where.answer, *misleading], edit
    )
    by_level = np.array([np.mean([loss[x] for x, s in where.answer.items() if s == level]) for level in LEVELS])
    # d log p / d (logits of all answers) is the probability of anything but an answer: between 0 and 1.
    factor = by_level / np.array(LEVELS)
    assert factor.min() > 0.2 and factor.max() < 1
    assert factor == pytest.approx(factor.mean(), rel=0.15)
    assert max(abs(loss[x]) for x in misleading) < 0.02 * by_level.min()


def test_loud_heads_are_louder_than_those_that_answer():
    model, where = Planted(seed=1, units="heads").load(), places(1, 3, "heads")
    prompts = PlantedAnswer(prompts=8).prepare(HookEngine(model), None, 0).prompts
    with torch.no_grad(), model.capture_heads(range(4)) as heads:
        model.hf(torch.tensor([prompts[0].tokens]))
    size = {at: float(heads[at[0]].view(-1, 16, 4)[-1, at[1]].norm()) for at in (*where.answer, *where.loud)}
    assert min(size[x] for x in where.loud) > 3 * max(size[x] for x in where.answer)


def test_what_is_planted_is_drawn_by_the_seed():
    first, second = border.planted(Planted(seed=1)), border.planted(Planted(seed=2))
    assert sorted(first.values()) == sorted(np.repeat(LEVELS, 3)) == sorted(second.values())
    assert first.keys() != second.keys() and first == border.planted(Planted(seed=1))
    assert all(0 <= Neuron.parse(name).layer < 4 for name in first)
    heads = border.planted(Planted(seed=1, units="heads"))
    assert sorted(heads.values()) == sorted(first.values()) and all(Head.parse(name).index < 16 for name in heads)


def test_what_is_planted_is_part_of_the_identity_where_it_is_not_neurons():
    assert "units" not in Planted(seed=1).identity()["params"]
    assert Planted(seed=1, units="heads").identity()["params"]["units"] == "heads"
    with pytest.raises(ValueError, match="units=heads goes with strong up to 8"):
        Planted(units="heads", strong=9)
