"""Half precision: the same parts are found, edits are made in the model's dtype, padding changes little."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, SHAPES, tiny

from harness.model.model import Model

DTYPES = {torch.bfloat16: 2**-5, torch.float16: 2**-8}
"""Tolerances relative to the largest logit: several roundings of 2^-8 and 2^-11."""

SAMPLE = ("gpt2", "gpt_neox", "opt", "falcon", "llama", "gemma2", "olmo2", "phi", "cohere", "granite")
PROMPTS = ("The capital of France is", "a")


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


@pytest.fixture(scope="module", params=SAMPLE)
def model(request: pytest.FixtureRequest, dtype: torch.dtype) -> Model:
    return tiny(request.param, dtype)


@pytest.mark.parametrize("family", SHAPES)
def test_every_family_is_understood_in_half_precision(family: str, dtype: torch.dtype) -> None:
    model, spec = tiny(family, dtype), FAMILIES[family]
    assert model.dtype == dtype
    assert model.readout.norm == spec.norm
    assert model.anatomy.parallel == spec.parallel
    assert model.anatomy.direct_write == spec.direct_write


def test_scales_are_those_of_full_precision(model: Model) -> None:
    full = tiny(model.name)
    assert (model.readout.scale, model.readout.cap) == (full.readout.scale, full.readout.cap)
    assert model.readout.eps == pytest.approx(full.readout.eps, rel=0.01)
    assert model.anatomy.residual_multiplier == full.anatomy.residual_multiplier


def test_edits_are_made_in_the_models_dtype(model: Model, dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    def edit(activations: torch.Tensor) -> torch.Tensor:
        seen.append(activations.dtype)
        edited = activations.float()
        edited[..., 3] = 1.5
        return edited

    last = model.anatomy.n_layers - 1
    batch = model.pad(model.encode(PROMPTS))
    with model.edit_neurons(last, edit), model.capture_neurons(last) as neurons:
        logits = model.forward(batch).logits
    assert seen == [dtype]
    assert neurons[last].dtype == dtype and logits.dtype == torch.float32
    assert (neurons[last][..., 3] == 1.5).all()


def test_numbers_for_analysis_are_float32(model: Model) -> None:
    assert model.w_out(0).dtype == torch.float32
    assert model.readout.gain.dtype == torch.float32
    bias = model.down_bias(0)
    assert bias is None or bias.dtype == torch.float32


def test_the_readout_gives_the_models_logits_bit_by_bit(model: Model, dtype: torch.dtype) -> None:
    """Its own as they are, rounded; and in float32 those that engines work with."""
    batch = model.pad(model.encode(PROMPTS))
    with model.capture_residual() as captured:
        own = model.hf(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    assert own.dtype == dtype and torch.equal(model.readout.logits(captured.residual), own)
    with model.capture_residual() as captured:
        logits = model.forward(batch, logits_to_keep=0).logits
    formula = model.readout.logits(captured.residual, model.readout.denominator(captured.residual))
    assert torch.equal(formula, logits)
    own = model.readout.logits(captured.residual).float()
    assert (logits - own).abs().max() < DTYPES[dtype] * own.abs().max()
    for keep in (1, 2):
        kept = model.forward(batch, logits_to_keep=keep).logits
        torch.testing.assert_close(kept, logits[:, -keep:], rtol=1e-5, atol=1e-5)


def test_left_padding_changes_little(model: Model, dtype: torch.dtype) -> None:
    sequences = model.encode(PROMPTS)
    logits = model.forward(model.pad(sequences)).logits[:, -1].float()
    for row, ids in enumerate(sequences):
        alone = model.hf(input_ids=torch.tensor([ids])).logits[0, -1].float()
        assert (logits[row] - alone).abs().max() < DTYPES[dtype] * alone.abs().max()
