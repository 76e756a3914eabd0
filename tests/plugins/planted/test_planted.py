"""Planted models: what is planted has the effect that is claimed, by hooked passes, and what misleads has none."""

from __future__ import annotations

import numpy as np
import pytest
from harness_plugins.planted import Planted, PlantedAnswer, PlantedTexts
from harness_plugins.planted.build import LEVELS, places

from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.plugin import BASELINE, Condition, Neuron, SetNeurons, border
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


def test_neurons_have_the_effect_that_is_planted(model):
    """One neuron at a time is set to 0, by hooked passes: the answers lose what was planted, and no more."""
    engine, task, where = HookEngine(model), PlantedAnswer(prompts=64), places(1, 3)
    prompts = task.prepare(engine, None, 0).prompts
    misleading = [*where.loud, *where.silent]
    units = [*where.answer, *misleading]
    conditions = [Condition(f"{at}", (SetNeurons(at[0], (at[1],), (0.0,)),)) for at in units]
    log_p = task.observe(engine, prompts, [BASELINE, *conditions])["log_p"]
    loss = dict(zip(units, (log_p[0] - log_p[1:]).mean(1), strict=True))
    by_level = np.array([np.mean([loss[x] for x, s in where.answer.items() if s == level]) for level in LEVELS])
    # d log p / d (logits of all answers) is the probability of anything but an answer: between 0 and 1.
    factor = by_level / np.array(LEVELS)
    assert factor.min() > 0.2 and factor.max() < 1
    assert factor == pytest.approx(factor.mean(), rel=0.15)
    assert max(abs(loss[x]) for x in misleading) < 0.02 * by_level.min()


def test_what_is_planted_is_drawn_by_the_seed():
    first, second = border.planted(Planted(seed=1)), border.planted(Planted(seed=2))
    assert sorted(first.values()) == sorted(np.repeat(LEVELS, 3)) == sorted(second.values())
    assert first.keys() != second.keys() and first == border.planted(Planted(seed=1))
    assert all(0 <= Neuron.parse(name).layer < 4 for name in first)
