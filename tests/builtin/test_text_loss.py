"""Plain text under conditions: the loss is that of the model's own logits."""

from __future__ import annotations

import pytest
import torch
from harness_plugins.planted import Planted, PlantedTexts

from harness.builtin.text_loss import TextLoss, TextLossMetric
from harness.engine import ClosedFormEngine
from harness.plugin import BASELINE, Condition, SetNeurons
from harness.testing import check_metric, check_task


def test_the_loss_of_a_token_is_the_models_own():
    model, task = Planted(seed=1).load(), TextLoss(corpus=PlantedTexts(), sequences=3, length=12)
    outcomes = check_task(TextLoss, on=model, corpus=PlantedTexts(), sequences=3, length=12)
    check_metric(TextLossMetric, outcomes)
    engine = ClosedFormEngine(model)
    prompts = task.prepare(engine, None, 0).prompts
    zero = Condition("zero", (SetNeurons(1, (3, 5), (0.0, 0.0)),))
    found = task.observe(engine, prompts, [BASELINE, zero])
    for i, prompt in enumerate(prompts):
        batch = model.pad([prompt.tokens])
        with torch.no_grad(), model.edit_neurons(1, lambda a: a.index_fill(2, torch.tensor([3, 5]), 0.0)):
            log_p = model.forward(batch, logits_to_keep=0).logits[0].log_softmax(-1)
        loss = -log_p[:-1].gather(-1, batch.input_ids[0, 1:, None]).sum()
        assert found["loss"][1, i] == pytest.approx(float(loss), abs=1e-4)
        assert found["tokens"][1, i] == len(prompt.tokens) - 1
    change = TextLossMetric().measure(found).measures[0]
    own = (found["loss"][1] - found["loss"][0]).sum() / found["tokens"][1].sum()
    assert change.values[1] == pytest.approx(own)
