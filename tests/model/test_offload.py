"""Layers that `device_map` leaves on disk or on the CPU: the same numbers come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from families import tiny, tiny_hf, tokenizer

from harness.conditions.conditions import Condition
from harness.conditions.head_edits import AttendFirst
from harness.engine.batched import BatchedEngine
from harness.engine.hooks import HookEngine
from harness.engine.prefix import can_resume
from harness.model.model import Model
from harness.model.wrapping import wrap


@pytest.fixture(params=["gpt2", "llama", "falcon"])
def whole(request: pytest.FixtureRequest) -> Model:
    return tiny(request.param)


@pytest.fixture(params=["cpu", "disk"])
def offloaded(request: pytest.FixtureRequest, whole: Model, tmp_path: Path) -> Model:
    accelerate = pytest.importorskip("accelerate")
    hf = tiny_hf(whole.name)
    if request.param == "disk":
        accelerate.disk_offload(hf, tmp_path, execution_device=torch.device("cpu"))
    else:
        accelerate.cpu_offload(hf, execution_device=torch.device("cpu"))
    assert all(weight.is_meta for weight in hf.parameters())
    return wrap(hf, tokenizer(), whole.name)


def test_weights_are_read(offloaded: Model, whole: Model) -> None:
    assert torch.equal(offloaded.w_out(1), whole.w_out(1))
    assert torch.equal(offloaded.readout.W_U, whole.readout.W_U)
    assert torch.equal(offloaded.readout.gain, whole.readout.gain)
    assert offloaded.weights_digest == whole.weights_digest


def test_edits_are_honoured(offloaded: Model, whole: Model) -> None:
    outputs = []
    for model in (offloaded, whole):
        with model.edit_neurons(1, lambda x: x * 2), model.capture_residual() as captured:
            logits = model.forward(model.pad([[1, 2, 3], [4, 5]]), logits_to_keep=0).logits
        assert torch.allclose(model.readout.logits(captured.residual), logits, atol=1e-5)
        outputs.append(logits)
    assert torch.allclose(*outputs, atol=1e-6)


def test_layers_that_are_skipped_are_put_back(offloaded: Model, whole: Model) -> None:
    """accelerate has its own forward() on every layer; batched passes skip layers, and leave them as they were."""
    prompts, conditions = [[1, 2, 3], [4, 5]], [Condition("c", (AttendFirst(2, (0, 1)),))] * 2
    forwards = [layer.forward for layer in offloaded.anatomy.layers]
    for _ in range(2):
        found = BatchedEngine(offloaded).generate(prompts, conditions, 3)
        np.testing.assert_array_equal(found.tokens, HookEngine(whole).generate(prompts, conditions, 3).tokens)
    assert [layer.forward for layer in offloaded.anatomy.layers] == forwards
    assert can_resume(offloaded, 2, cache=True)
